"""Motion vectors: how they are searched for, and what they do to a picture.

A vector (down, right) says by how many pixels the content of a block moves from one group of four frames to
the next. Where latents are of the frames as they are, it is from the last frame to the last, and the frames
between lie on the straight line: four instants. Where frames were moved onto a reference before
(cvvae_cli/flow), it is from reference to reference: one. Fields are (..., 2, rows, columns) integers, a block
is `BLOCK` latent positions wide and high.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CELL = 8  # pixels of a latent position
BLOCK = 4  # latent positions of a block
FRAMES = 4  # of a group
NEAR_REACH, REACH = 6, 14  # of the first search, in latent positions: what is near is found more surely
LARGEST = 127  # pixels, that a file may hold if its coder does not say more
AREAS = ((4, (4, 2, 1)), (2, (2, 1)), (1, (2, 1)))  # sizes in blocks, and steps in pixels around the best
NEAR = 8  # pixels that are no distance between vectors
PRICE_OF_DOUBLING = 2  # of that distance down or right, in prices of a vector
BEYOND = 5  # pixels, by which `search` may look farther than the largest vector
SURROUNDINGS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))


Cells = tuple[Tensor, ...]
"""Latent positions: which sample, row and column, (n,) each."""


def shifts(vectors: Tensor, scale: int, instants: int = FRAMES) -> Tensor:
    """By how much planes of 1/`scale` size have moved at each of the instants, rounded: (..., instants)."""
    times = torch.arange(1, instants + 1, device=vectors.device)
    whole = instants * scale
    return torch.div(vectors[..., None] * times + whole // 2, whole, rounding_mode="floor")


class Moving:
    """A picture whose blocks move; beyond its edges it goes on as its edge."""

    def __init__(
        self, planes: Tensor, scale: int = 1, instants: int = FRAMES, *, reach: int = LARGEST
    ) -> None:
        """Planes (N, K, H, W), of 1/`scale` size. They are kept flat: to move is to subtract from a place.

        `reach`: no vector is larger, in pixels.
        """
        self.instants = instants
        self.scale, self.margin, self.size = scale, reach // scale + 1, CELL // scale
        padded = functional.pad(planes, (self.margin,) * 4, mode="replicate")
        self.planes, height, self.width = padded.shape[1:]
        self.area = height * self.width
        self.flat = padded.flatten()
        number = torch.int32 if self.flat.numel() < 2**31 else torch.int64  # half the memory to look through
        pixel = torch.arange(self.size, device=planes.device, dtype=number)
        plane = torch.arange(self.planes, device=planes.device, dtype=number)
        self.inside = (pixel[:, None] * self.width + pixel).flatten() + plane[:, None] * self.area

    def at(self, cells: Cells, vectors: Tensor) -> Tensor:
        """What latent positions show at each instant to come: (n, instants, K, pixels of a position)."""
        sample, row, column = cells
        own = vectors[sample, :, row // BLOCK, column // BLOCK]
        down, right = shifts(own, self.scale, self.instants).unbind(1)
        corner = (row * self.size + self.margin) * self.width + column * self.size + self.margin
        corner = (corner + sample * self.planes * self.area)[:, None] - down * self.width - right
        places = corner[:, :, None, None].to(self.inside.dtype) + self.inside
        return self.flat.index_select(0, places.flatten()).view(places.shape)


def still(vectors: Tensor, h: int, w: int) -> Tensor:
    """Which latent positions do not move: vectors (N, 2, rows, columns) → (N, h, w)."""
    rests = (vectors == 0).all(1)
    return spread(rests[:, None], BLOCK, torch.Size((h, w)))[:, 0]


def spread(areas: Tensor, size: int, shape: torch.Size) -> Tensor:
    """Values of areas (N, K, ...), each `size` x `size` wide, at each place of `shape`."""
    return areas.repeat_interleave(size, 2).repeat_interleave(size, 3)[..., : shape[0], : shape[1]]


def useful(reach: int, size: tuple[int, ...]) -> int:
    """The largest vector to look for in pictures of a size, of those that reach so far: beyond half of it,
    most of what moves has left. Never less than what every file may hold."""
    return min(reach, max(LARGEST, max(size) // 2))


@torch.no_grad()
def search(
    source: Tensor, target: Tensor, price: float, starts: tuple[Tensor, ...] = (), largest: int = LARGEST
) -> Tensor:
    """Vectors int64 (N, 2, rows, columns) that turn pictures `source` into `target`, both (N, H, W).

    Large areas first, then their quarters and the quarters of those: an area gets a vector of its own where
    that lowers the squared differences, as a sum over blocks of their means, by more than `price`, more where
    it is far from the one that it had. Last, blocks take over vectors of neighbours, a quarter of the price
    for each that they then agree with.

    Areas look for theirs around the best of coarse pictures, and around those of `starts`, fields like what
    comes back: two pictures alone hardly tell how what is far away has moved. No vector is larger than
    `largest`, and none of `starts` may be.
    """
    finder = Finder(source, target, largest)
    coarse = _coarse(source, target)
    reaches = sorted({NEAR_REACH, coarse.shape[1] // 2})
    field = torch.zeros(len(coarse), 2, *coarse.shape[3:], dtype=torch.int64, device=coarse.device)
    best = finder.errors(field)
    for size, steps in AREAS:
        before, errors_before, total = field, best, best
        seen = (_best_of(coarse, size, reach) for reach in reaches)
        for start in (*seen, *(_mean_of(each, size) for each in starts)):
            found, errors = _better(start, finder.errors(start), before, errors_before, size)
            found, errors = _refined(found, errors, finder, size, steps)
            dearer = errors + price / size**2 * _prices(found, before)
            is_better = _is_better(dearer, total, size)
            field = torch.where(is_better[:, None], found, field)
            best, total = (torch.where(is_better, *pair) for pair in ((errors, best), (dearer, total)))
    return _settled(field, best, finder, price / 4)


def _refined(
    field: Tensor, errors: Tensor, finder: Finder, size: int, steps: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """A field and its errors, after each area of `size` x `size` blocks took better vectors from around."""
    around = torch.tensor(SURROUNDINGS, device=field.device)
    for step in steps:
        candidates = field + step * around.view(-1, 1, 2, 1, 1)
        steps_there = step * (around[:, 0] * finder.width + around[:, 1]).view(-1, 1, 1, 1)
        errors_there = finder.errors_at(finder.places(field) - steps_there)
        errors_there.masked_fill_((candidates.abs() > finder.largest).any(2), torch.inf)
        for candidate, errors_of_it in zip(candidates, errors_there, strict=True):
            field, errors = _better(field, errors, candidate, errors_of_it, size)
    return field, errors


def _prices(field: Tensor, other: Tensor) -> Tensor:
    """How many times the price vectors cost where those of another field were: (N, rows, columns)."""
    doublings = torch.log2(1 + (field - other).abs() / NEAR).sum(1)
    return doublings.mul_(PRICE_OF_DOUBLING).add_(1)


def _mean_of(field: Tensor, size: int) -> Tensor:
    """Of areas of `size` x `size` blocks, the mean of their vectors."""
    mean = functional.avg_pool2d(field.float(), size, ceil_mode=True).round_().to(field.dtype)
    return spread(mean, size, field.shape[2:])


def _settled(field: Tensor, best: Tensor, finder: Finder, price: float) -> Tensor:
    """The field after blocks took over vectors of their neighbours."""
    rows, columns = (torch.arange(size, device=field.device) for size in field.shape[2:])
    odd = (rows[:, None] + columns) % 2 == 1
    for turn in (odd, ~odd):  # blocks none of which are neighbours
        start, own = field, best + price * _disagreements(field, field)
        for neighbour in NEIGHBOURS:
            candidate = _neighbour(start, *neighbour)
            errors = finder.errors(candidate)
            total = errors + price * _disagreements(candidate, start)
            better = (total < own) & turn
            own, best = torch.where(better, total, own), torch.where(better, errors, best)
            field = torch.where(better[:, None], candidate, field)
    return field


def _better(
    field: Tensor, best: Tensor, candidate: Tensor, errors: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Of two fields and their errors, the better for each area of `size` x `size` blocks."""
    better = _is_better(errors, best, size)
    return torch.where(better[:, None], candidate, field), torch.where(better, errors, best)


