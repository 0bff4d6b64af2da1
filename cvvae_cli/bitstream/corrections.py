"""`correction-1`: what single frames lack when all else is done (FORMAT.md, "correction-1").

A group of frames is decoded as one picture, which is moved to where each of its frames shows it. What moves
otherwise, or comes out from behind something, is wrong there, in few places and by much. So cosines are added
to blocks of single frames, last of all; nothing is remembered of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cvvae_cli.bitstream.cosines import (
    COLOURS,
    Added,
    CosineCoder,
    CosineTables,
    Steps,
    planned,
    turned,
)
from cvvae_cli.bitstream.detail import LARGEST_PIXEL, step_of
from cvvae_cli.bitstream.residuals import Plan, Step
from cvvae_cli.types import Correction

TABLES = CosineTables(
    spreads=np.array(
        [
            [
                [(105, 134), (105, 134), (105, 134), (105, 134), (105, 134), (105, 134)],
                [(167, 209), (138, 206), (120, 197), (87, 174), (68, 132), (61, 90)],
                [(218, 212), (167, 225), (134, 228), (106, 221), (84, 187), (86, 148)],
                [(252, 196), (213, 241), (144, 248), (90, 243), (75, 222), (85, 223)],
            ],
            [
                [(33, 166), (23, 166), (6, 166), (4, 152), (5, 142), (6, 117)],
                [(141, 151), (136, 191), (111, 219), (80, 225), (44, 223), (39, 184)],
                [(250, 197), (226, 244), (197, 237), (112, 249), (60, 233), (60, 233)],
                [(250, 197), (226, 244), (197, 237), (112, 249), (60, 233), (60, 233)],
            ],
        ]
    ),
    lengths=np.array(
        [
            [49, 345, 439, 570, 693, 904, 591, 351, 100, 18, 6, 6, 6, 6, 6, 6],
            [3722, 109, 111, 70, 17, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6],
            [3858, 73, 72, 20, 7, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6],
        ]
    ),
    densities=np.array([0, 1, 2, 4, 7, 12, 20, 36, 64, 112, 184, 288, 432, 608, 816, 1024]),
    stated=np.array([180, 18, 8, 8, 5, 4, 3, 3, 3, 4, 5, 5, 3, 3, 2, 2]),
)
COARSER = 4  # than the steps of detail, which serves many frames: a correction serves one


class CorrectionCoder(CosineCoder):
    """Codes corrections of one quality level, those of some frames at a time."""

    name = "correction-1"

    def __init__(self, level: int) -> None:
        super().__init__(TABLES, COARSER * step_of(level))
        self.level = level

    def encode(self, frames: Iterable[Added]) -> bytes:
        """What is added to each of some frames; no bytes if nothing is."""
        steps: list[Step] = []
        is_any = False
        for added in frames:
            rows, columns = added.changed.shape
            planned(self.frame(rows, columns, added), steps)
            is_any |= bool(added.changed.any())
        return self.pack(Plan(np.empty(0), steps)) if is_any else b""

    def decode(self, data: bytes, frames: range, rows: int, columns: int) -> dict[int, Correction] | None:
        """Of frames of so many blocks, by their numbers; None without bytes. Raises CorruptFileError."""
        if not data:
            return None
        coder = self.reader(data)
        added = (self.decoded(self.frame(rows, columns, None), coder) for _ in frames)
        return dict(zip(frames, map(self.correction, added), strict=True))

    def frame(self, rows: int, columns: int, wanted: Added | None) -> Steps[Added]:
        """The steps of a frame; they end with what is added to it."""
        changed = yield from self.changed_blocks(rows, columns, None if wanted is None else wanted.changed)
        cosines = yield from self.cosines(int(changed.sum()), None if wanted is None else wanted.cosines)
        return Added(changed, cosines)

    def correction(self, added: Added) -> Correction:
        """What that comes to in colours."""
        colours = np.rint(turned(self.pixels(added.cosines), COLOURS.T))
        return Correction(added.changed, colours.clip(-LARGEST_PIXEL, LARGEST_PIXEL).astype(np.int16))
