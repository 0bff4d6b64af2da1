"""What an encoder makes of what frames lack in the end: which blocks are corrected, and how."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from cvvae_cli.bitstream.corrections import CorrectionCoder
from cvvae_cli.bitstream.cosine_choice import price_of, worth_adding
from cvvae_cli.bitstream.cosines import COLOURS, SIDE, Added, in_blocks, turned

LEAST_CORRECTED = 50  # level; below it corrections save less than a hundredth of the bits
CHANGE_BITS = 8.0  # about what it takes to say which block is changed


class MayCorrect(Protocol):
    """A coder of latents or of symbols."""

    @property
    def takes_corrections(self) -> bool: ...


def is_corrected(coder: MayCorrect, level: int | None) -> bool:
    """Whether frames of a level are corrected by an encoder."""
    return coder.takes_corrections and level is not None and level >= LEAST_CORRECTED


def encode_left(coder: CorrectionCoder, left: Iterable[np.ndarray]) -> bytes:
    """Bytes of the corrections of consecutive frames, each of which lacks float32 (3, H, W) levels of 255."""
    return coder.encode(corrected(coder, picture) for picture in left)


def corrected(coder: CorrectionCoder, picture: np.ndarray) -> Added:
    """What is worth adding to a frame that lacks a picture; its last blocks go on as its edge."""
    padding = [(0, 0), *((0, -length % SIDE) for length in picture.shape[1:])]
    blocks = in_blocks(turned(np.pad(picture, padding, mode="edge")[None], COLOURS)[0])
    known, frames = np.zeros_like(blocks), np.ones(blocks.shape[:2])
    return worth_adding(coder, price_of(coder.level), blocks, known, frames, CHANGE_BITS).added
