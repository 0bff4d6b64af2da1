"""Motion inside a group of frames: how it is found, and how pictures follow it."""
