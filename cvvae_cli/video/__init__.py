"""Video files to frames and back, through PyAV (FFmpeg's libraries)."""
