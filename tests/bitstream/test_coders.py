from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CODERS as CODERS_OF_TINY
from tiny import GOLDEN, moving_picture

from cvvae_cli.bitstream import anchors, prior
from cvvae_cli.bitstream.chunk import ChunkCoder
from cvvae_cli.bitstream.coders import ENTROPY_CODERS, ContextTables
from cvvae_cli.bitstream.lookahead import look_ahead
from cvvae_cli.bitstream.prior import convolve, singles_are_exact
from cvvae_cli.bitstream.quantize import MAX_SYMBOL, Quantizer
from cvvae_cli.bitstream.residuals import Beside, by_table, round_mean
from cvvae_cli.errors import CorruptFileError, WeightsError


@pytest.fixture(scope="module")
def tables():
    from safetensors.numpy import load_file

    return ContextTables.from_tensors(load_file(GOLDEN / "tiny-1.safetensors"))


TINY = {name: number for number, name in enumerate(CODERS_OF_TINY, 1)}  # the model that uses it
LEVELS = {name: None if number == 1 else 85 for name, number in TINY.items()}


def coder_of(name, level=None, device="cpu"):
    """A coder with the integers of the tiny model that uses it."""
    from safetensors.numpy import load_file

    arrays = load_file(GOLDEN / f"tiny-{TINY[name]}.safetensors")
    return ENTROPY_CODERS[name].of_model(arrays, level or LEVELS[name], device)


CODERS = {name: coder_of(name) for name in TINY}  # the symbols of prior-8 are those of prior-7


@pytest.fixture(params=TINY)
def coder(request):
    return CODERS[request.param]


def random_symbols(seed, t, h, w, spread):
    rng = np.random.default_rng(seed)
    return np.rint(rng.laplace(0, spread, (t, 4, h, w))).clip(-MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)


def random_scaled(seed):
    """Latents in cells of a quantiser, between symbols."""
    rng = np.random.default_rng(seed)
    return rng.laplace(0, 1.5, (2, 4, 9, 8)).astype(np.float32)


def plan_of(coder, symbols, past=()):
    """These symbols, or where the coder has others to choose from, those it chooses for them."""
    return (
        coder.choose(symbols.astype(np.float32), past) if coder.symbol_bits else coder.exactly(symbols, past)
    )


def in_cells(coder, symbols):
    return symbols / 2**coder.symbol_bits


@pytest.mark.parametrize("name", CODERS)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.3, 3.0, 60.0, 20_000.0]),
)
def test_all_symbols_of_all_sizes_survive(name, seed, t, h, w, spread):
    coder = CODERS[name]
    symbols = random_symbols(seed, t, h, w, spread)
    past = tuple(random_symbols(seed + 1, 2, h, w, spread)[: seed % 3])
    plan = plan_of(coder, symbols, past)
    assert np.array_equal(coder.decode(coder.pack(plan), symbols.shape, past), plan.symbols)
    if not coder.symbol_bits:
        assert np.array_equal(plan.symbols, symbols)
    else:  # those of 1/16 of a cell reach as far as 2047 cells
        reached = symbols.clip(-2046, 2046)
        assert np.abs(in_cells(coder, plan.symbols) - reached).max() <= 1.5


def test_the_bits_are_those_of_the_tables(coder):
    """Within one percent and the 64 bits of the coder's state."""
    plan = plan_of(coder, random_symbols(3, 4, 24, 20, 2.0))
    bits = coder.bits_by_channel(plan).sum()
    assert abs(8 * len(coder.pack(plan)) - bits) <= 0.01 * bits + 64


@pytest.mark.parametrize("name", CODERS)
def test_without_a_price_the_nearest_symbols_are_chosen(name, monkeypatch):
    coder = CODERS[name]
    monkeypatch.setattr(coder, "price", 0.0)
    scaled = random_scaled(5)
    plan = coder.choose(scaled, ())
    if not coder.symbol_bits:
        assert np.array_equal(plan.symbols, np.rint(scaled))
    assert np.abs(in_cells(coder, plan.symbols) - scaled).max() <= 0.5 + 1e-5
    assert np.array_equal(coder.decode(coder.pack(plan), scaled.shape, ()), plan.symbols)


