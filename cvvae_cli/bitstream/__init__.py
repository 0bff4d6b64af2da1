"""Latents to the bytes of one chunk and back: rounding, integer prediction, entropy coding."""
