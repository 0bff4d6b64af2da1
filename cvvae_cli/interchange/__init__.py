"""Latents to and from other people's files: safetensors, npz, and the cache of musubi-tuner."""
