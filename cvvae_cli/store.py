"""Where weights lie: those that ship with the program, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

WEIGHTS_FOLDERS = (
    Path(__file__).parent.parent / "weights",  # a checkout
    Path(__file__).parent / "weights",  # an installed wheel
)


def shipped(name: str) -> Path | None:
    """The file of that name that came with the program, or None."""
    return next((folder / name for folder in WEIGHTS_FOLDERS if (folder / name).is_file()), None)


def user_weights_folder() -> Path:
    """What a user imported or pulled: $CVVAE_WEIGHTS, $XDG_DATA_HOME/cvvae/weights, ~/.local/share/..."""
    if chosen := os.environ.get("CVVAE_WEIGHTS"):
        return Path(chosen)
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "cvvae" / "weights"


def cache_folder() -> Path:
    """What may be removed at any time: $CVVAE_CACHE, $XDG_CACHE_HOME/cvvae or ~/.cache/cvvae."""
    if chosen := os.environ.get("CVVAE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cvvae"
