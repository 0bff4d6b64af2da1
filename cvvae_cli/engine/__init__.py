"""Run a model over a video of any length and size in bounded memory."""
