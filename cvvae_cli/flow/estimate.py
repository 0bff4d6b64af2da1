"""How content moves from the reference of a group to its other frames: densely, then in few vectors.

A dense motion (flow/follow.py) says what a vector is for the pixels around it; where it lost its way, least
squares with vectors as far apart as they will be may have found it. Vectors are coded, though: each then
tries others, rest and those of its neighbours among them, and takes the one that explains its pixels for the
fewest bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cvvae_cli.flow.field import LARGEST, OTHERS, SPACING, UNIT, dense, led_to, moved, outside
from cvvae_cli.flow.follow import follow
from cvvae_cli.flow.squares import blurred, mean_of, neighbours, products_of, settled, slopes

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
SMOOTHNESS, STEADINESS = 0.2, 0.2  # of a doubled difference, in halvings of an error
LOST = 0.5  # halvings of an error by which another vector is better than one that lost its way
FAR_BETTER = 8.0  # times: vectors whose errors are that much smaller are taken, whatever is beside them
STRIDE = 4  # of the pixels that are looked at for that
LEAST_DRAWN = 1 / 32  # of a picture has to gain by that
TOGETHER = 2**20  # pixels that are followed at a time, so that memory does not grow with the number of pairs


def estimate(source: Tensor, target: Tensor, visible: float = VISIBLE) -> tuple[Tensor, Tensor]:
    """Where in `source` the content of `target` lies, both brightness in [0, 255], (N, 3, H, W).

    They are the reference of a group, three times, and its other frames. Vectors in pixels (N, 3, 2, rows,
    columns), and what an error of theirs costs around each (N, 3, 3, rows, columns): mean squares of slopes
    down and right, and of their product, in squared levels. Errors far below `visible` of those are none.
    """
    groups, (h, w) = len(source), source.shape[2:]
    both = torch.stack([source.flatten(0, 1), target.flatten(0, 1)], 1)
    both = functional.pad(both, (0, -w % SPACING, 0, -h % SPACING), mode="replicate")
    pairs = torch.split(both, max(1, TOGETHER // (h * w)))
    followed = torch.cat([functional.avg_pool2d(follow(p[:, 1:], p[:, :1]), SPACING) for p in pairs])
    reduced = pyramid(both)
    squared = torch.zeros_like(followed)
    for scale, steps in STEPS.items():
        squared, _ = least_squares(reduced[scale], squared, scale, steps)
    before, after = reduced[TRIAL_SCALE].chunk(2, 1)
    matching = Matching(before, after, visible)
    found = best_of(matching, followed, (squared, steady_motion(followed)))
    vectors = tried(matching, found, found)
    vectors, products = least_squares(reduced[FINEST], vectors, FINEST, 1)
    vectors = exactly(both, unfolded(tried(matching, vectors, found)))
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
        vectors = settled(vectors / scale, products, STIFFNESS, ROUNDS) * scale
    return vectors, products


def best_of(matching: Matching, vectors: Tensor, others: tuple[Tensor, ...]) -> Tensor:
    """Vectors, each replaced by its own of `others` where that fits far better, whatever is beside it."""
    least = matching.misfits(vectors) - LOST
    for other in others:
        errors = matching.misfits(other)
        vectors = torch.where(errors < least, other, vectors)
        least = torch.minimum(errors, least)
    return vectors


def tried(matching: Matching, vectors: Tensor, found: Tensor) -> Tensor:
    """Vectors (3 n, 2, rows, columns) after each took the best of some, in turns, as on a chessboard.

    Among those is its own of `found`.
    """
    rows, columns = (torch.arange(size, device=vectors.device) for size in vectors.shape[2:])
    odd = (rows[:, None] + columns) % 2 == 1
    misfit = matching.misfits(vectors)
    known = [(other, matching.misfits(other)) for other in (torch.zeros_like(vectors), found)]
    for turn in TRIALS * (odd, ~odd):
        around = neighbours(vectors)
        mean = mean_of(around)
        beside = torch.stack([*around, steady_motion(vectors)])
        own = misfit + bits_beside(vectors, beside)
        for candidate, errors in (*known, *((each, matching.misfits(each)) for each in (mean, *beside))):
            total = errors + bits_beside(candidate, beside)
            is_better = (total < own) & turn
            own = torch.where(is_better, total, own)
            misfit = torch.where(is_better, errors, misfit)
            vectors = torch.where(is_better, candidate, vectors)
    return vectors


def exactly(both: Tensor, vectors: Tensor) -> Tensor:
    """Vectors between pictures (N, 2, H, W), or where it fits far better, that of whole pixels most move by.

    What is drawn moves by whole pixels, and thin lines are nothing like themselves half a pixel beside. What
    comes from outside of the source says nothing.
    """
    source, target = both.chunk(2, 1)
    target = target[:, :, ::STRIDE, ::STRIDE]
    whole = commonest(vectors.round())
    own_flow, flow = (dense(each, *source.shape[2:])[:, :, ::STRIDE, ::STRIDE] for each in (vectors, whole))
    is_inside = (outside(*led_to(flow, STRIDE), (source.shape[2], source.shape[3])) == 0)[:, None].float()

    def errors(flow: Tensor) -> Tensor:
        there = moved(source, flow, "bilinear", STRIDE)
        return functional.avg_pool2d(there.sub_(target).square_().mul_(is_inside), SPACING // STRIDE)

    own, least = errors(own_flow), errors(flow)
    leaves = functional.max_pool2d(is_inside, SPACING // STRIDE) == 0
    is_exact = is_far_better(least, own, VISIBLE).float()
    is_drawn = (is_exact.mean((1, 2, 3), keepdim=True) > LEAST_DRAWN) & whole.any(1, keepdim=True)
    around = functional.max_pool2d(is_exact, 3, 1, 1) > 0
    return torch.where(is_drawn & around & ((least < own) | leaves), whole, vectors)


def is_far_better(least: Tensor, own: Tensor, visible: float) -> Tensor:
    """Where errors are so much smaller than those of the own vectors that content moves exactly."""
    return FAR_BETTER * least + visible < own


def commonest(vectors: Tensor) -> Tensor:
    """Of the vectors of each picture that are not zero, the one that most move by, (N, 2, rows, columns).

    What rests beside what moves is no reason to cut the motion off: around a thing on plain ground it is
    better to let it reach further.
    """
    most = torch.zeros_like(vectors[:, :, 0, 0])
    for own, each in zip(most, vectors.flatten(2), strict=True):
        kinds, counts = torch.unique(each[:, each.any(0)], dim=1, return_counts=True)
        if len(counts):
            own.copy_(kinds[:, counts.argmax()])
    return most[..., None, None].expand_as(vectors)


class Matching:
    """How little pictures fit, reduced by TRIAL_SCALE, if all pixels of a vector move by it.

    They are kept as they are seen at all steps of a vector between their pixels: to move is to read from
    another place.
    """

    def __init__(self, source: Tensor, target: Tensor, visible: float = VISIBLE) -> None:
        """The reference of a group, three times, and its other frames, (3 n, 1, H, W)."""
        self.visible = visible
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
        return torch.log2(1 + (errors + blurred(errors)) / (2 * self.visible))


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


def unfolded(vectors: Tensor) -> Tensor:
    """The field, smoothed where it is too steep for content to keep its order."""
    for _ in range(SMOOTHINGS):
        around = neighbours(vectors)
        steepest = torch.stack([(n - vectors).abs().amax(1, keepdim=True) for n in around]).amax(0)
        is_steep = (steepest > STEEPEST * SPACING).float()
        if not is_steep.any():
            break
        wide = functional.max_pool2d(is_steep, 3, 1, 1) > 0
        vectors = torch.where(wide, (vectors + mean_of(around)) / 2, vectors)
    return vectors
