"""Latents with what is known of them, as they lie in somebody's file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvvae_cli.container.header import Header, parse_header
from cvvae_cli.errors import CorruptFileError, UnreadableSourceError


@dataclass(frozen=True)
class LatentClip:
    """The latents of a foreign file: their bits (C, t, h, w), and what the file says of them."""

    words: np.ndarray
    dtype: str
    pts: np.ndarray | None
    header: Header | None
    scaled: bool
    said: dict[str, str]  # width, height, frame_count


def header_text(header: Header) -> str:
    return json.dumps(header.to_json(), sort_keys=True)


def parsed(source: Path, text: str) -> Header | None:
    if not text:
        return None
    try:
        return parse_header(json.loads(text))
    except (ValueError, RecursionError, AttributeError, TypeError):
        raise CorruptFileError(f"the header inside {source} is damaged") from None


def without_batch(source: Path, words: np.ndarray) -> np.ndarray:
    words = words[0] if words.ndim == 5 and words.shape[0] == 1 else words
    if words.ndim != 4:
        raise UnreadableSourceError(f"the latents of {source} have {words.ndim} axes, not (C, t, h, w)")
    return words
