"""cvvae: neural video compression. Video files become latents in .cvl files, and come back.

    video  →  frames  →  latents  →  bitstream  →  file
    video/    types      models/     bitstream/    container/
                         engine/
                         flow/

`codec` joins the rooms; `cli` is the command; `metrics` measures; `train` makes weights. Imports point
downward only. The names below load their rooms, and torch, when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

PUBLIC = {
    "encode_file": "cvvae_cli.codec",
    "decode_file": "cvvae_cli.codec",
    "EncodeOptions": "cvvae_cli.options",
    "DecodeOptions": "cvvae_cli.options",
    "OutputOptions": "cvvae_cli.video.writer",
    "Engine": "cvvae_cli.engine.stream",
    "load_engine": "cvvae_cli.engine.load",
    "open_source": "cvvae_cli.video.reader",
    "CvlReader": "cvvae_cli.container.reader",
    "CvlWriter": "cvvae_cli.container.writer",
    "CvvaeError": "cvvae_cli.errors",
}
__all__ = sorted(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