@pytest.mark.parametrize("name", CODERS)
def test_bits_are_saved_where_they_are_worth_the_error(name, monkeypatch):
    """Every step's error and bits together, at their prices, are least among the two symbols considered."""
    coder, price = CODERS[name], 0.05
    scaled = random_scaled(6)
    monkeypatch.setattr(coder, "price", 0.0)
    nearest = coder.choose(scaled, ())
    monkeypatch.setattr(coder, "price", price)
    plan = coder.choose(scaled, ())
    assert np.array_equal(coder.decode(coder.pack(plan), scaled.shape, ()), plan.symbols)
    assert coder.bits_by_channel(plan).sum() < coder.bits_by_channel(nearest).sum()
    assert 0.5 < np.abs(in_cells(coder, plan.symbols) - scaled).max() <= 1.5
    steps = [step for step in plan.steps if not isinstance(step[0], Beside)]
    frame_steps = len(steps) // len(scaled)
    aims, prices = look_ahead(scaled, price)
    for number, (where, guess, residuals) in enumerate(steps):
        real = aims[number // frame_steps][where] - in_cells(coder, guess.symbols)
        bit = prices[number // frame_steps][where]

        def total(residuals, real=real, guess=guess, bit=bit):
            return (real - residuals) ** 2 + bit * coder.bits_of(guess, residuals)

        far = np.rint(real).astype(int)
        near = far - np.sign(far)
        assert np.allclose(total(residuals), np.minimum(total(far), total(near)))


def test_products_that_torch_rounds_are_noticed_and_change_nothing():
    """Under autocast products of float32 are those of bf16: the network must then compute in float64."""
    coder, symbols = coder_of("prior-1"), random_symbols(8, 3, 20, 30, 4.0)
    data = coder.encode(symbols, ())
    assert singles_are_exact()
    assert coder.network().dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert not singles_are_exact()
        assert coder.network().dtype == torch.float64
        assert coder.encode(symbols, ()) == data
        assert np.array_equal(coder.decode(data, symbols.shape, ()), symbols)


def test_convolutions_that_are_no_plain_sums_are_noticed_and_change_nothing(monkeypatch):
    """As minimal filtering is, by which some machines might convolve."""
    coder, symbols = coder_of("prior-1"), random_symbols(8, 3, 20, 30, 4.0)
    data = coder.encode(symbols, ())
    assert coder.network().dtype == torch.float32
    assert prior.convolutions_are_sums.__wrapped__()
    plain = torch.nn.functional.conv2d
    monkeypatch.setattr("torch.nn.functional.conv2d", lambda x, *rest, **kw: 3 * plain(x / 3, *rest, **kw))
    assert not prior.convolutions_are_sums.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setattr(prior, "convolutions_are_sums", lambda: False)
    assert coder.network().dtype == torch.float64
    assert coder.encode(symbols, ()) == data


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3), (33, 40)])
@pytest.mark.parametrize("inputs", [2, 64])
def test_a_convolution_is_the_sum_of_its_products(size, inputs):
    """In float32 as in float64, and of what is laid out otherwise too."""
    torch.manual_seed(0)
    x = torch.randint(-255, 256, (inputs, *size)).permute(1, 2, 0)
    kernels, bias = torch.randint(-99, 100, (3, 8, 3 * inputs)), torch.randint(-99, 100, (8,))
    wanted = torch.nn.functional.conv2d(
        x.permute(2, 0, 1)[None].double(),
        kernels.view(3, 8, 3, inputs).permute(1, 3, 0, 2).double(),
        bias.double(),
        padding=1,
    )[0].permute(1, 2, 0)
    for kind in (torch.float32, torch.float64):
        assert torch.equal(convolve(x.to(kind), kernels.to(kind), bias.to(kind)).double(), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in CODERS if name != "context-1"])
def test_a_gpu_codes_the_bits_of_the_cpu(name):
    coder, symbols = coder_of(name), random_symbols(9, 3, 20, 30, 4.0)
    there = coder_of(name, device="cuda")
    plan = plan_of(coder, symbols)
    data = coder.pack(plan)
    assert there.pack(plan_of(there, symbols)) == data
    assert np.array_equal(there.decode(data, symbols.shape, ()), plan.symbols)


@pytest.mark.parametrize("name", [name for name, coder in CODERS.items() if not coder.links])
def test_the_past_is_used_and_forgotten_on_the_grid(name):
    coder = CODERS[name]
    scaled = random_symbols(0, 4, 8, 8, 5.0).astype(np.float32)
    writer, reader = ChunkCoder(coder, 8), ChunkCoder(coder, 8)
    plans = [writer.choose(first, scaled) for first in (0, 4, 8)]
    chunks = [coder.pack(plan) for plan in plans]
    assert chunks[1] != chunks[0]  # it knows what came before
    assert chunks[2] == chunks[0]  # a fresh start
    for first, data, plan in zip((0, 4, 8), chunks, plans, strict=True):
        assert np.array_equal(reader.decode(first, data, scaled.shape), plan.symbols)
    late = ChunkCoder(coder, 8)
    assert np.array_equal(late.decode(8, chunks[2], scaled.shape), plans[2].symbols)


