"""How content moves from the reference of a group to its other frames: least squares, then trials.

Every vector follows the pixels around it and its neighbours (Lucas and Kanade, 1981): from coarse pictures to
fine ones, each step solves for what is left to move. Smooth as that is, it drags what rests along with what
moves beside it. So each vector then tries others, rest and those of its neighbours among them, and takes the
one that explains its pixels for the fewest bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.flow.field import LARGEST, OTHERS, SPACING, UNIT, dense, field_size, moved

STEPS = {16: 4, 8: 4, 4: 4, 2: 2}  # at each scale, pixels of a pyramid's pixel, coarse to fine
FINEST = min(STEPS)
ROUNDS = 6  # in which neighbours settle with each other
STIFFNESS = 400.0  # weight of the neighbours, in squared slopes: levels of 255 per pixel
WIDE = 8  # from this scale on, a vector sees farther
STEEPEST = 0.9  # change of a vector from place to place, in spacings: at 1, content would fold over
SMOOTHINGS = 30
TRIAL_SCALE = 2  # pixels of a pixel in trials
PARTS = TRIAL_SCALE * UNIT  # steps of a vector in such a pixel
PART_BITS = PARTS.bit_length() - 1
TRIALS = 3  # of every vector
VISIBLE = 60.0  # squared levels: errors far below are none
SMOOTHNESS, STEADINESS = 0.3, 0.3  # of a doubled difference, in halvings of an error


def estimate(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where in `source` the content of `target` lies, both brightness in [0, 255], (N, 3, H, W).

    They are the reference of a group, three times, and its other frames. Vectors in pixels (N, 3, 2, rows,
    columns), and what an error of theirs costs around each (N, 3, 3, rows, columns): mean squares of slopes
    down and right, and of their product, in squared levels.
    """
    groups, (h, w) = len(source), source.shape[2:]
    both = torch.stack([source.flatten(0, 1), target.flatten(0, 1)], 1)
    both = functional.pad(both, (0, -w % SPACING, 0, -h % SPACING), mode="replicate")
    vectors = source.new_zeros(len(both), 2, *field_size(h, w))
    reduced = pyramid(both)
    for scale, steps in STEPS.items():
        vectors, products = least_squares(reduced[scale], vectors, scale, steps)
    matching = Matching(*reduced[TRIAL_SCALE].chunk(2, 1))
    vectors = tried(matching, vectors)
    vectors, products = least_squares(reduced[FINEST], vectors, FINEST, 1)
    vectors = unfolded(tried(matching, vectors))
    return vectors.view(groups, -1, *vectors.shape[1:]), products[:, :3].reshape(
        groups, -1, 3, *products.shape[2:]
    )


