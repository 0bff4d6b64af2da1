"""Frames to latents and back: mathematics only. No device, file, print or tile in this folder."""