def test_what_rests_stays_on_integers_and_what_moves_may_leave_them(monkeypatch):
    """So a picture that rests is the same before and after a fresh start of the coder."""
    coder, field = CODERS["prior-3"], np.zeros((2, 3, 2), np.int32)
    field[1, 1] = 8  # rows 4 to 7 move
    monkeypatch.setattr(coder, "search", lambda *_: field)
    is_whole = coder.choose(np.repeat(random_scaled(4)[:1], 3, 0), ()).symbols % 16 == 0
    assert is_whole[0].all()
    assert is_whole[1:, :, :4].all()
    assert is_whole[1:, :, 8:].all()
    assert is_whole[1:, :, 4:8].mean() < 0.5


def flat_areas(frames):
    """Latents of two areas of which the left one lies 0.3 cells beside whole ones, with a little noise."""
    cells = np.random.default_rng(3).normal(0, 0.02, (frames, 4, 16, 16)) + np.arange(4)[:, None, None]
    cells[..., :8] += 0.3
    return cells.astype(np.float32)


def test_a_flat_area_gets_an_offset_and_keeps_it_while_it_rests(monkeypatch):
    coder, scaled = CODERS["prior-4"], flat_areas(3)
    monkeypatch.setattr(coder, "search", lambda *_: np.zeros((2, 4, 4), np.int32))
    plan = coder.choose(scaled, ())
    assert np.array_equal(coder.decode(coder.pack(plan), scaled.shape, ()), plan.symbols)
    cells = in_cells(coder, plan.symbols)
    assert (cells[..., :8] % 1 == 0.25).all()
    assert (cells[..., 8:] % 1 == 0).all()
    assert (np.abs(cells - scaled) < 0.15).mean() > 0.95
    whole = CODERS["prior-3"].choose(scaled[:1], ())
    assert np.abs(in_cells(coder, whole.symbols) - scaled[:1])[..., :8].min() > 0.2


def test_offsets_are_chosen_by_their_errors_and_bits():
    """No area would be better off without its offsets, or with another of a channel."""
    coder = CODERS["prior-4"]
    cells = np.random.default_rng(0).laplace(0, 1, (3, 4, 19, 12)).astype(np.float32)
    cells[:, :, :8] *= 0.05
    chosen = coder.choose_offsets(cells)
    assert chosen.shape == (4, 3, 2)
    assert (chosen.any(0).any(), chosen.any(0).all()) == (True, False)
    costs = coder.costs[coder.first_offset_table :]

    def total(offsets, rows, columns):
        places = cells[:, :, 8 * rows : 8 * rows + 8, 8 * columns : 8 * columns + 8]
        beside = places - offsets[:, None, None] / 8
        bits = costs[0, 127 + offsets.any()]
        if offsets.any():
            bits += sum(costs[1 + c, 127 + o] for c, o in enumerate(offsets))
        return ((beside - np.rint(beside)) ** 2).sum() + coder.price * bits

    for rows, columns in np.ndindex(3, 2):
        own = chosen[:, rows, columns]
        least = total(own, rows, columns)
        assert least <= total(np.zeros(4, int), rows, columns) + 1e-4
        for channel, offset in product(range(4), range(-4, 4)):
            other = own.copy()
            other[channel] = offset
            assert not own.any() or least <= total(other, rows, columns) + 1e-4


def test_what_comes_to_rest_lies_beside_the_offset_again(monkeypatch):
    """In a later chunk too: the first frame of the period says where."""
    coder, field = CODERS["prior-4"], np.zeros((2, 4, 4), np.int32)
    moves = field.copy()
    moves[1, 1] = 8
    fields = iter([moves, *[field] * 4])
    monkeypatch.setattr(coder, "search", lambda *_: next(fields))
    chunks = ChunkCoder(coder, 8)
    symbols = np.concatenate([chunks.choose(4 * k, flat_areas(3)).symbols for k in range(2)])
    assert len(symbols) == 6
    assert (symbols[1, :, 4:8, :8] % 16 != 4).any()
    for rests in (symbols[0], symbols[1, :, :4], *symbols[2:]):
        assert (rests[..., :8] % 16 == 4).all()
        assert (rests[..., 8:] % 16 == 0).all()