def _is_better(errors: Tensor, best: Tensor, size: int) -> Tensor:
    """Which blocks (N, rows, columns) lie in an area whose errors are smaller."""
    if size == 1:
        return errors < best
    gain = functional.avg_pool2d((best - errors)[:, None], size, ceil_mode=True)
    return spread(gain > 0, size, best.shape[1:])[:, 0]


def _coarse(source: Tensor, target: Tensor) -> Tensor:
    """Squared differences of the means of latent positions, of each block: (N, down, right, rows, columns).

    Vectors go up to REACH in all directions, in small pictures as far as they are long.
    """
    low, goal = (functional.avg_pool2d(x[:, None], CELL) for x in (source, target))
    h, w = low.shape[2:]
    reach = min(REACH, max(NEAR_REACH, h, w))
    padded = functional.pad(low, (reach,) * 4, mode="replicate")
    side = 2 * reach + 1
    differences = [
        functional.avg_pool2d((padded[:, :, y : y + h, x : x + w] - goal).square(), BLOCK, ceil_mode=True)
        for y in reversed(range(side))
        for x in reversed(range(side))
    ]
    return torch.stack(differences, 1).view(len(low), side, side, *differences[0].shape[2:])


def _best_of(coarse: Tensor, size: int, reach: int) -> Tensor:
    """The best vectors for areas of `size` x `size` blocks, up to `reach`, (N, 2, rows, columns)."""
    middle = coarse.shape[1] // 2
    inside = slice(middle - reach, middle + reach + 1)
    near = coarse[:, inside, inside].flatten(1, 2)
    number = functional.avg_pool2d(near, size, ceil_mode=True).argmin(1, keepdim=True)
    number = spread(number, size, near.shape[2:])
    side = 2 * reach + 1
    return torch.cat([number // side - reach, number % side - reach], 1) * CELL


class Finder:
    """Squared differences of blocks, on every second pixel in both directions.

    The source is kept flat, with a margin in which it goes on as its edge: to move is to subtract.
    """

    def __init__(self, source: Tensor, target: Tensor, largest: int = LARGEST) -> None:
        h, w = source.shape[1:]
        self.largest, margin = largest, largest + BEYOND
        padded = functional.pad(source[:, None], (margin,) * 4, mode="replicate")
        self.width = padded.shape[3]
        self.source = padded.flatten(1)
        self.target = target[:, ::2, ::2]
        rows = torch.arange(margin, margin + h, 2, device=source.device)
        self.own = rows[:, None] * self.width + torch.arange(margin, margin + w, 2, device=source.device)

    def places(self, vectors: Tensor) -> Tensor:
        """Where the pixels come from that vectors (N, 2, rows, columns) move: (N, H/2, W/2)."""
        steps = vectors[:, :1] * self.width + vectors[:, 1:]
        return self.own - spread(steps, BLOCK * CELL // 2, self.own.shape)[:, 0]

    def errors(self, vectors: Tensor) -> Tensor:
        """(N, 2, rows, columns) → (N, rows, columns)."""
        return self.errors_at(self.places(vectors))

    def errors_at(self, places: Tensor) -> Tensor:
        """(..., N, H/2, W/2) → (..., N, rows, columns)."""
        there = self.source.expand(*places.shape[:-2], -1).gather(-1, places.flatten(-2)).view(places.shape)
        squares = there.sub_(self.target).square_()
        errors = functional.avg_pool2d(squares.flatten(0, -3)[:, None], BLOCK * CELL // 2, ceil_mode=True)
        return errors.view(*places.shape[:-2], *errors.shape[2:])


def _neighbour(field: Tensor, down: int, right: int) -> Tensor:
    """The vectors of the blocks that lie `down` and `right`, at the edges their own."""
    padded = functional.pad(field.float(), (1, 1, 1, 1), mode="replicate").to(field.dtype)
    h, w = field.shape[2:]
    return padded[:, :, 1 + down : 1 + down + h, 1 + right : 1 + right + w]


def _disagreements(candidate: Tensor, field: Tensor) -> Tensor:
    """How many of the four neighbours in `field` move otherwise than `candidate`: (N, rows, columns)."""
    count = torch.zeros(candidate[:, 0].shape, device=candidate.device)
    for down, right in NEIGHBOURS:
        count += (candidate != _neighbour(field, down, right)).any(1)
    return count
