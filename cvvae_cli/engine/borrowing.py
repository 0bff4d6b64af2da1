"""What the groups of a chunk borrow of those beside them, while it is encoded (flow/borrow.py)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.flow.align import in_groups, in_videos
from cvvae_cli.flow.borrow import borrow
from cvvae_cli.flow.field import GROUP, LAST, OTHERS, REFERENCE
from cvvae_cli.types import Borrowed


class Borrowing:
    """Of a chunk, whose groups come in order. The last of them knows none after it."""

    def __init__(self, worthless: float, count: int, before: Tensor | None) -> None:
        """`count` groups; `before` is the frame (3, H, W) before the first, if there is one."""
        self.found: Borrowed = {}
        self.worthless = worthless
        self.count = count
        self._before = before
        self._number = 0  # of the group that comes next

    def __call__(self, video: Tensor, after: Tensor | None) -> Tensor:
        """The next groups (1, 3, 4n, H, W), and the frame after them → the same without what they borrow."""
        groups = in_groups(video)
        number, self._number = self._number, self._number + len(groups)
        real = groups[: self.count - number]  # others fill the last of a video
        if not len(real):
            return video
        is_last = self._number >= self.count
        left, found = borrow(real, self._before, None if is_last else after, self.worthless)
        self.found |= {(number + group, part): vectors for (group, part), vectors in found.items()}
        self._before = None if (len(real) - 1, LAST) in found else real[-1, :, GROUP - 1].clone()
        if not found:
            return video
        return in_videos(torch.cat([left, groups[len(left) :]]), len(video))

    def rest(self, video: Tensor, fields: np.ndarray) -> None:
        """Of the groups given last, aligned, and their fields (n, 3, 2, rows, columns): in what they borrow
        nothing moves, whatever alignment made of it. In place."""
        first = self._number - len(fields)
        for number, part in self.found:
            if number >= first:
                at = GROUP * (number - first)
                fields[number - first, part] = 0
                video[:, :, at + OTHERS[part]] = video[:, :, at + REFERENCE]