def test_an_offset_beyond_half_a_cell_is_refused(monkeypatch):
    coder, scaled = CODERS["prior-4"], flat_areas(1)
    offsets = np.full((4, 2, 2), 5, np.int32)
    monkeypatch.setattr(coder, "choose_offsets", lambda _: offsets)
    with pytest.raises(CorruptFileError):
        coder.choose(scaled, ())
    monkeypatch.setattr(anchors, "LARGEST_OFFSET", 5)
    data = coder.pack(coder.choose(scaled, ()))
    monkeypatch.setattr(anchors, "LARGEST_OFFSET", 4)
    with pytest.raises(CorruptFileError):
        coder.decode(data, scaled.shape, ())


def test_damaged_symbols_never_crash(coder):
    data = coder.pack(plan_of(coder, random_symbols(0, 2, 6, 6, 3.0)))
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            symbols = coder.decode(bytes(damaged), (2, 4, 6, 6), ())
        except CorruptFileError:
            continue
        assert np.abs(symbols).max() <= MAX_SYMBOL
    for wrong in (b"", data[:-1], b"\0" * 4):
        with pytest.raises(CorruptFileError):
            coder.decode(wrong, (2, 4, 6, 6), ())


@pytest.mark.parametrize("name", CODERS)
def test_an_easy_picture_costs_less_than_its_entropy_per_channel(name, tiny):
    """Context pays: fewer bits than the best fixed table of each channel could give."""
    import torch

    from cvvae_cli.models.registry import MODELS, Weights

    coder, level = CODERS[name], LEVELS[name]
    weights = Weights(MODELS[f"tiny-{TINY[name]}"])
    frames = moving_picture(33, 64, 64, seed=77)
    if name not in ("context-1", "prior-1"):  # waves that cross each other do not move as blocks do
        frames = frames // 16 + 15 * (frames[:1] // 16)
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
    latents = weights.build().encode(video.contiguous().float() / 127.5 - 1)[0].numpy()
    quantizer = Quantizer(*weights.gain_and_step(level))
    symbols = quantizer.quantize(latents)
    bits = 8 * len(coder.pack(coder.choose(quantizer.scale(latents), ())))
    entropy = 0.0
    for channel in range(symbols.shape[1]):
        _, counts = np.unique(symbols[:, channel], return_counts=True)
        entropy -= (counts * np.log2(counts / counts.sum())).sum()
    assert bits < 0.9 * entropy


def test_rounding_of_the_mean_is_that_of_the_specification():
    mean = np.array([0, 2047, 2048, -2048, -2049, 4096 * 5 + 1400, 4096 * 5 - 1400])
    predicted, signs, phase = round_mean(mean)
    assert predicted.tolist() == [0, 0, 1, 0, -1, 5, 5]
    assert signs.tolist() == [1, 1, -1, -1, 1, 1, -1]
    assert phase.tolist() == [0, 2, 2, 2, 2, 2, 2]


def test_tables_are_taken_in_ascending_order_and_positions_in_row_order():
    groups = [(t, p.tolist()) for t, p in by_table(np.array([[5, 2], [5, 0]]))]
    assert groups == [(0, [3]), (2, [1]), (5, [0, 2])]


def test_tables_that_are_unfit_are_refused(tables):
    tensors = tables.to_tensors()
    with pytest.raises(WeightsError):
        ContextTables.from_tensors({k: v for k, v in tensors.items() if k != "coder.thresholds"})
    with pytest.raises(WeightsError):
        ContextTables.from_tensors(tensors | {"coder.frequencies": tables.frequencies + 1})
    with pytest.raises(WeightsError):
        ContextTables.from_tensors(tensors | {"coder.frequencies": tables.frequencies[1:]})
    with pytest.raises(WeightsError):
        ContextTables.from_tensors(tensors | {"coder.motion_thresholds": np.arange(9)})


def test_symbols_may_have_bits_after_their_point():
    quantizer = Quantizer(np.array([2.0], np.float32), np.array([0.4], np.float32), symbol_bits=4)
    assert quantizer.dequantize(np.full((1, 1, 1, 1), 24, np.int32)).item() == pytest.approx(1.5 * 0.4)


def test_quantised_latents_come_back_within_half_a_step():
    rng = np.random.default_rng(0)
    gain = np.array([0.5, 1, 7, 100], np.float32)
    latents = rng.normal(0, 10, (4, 3, 5, 6)).astype(np.float32)
    quantizer = Quantizer(gain)
    symbols = quantizer.quantize(latents)
    assert symbols.shape == (3, 4, 5, 6)
    error = np.abs(quantizer.dequantize(symbols) - latents)
    assert (error <= 0.5 / gain[:, None, None, None] * 1.0001).all()
    assert quantizer.quantize(np.full((4, 1, 1, 1), 1e9, np.float32)).max() == MAX_SYMBOL