def pyramid(pictures: Tensor) -> dict[int, Tensor]:
    """Pictures by how much they are reduced: for each of STEPS."""
    reduced: dict[int, Tensor] = {}
    fine = 1
    for scale in reversed(STEPS):
        pictures = reduced[scale] = functional.avg_pool2d(pictures, scale // fine)
        fine = scale
    return reduced


def least_squares(both: Tensor, vectors: Tensor, scale: int, steps: int) -> tuple[Tensor, Tensor]:
    """Better vectors from pictures (N, 2, H, W) that are reduced by `scale`, and the last step's products."""
    before, after = both.chunk(2, 1)
    known = torch.cat([before, slopes(before)], 1)
    for _ in range(steps):
        flow = dense(vectors, scale * both.shape[2], scale * both.shape[3], scale) / scale
        products, _ = products_of(known, after, flow)
        products = functional.interpolate(products, size=vectors.shape[2:], mode="area")
        for _ in range(2 if scale >= WIDE else 1):
            products = blurred(products)
        vectors = settled(vectors / scale, products) * scale
    return vectors, products


def products_of(known: Tensor, after: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """What least squares need, (N, 5, H, W), and the errors, (N, 1, H, W), if pixels move by a flow.

    `known` (N, 3, H, W) is a picture and its slopes. The products are of slopes down and right with
    themselves, with each other, and with the errors of the picture `after`.
    """
    there, down, right = moved(known, flow, "bilinear").chunk(3, 1)
    error = after - there
    return torch.cat([down * down, right * right, down * right, down * error, right * error], 1), error


def tried(matching: Matching, vectors: Tensor) -> Tensor:
    """Vectors (3 n, 2, rows, columns) after each took the best of some, in turns, as on a chessboard."""
    rows, columns = (torch.arange(size, device=vectors.device) for size in vectors.shape[2:])
    odd = (rows[:, None] + columns) % 2 == 1
    misfit = matching.misfits(vectors)
    for turn in TRIALS * (odd, ~odd):
        around = neighbours(vectors)
        mean = sum(around[1:], around[0]) / len(around)
        beside = torch.stack([*around, steady_motion(vectors)])
        own = misfit + bits_beside(vectors, beside)
        for candidate in (torch.zeros_like(mean), mean, *beside):
            errors = matching.misfits(candidate)
            total = errors + bits_beside(candidate, beside)
            is_better = (total < own) & turn
            own = torch.where(is_better, total, own)
            misfit = torch.where(is_better, errors, misfit)
            vectors = torch.where(is_better, candidate, vectors)
    return vectors


class Matching:
    """How little pictures fit, reduced by TRIAL_SCALE, if all pixels of a vector move by it.

    They are kept as they are seen at all steps of a vector between their pixels: to move is to read from
    another place.
    """

    def __init__(self, source: Tensor, target: Tensor) -> None:
        """The reference of a group, three times, and its other frames, (3 n, 1, H, W)."""
        size, device = SPACING // TRIAL_SCALE, source.device
        source = source[:: len(OTHERS)]
        h, w = source.shape[2:]
        self.most = min(LARGEST, PARTS * max(h, w))  # steps; farther, all is as at the edge
        margin = self.most // PARTS + 1
        between = seen_between(functional.pad(source, (margin, margin + 1) * 2, mode="replicate"))
        height, self.width = between.shape[2:]
        self.plane = height * self.width
        flat = between.flatten()
        self.pieces = flat.as_strided((len(flat) - size + 1, size), (1, 1))  # from every place on
        inside = torch.arange(0, size * self.width, self.width, device=device)
        rows, columns = (torch.arange(margin, margin + n, size, device=device) for n in (h, w))
        corners = (rows[:, None] * self.width + columns).flatten()
        groups = torch.arange(len(target), device=device) // len(OTHERS) * PARTS**2 * self.plane
        self.own = groups[:, None, None] + corners[:, None] + inside  # (3 n, places, rows of pixels)
        blocks = target.view(len(target), h // size, size, w // size, size).transpose(2, 3)
        self.target = blocks.reshape(*self.own.shape, size)

    def misfits(self, vectors: Tensor) -> Tensor:
        """Of vectors (3 n, 2, rows, columns) in pixels: doublings, (3 n, 1, rows, columns)."""
        steps = (vectors * UNIT).round_().clamp_(-self.most, self.most).long()
        down, right = steps.flatten(2).unbind(1)
        part = (down % PARTS * PARTS + right % PARTS) * self.plane
        whole = (down >> PART_BITS) * self.width + (right >> PART_BITS)
        there = self.pieces.index_select(0, (self.own + (part + whole)[:, :, None]).flatten())
        squares = there.view(self.target.shape).sub_(self.target).square_()
        errors = squares.mean((2, 3)).view(len(vectors), 1, *vectors.shape[2:])
        return torch.log2(1 + (errors + blurred(errors)) / (2 * VISIBLE))


def seen_between(picture: Tensor) -> Tensor:
    """(n, 1, H + 1, W + 1) → the picture at all steps of a vector between its pixels, (n, PARTS^2, H, W)."""
    n, _, h, w = picture.shape
    shares = torch.arange(PARTS, device=picture.device) / PARTS
    rows = torch.lerp(picture[:, :, :-1], picture[:, :, 1:], shares.view(1, PARTS, 1, 1))[:, :, None]
    between = torch.lerp(rows[..., :-1], rows[..., 1:], shares.view(1, 1, PARTS, 1, 1))
    return between.reshape(n, PARTS**2, h - 1, w - 1)


def bits_beside(vectors: Tensor, beside: Tensor) -> Tensor:
    """What vectors cost that differ from those beside them, as `misfits` counts: (N, 1, rows, columns).

    Beside are their four neighbours and what a steady motion would be, (5, N, 2, rows, columns).
    """
    differences = (vectors - beside).square().sum(2).sqrt_()
    weights = vectors.new_tensor([SMOOTHNESS] * 4 + [STEADINESS]).view(-1, 1, 1, 1)
    return (torch.log2(1 + 2 * differences) * weights).sum(0)[:, None]


def steady_motion(vectors: Tensor) -> Tensor:
    """What the vectors of each frame of a group would be by those of the others, (3 n, 2, rows, columns)."""
    first, before, after = vectors.view(-1, 3, *vectors.shape[1:]).unbind(1)
    return torch.stack([2 * before, (first / 2 - after) / 2, -before], 1).flatten(0, 1)


def slopes(picture: Tensor) -> Tensor:
    """Down and right, of (N, 1, H, W): (N, 2, H, W)."""
    p = functional.pad(picture, (1, 1, 1, 1), mode="replicate")
    down, right = p[:, :, 2:, 1:-1] - p[:, :, :-2, 1:-1], p[:, :, 1:-1, 2:] - p[:, :, 1:-1, :-2]
    return torch.cat([down, right], 1) / 2


def blurred(values: Tensor) -> Tensor:
    """Weights 1, 2, 1 in both directions."""
    p = functional.pad(values, (1, 1, 1, 1), mode="replicate")
    p = (p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]) / 4
    return (p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]) / 4


def settled(start: Tensor, products: Tensor, stiffness: float = STIFFNESS, rounds: int = ROUNDS) -> Tensor:
    """Vectors after a step, in pixels of the scale: where errors vanish, not far from their neighbours."""
    yy, xx, yx, ye, xe = products.chunk(5, 1)
    y, x = start.chunk(2, 1)
    to_y, to_x = ye + yy * y + yx * x, xe + yx * y + xx * x  # of the whole vector, not of the step
    a, b = yy + stiffness, xx + stiffness
    share = 1 / (a * b - yx * yx)
    vectors = start
    for _ in range(rounds):
        y, x = (to + stiffness * mean for to, mean in zip((to_y, to_x), mean_around(vectors), strict=True))
        vectors = torch.cat([(b * y - yx * x) * share, (a * x - yx * y) * share], 1)
    return vectors


def neighbours(vectors: Tensor) -> list[Tensor]:
    p = functional.pad(vectors, (1, 1, 1, 1), mode="replicate")
    return [p[:, :, :-2, 1:-1], p[:, :, 2:, 1:-1], p[:, :, 1:-1, :-2], p[:, :, 1:-1, 2:]]


def mean_around(vectors: Tensor) -> tuple[Tensor, ...]:
    """Of the four neighbours: down, right."""
    first, *others = neighbours(vectors)
    return (sum(others, first) / 4).chunk(2, 1)


def unfolded(vectors: Tensor) -> Tensor:
    """The field, smoothed where it is too steep for content to keep its order."""
    for _ in range(SMOOTHINGS):
        around = neighbours(vectors)
        steepest = torch.stack([(n - vectors).abs().amax(1, keepdim=True) for n in around]).amax(0)
        is_steep = (steepest > STEEPEST * SPACING).float()
        if not is_steep.any():
            break
        wide = functional.max_pool2d(is_steep, 3, 1, 1) > 0
        vectors = torch.where(wide, (vectors + sum(around[1:], around[0]) / 4) / 2, vectors)
    return vectors
