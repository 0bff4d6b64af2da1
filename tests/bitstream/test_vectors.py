"""Motion: vectors are found, do what they say, and cost what they should."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tiny import GOLDEN

from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.motion import MotionCoder, MotionTables, field_passes, vector_price
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.bitstream.residuals import Beside, Plan
from cvvae_cli.bitstream.vectors import BLOCK, CELL, LARGEST, Moving, search, still
from cvvae_cli.errors import CorruptFileError, WeightsError
from cvvae_cli.models.registry import Weights, find_model
from cvvae_cli.train.aligned import onto_references

ARRAYS = load_file(GOLDEN / "tiny-3.safetensors")
SIDE = BLOCK * CELL


def picture(height=160, width=192, seed=0):
    """Smooth noise (1, H, W) in [-1, 1]."""
    torch.manual_seed(seed)
    small = torch.rand(1, 1, height // 4, width // 4) * 2 - 1
    return torch.nn.functional.interpolate(small, (height, width), mode="bicubic", align_corners=False)[0]


def shifted(x, down, right):
    return x.roll((down, right), (1, 2))


@pytest.mark.parametrize("vector", [(0, 0), (5, -9), (-30, 17), (1, 41)])
def test_the_search_finds_how_far_a_picture_moved(vector):
    source = picture()
    field = search(source, shifted(source, *vector), 0.01)[0]
    inside = field[:, 1:-1, 2:-2]  # at the edges, what came in is unknown
    assert (inside == torch.tensor(vector)[:, None, None]).all()


def test_the_search_finds_what_moved_far():
    source = picture(160, 480)
    field = search(source, shifted(source, -3, 104), 0.01)[0]
    assert (field[:, 1:-1, 4:-1] == torch.tensor([-3, 104])[:, None, None]).all()


def test_areas_begin_from_what_is_given_too():
    """Noise as fine as this is nothing like itself two pixels beside, so the best of its means are chance."""
    torch.manual_seed(3)
    source = torch.rand(1, 160, 320) * 2 - 1
    target = shifted(source, 21, -13)
    near = torch.tensor([20, -12]).view(1, 2, 1, 1).expand(1, 2, 5, 10)
    right = torch.tensor([21, -13]).view(1, 2, 1, 1)
    found = (search(source, target, 0.01, starts) for starts in ((), (near,)))
    shares = [(field == right).all(1).float().mean() for field in found]
    assert shares[0] < 0.5
    assert shares[1] > 0.8


def test_no_vector_is_longer_than_a_file_may_hold():
    source = picture(160, 480)
    start = torch.tensor([0, LARGEST]).view(1, 2, 1, 1).expand(1, 2, 5, 15)
    for beyond in (3, 7):
        field = search(source, shifted(source, 0, LARGEST + beyond), 1e-9, (start,))
        assert field.abs().max() <= LARGEST


def test_vectors_far_from_others_cost_more():
    source = picture(160, 480)
    prices = [0.02 * 1.3**k for k in range(30)]
    dearest = []
    for right in (5, 101):
        target = torch.cat([source[:, :96], shifted(source, 0, right)[:, 96:]], 1)
        dearest.append(max(price for price in prices if search(source, target, price).any()))
    assert 0 < dearest[1] < dearest[0] / 2


def test_parts_of_a_picture_have_vectors_of_their_own():
    source = picture()
    target = torch.cat([shifted(source, 3, 4)[:, :80], shifted(source, -6, 0)[:, 80:]], 1)
    field = search(source, target, 0.003)[0]
    assert (field[:, 1, 2:-2] == torch.tensor([3, 4])[:, None]).all()
    assert (field[:, 3, 2:-2] == torch.tensor([-6, 0])[:, None]).all()


def test_a_vector_must_be_worth_its_price():
    source = picture()
    target = torch.cat([shifted(source, 3, 4)[:, :80], shifted(source, -6, 0)[:, 80:]], 1)
    assert (search(source, target, 1e6) == 0).all()
    noisy = source + 0.02 * torch.randn_like(source)
    assert (search(source, noisy, 0.003) == 0).all()
    prices = [vector_price(level) for level in range(10, 101)]
    assert prices == sorted(prices, reverse=True)


def test_samples_of_a_batch_do_not_touch_each_other():
    sources = torch.cat([picture(seed=1), picture(seed=2)])
    targets = torch.cat([shifted(sources[:1], 4, 4), shifted(sources[1:], -8, 2)])
    both = search(sources, targets, 0.01)
    for number in (0, 1):
        alone = search(sources[number : number + 1], targets[number : number + 1], 0.01)
        assert torch.equal(both[number : number + 1], alone)


def test_blocks_move_by_their_vectors_and_in_between_by_parts_of_them():
    x = torch.arange(2 * SIDE).float().repeat(SIDE, 1)[None, None]
    vectors = torch.zeros(1, 2, 1, 2, dtype=torch.int64)
    vectors[0, 1, 0, 1] = 8  # the right block moves to the right, the left one rests
    rests = still(vectors, BLOCK, 2 * BLOCK)
    assert torch.equal(rests[0, 0], torch.arange(2 * BLOCK) < BLOCK)
    cells = torch.ones_like(rests).nonzero(as_tuple=True)
    places = torch.nn.functional.pixel_unshuffle(x, CELL)[0].permute(1, 2, 0)
    y = Moving(x).at(cells, vectors).view(BLOCK, 2 * BLOCK, 4, CELL**2)
    for frame, expected in enumerate((2, 4, 6, 8)):
        assert torch.equal(y[:, :BLOCK, frame], places[:, :BLOCK])
        assert torch.equal(y[:, BLOCK:, frame], places[:, BLOCK:] - expected)
    half = torch.stack([x[0, 0, ::2, ::2], -x[0, 0, ::2, ::2]])[None]  # planes of half the size move by half
    y = Moving(half, 2).at(cells, vectors).view(BLOCK, 2 * BLOCK, 4, 2, CELL**2 // 4)
    places = torch.nn.functional.pixel_unshuffle(half[:, :1], CELL // 2)[0].permute(1, 2, 0)
    assert torch.equal(y[:, BLOCK:, 3, 0], places[:, BLOCK:] - 8)
    assert torch.equal(y[:, :, :, 1], -y[:, :, :, 0])
    vectors[0, 1] = 100  # beyond its edge a picture goes on as its edge
    assert (Moving(x).at(cells, vectors).view(BLOCK, 2 * BLOCK, 4, -1)[:, 0, 3] == 0).all()


def test_what_was_aligned_moves_at_once():
    x = torch.rand(1, 1, SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(3))
    vectors = torch.tensor([7, -5]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    cells = torch.ones(1, BLOCK, 2 * BLOCK).nonzero(as_tuple=True)
    for scale in (1, 2):
        planes = x[..., ::scale, ::scale]
        once, always = Moving(planes, scale, 1).at(cells, vectors), Moving(planes, scale).at(cells, vectors)
        assert once.shape == (len(cells[0]), 1, 1, (CELL // scale) ** 2)
        assert torch.equal(once[:, 0], always[:, 3])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_every_vector_is_coded_once_and_after_the_neighbours_that_predict_it(rows, columns):
    known = np.zeros((rows, columns), int)
    for where, neighbours in field_passes(rows, columns):
        own = known[where[1:]]
        assert own.size
        assert not own.any()
        y, x = np.arange(rows)[where[1]][:, None], np.arange(columns)[where[2]]
        for number, (down, right) in enumerate(neighbours):
            inside = (y + down >= 0) & (y + down < rows) & (x + right >= 0) & (x + right < columns)
            assert number or inside.all()  # the first stands in for others
            assert known[np.where(inside, y + down, 0), np.where(inside, x + right, 0)][inside].all()
        known[where[1:]] = 1
    assert known.all()


def compact():
    """The network that ships, and its coder at quality 5."""
    spec = find_model("compact")
    weights = Weights(spec)
    coder = ENTROPY_CODERS[spec.coder].of_model(weights.arrays, 50)
    return weights.build(), coder, Quantizer(*weights.gain_and_step(50), coder.symbol_bits)


def test_motion_that_is_followed_costs_fewer_bits(monkeypatch):
    network, coder, quantizer = compact()
    scene = picture(128, 256).repeat(3, 1, 1)
    panned = torch.stack([scene.roll(3 * t, 2) for t in range(17)], 1)[None]
    with torch.inference_mode():
        scaled = quantizer.scale(network.encode(panned)[0].numpy())
    followed = len(coder.pack(coder.choose(scaled, ())))
    monkeypatch.setattr(coder, "search", lambda *frames: np.zeros((2, 4, 8), np.int32))
    assert followed < 0.8 * len(coder.pack(coder.choose(scaled, ())))


def test_of_a_still_picture_nothing_moves():
    network, coder, quantizer = compact()
    with torch.inference_mode():
        latents = network.encode(picture(128, 128).repeat(3, 1, 1)[None, :, None].repeat(1, 1, 17, 1, 1))
    plan = coder.choose(quantizer.scale(latents[0].numpy()), ())
    beside = [where.values for where, *_ in plan.steps if isinstance(where, Beside)]
    fields = [values for values in beside if values.ndim == 3]  # the others are offsets
    assert fields
    assert not any(field.any() for field in fields)


def test_vectors_out_of_range_are_damage():
    coder = MotionCoder.of_model(ARRAYS, 85)
    symbols = np.zeros((2, 4, 8, 8), np.int32)
    plan = coder.exactly(symbols, ())
    steps = [
        (where, guess, residuals + 128 * isinstance(where, Beside)) for where, guess, residuals in plan.steps
    ]
    with pytest.raises(CorruptFileError, match="motion"):
        coder.decode(coder.pack(Plan(symbols, steps)), symbols.shape, ())


def test_unfit_tables_are_refused():
    names = [name for name in ARRAYS if name.startswith("motion.")]
    assert len(names) == 7
    for name in names:
        with pytest.raises(WeightsError):
            MotionTables.from_tensors({n: a for n, a in ARRAYS.items() if n != name})
    for name in ("picture", "latents", "shift", "step"):
        with pytest.raises(WeightsError):
            MotionTables.from_tensors(ARRAYS | {f"motion.{name}": ARRAYS[f"motion.{name}"][:1]})


def test_frames_that_were_aligned_cost_fewer_bits_and_fewest_if_the_coder_knows():
    network, coder, quantizer = compact()
    scene = picture(128, 256).repeat(3, 1, 1)
    panned = torch.stack([scene.roll(3 * t, 2) for t in range(17)], 1)[None]
    moved, _, aligned = onto_references(panned)
    assert aligned.all()
    with torch.inference_mode():
        plain, onto_one = (quantizer.scale(network.encode(x)[0].numpy()) for x in (panned, moved))
    known = len(coder.pack(coder.choose(onto_one, (), np.append(False, aligned[0].numpy()))))
    assert known < 0.97 * len(coder.pack(coder.choose(onto_one, ())))
    assert known < 0.9 * len(coder.pack(coder.choose(plain, ())))
