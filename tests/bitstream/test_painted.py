"""Detail that stands in place of what is decoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    CORRECTED,
    KEEPING,
    PAINTED,
    assert_all_is_measured,
    assert_an_interrupted_encode_goes_on,
    assert_memories_come_back,
    assert_parts_are_those_of_the_whole,
    assert_the_encoder_sees_what_the_decoder_shows,
    drawn_picture,
    frames_of,
    moving_picture,
    page,
    same,
    write_lossless,
)

from cvvae_cli import codec, latents
from cvvae_cli.bitstream import cosine_choice, scene
from cvvae_cli.bitstream.chunk import LINKED, cut
from cvvae_cli.bitstream.cosines import COLOURS, SIDE, in_blocks, over_pixels, turned
from cvvae_cli.bitstream.detail import (
    FIRST_PAINTED,
    Change,
    DetailCoder,
    Memory,
    PaintedDetailCoder,
    detail_of,
    expected_colours,
)
from cvvae_cli.bitstream.detail_choice import DetailChooser, encode_lacking
from cvvae_cli.bitstream.scene import Scene, exact, steady_motion
from cvvae_cli.bitstream.vectors import BLOCK, CELL
from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine import mirror
from cvvae_cli.engine.borders import Group, painted
from cvvae_cli.errors import CorruptFileError
from cvvae_cli.flow import align
from cvvae_cli.flow.field import REFERENCE, UNIT
from cvvae_cli.metrics.psnr import psnr
from cvvae_cli.models.registry import find_model
from cvvae_cli.options import EncodeOptions
from cvvae_cli.types import Detail, Lacking, Wanted

ROWS, COLUMNS = 6, 9  # of blocks
STILL = np.zeros((2, 2, 3), np.int32)
RESTING = np.zeros((4, ROWS, COLUMNS), np.float32)  # how frames differ from their mean
OPTIONS = EncodeOptions(model=f"tiny-{PAINTED}", device="cpu", dtype="fp32", quality=9)
CLIP = drawn_picture(62, 44, 70)


def random_changes(seed, share=0.4, size=3.0):
    """A choice that knows nothing of pictures."""
    rng = np.random.default_rng(seed)

    def some(count):
        cosines = np.rint(rng.laplace(0, size, (count, 3, SIDE, SIDE))).astype(int)
        cosines[:, :, 4:] = 0
        return cosines

    def choose(number, memory):
        changed = rng.random((ROWS, COLUMNS)) < share
        own = changed & (rng.random((ROWS, COLUMNS)) < 0.5)
        shown = changed | (rng.random((ROWS, COLUMNS)) < 0.5) & memory.held
        return Change(changed, some((changed & ~own).sum()), shown, own, some(own.sum()))

    return choose


@pytest.mark.parametrize("level", [10, 47, 100])
@pytest.mark.parametrize("share", [0.02, 0.4, 1.0])
def test_memories_come_back_whole_and_in_parts(level, share):
    coder, vectors = PaintedDetailCoder(level), [STILL, STILL + 3, STILL - np.array([40, 1])[:, None, None]]
    choices = (random_changes(seed, share) for seed in range(2))
    memory = assert_memories_come_back(coder, Memory.empty(ROWS, COLUMNS), vectors, choices)
    assert share < 0.1 or (memory.opaque.any() and not memory.opaque.all())


def test_bits_are_those_of_the_tables():
    coder, spent = PaintedDetailCoder(70), []
    pack = coder.pack
    coder.pack = lambda plan: spent.append(plan) or pack(plan)
    data, _ = coder.encode(Memory.empty(ROWS, COLUMNS), [STILL] * 4, random_changes(3, 0.6))
    bits = sum(coder.bits_of(guess, residuals).sum() for _, guess, residuals in spent[0].steps)
    assert abs(8 * len(data) - bits) < 0.01 * bits + 64
    assert max(guess.tables.max(initial=0) for _, guess, _ in spent[0].steps) >= FIRST_PAINTED


@pytest.mark.parametrize("damage", [lambda d: d[:-4], lambda d: d[:-1], lambda d: b"\xff" * 32])
def test_damaged_bytes_give_an_error_or_another_picture(damage):
    coder, memory = PaintedDetailCoder(40), Memory.empty(ROWS, COLUMNS)
    data, memories = coder.encode(memory, [STILL] * 2, random_changes(4))
    try:
        found = coder.decode(damage(data), memory, [STILL] * 2)
    except CorruptFileError:
        return
    assert not all(map(same, found, memories))


def test_what_is_opaque_moves_and_is_expected_where_it_came_to():
    picture = np.zeros((3, 16, 16), np.int16)
    opaque = np.zeros((16, 16), bool)
    picture[:, :8, :8], opaque[:8, :8] = np.array([100, -101, 0])[:, None, None], True
    picture[:, :8, 0] += 16
    memory = Memory(picture, np.ones((2, 2), bool), opaque).moved(np.full((2, 1, 1), 4))
    assert memory.opaque[:12, :12].all()  # the edge goes on
    assert memory.opaque.sum() == 144
    expected = expected_colours(memory, np.nonzero(np.ones((2, 2), bool)))
    assert (expected[0, :, :, 5:] == np.array([100, -101, 0])[:, None, None]).all()
    assert (expected[0, 0, :, :4] == 116).all()
    assert (expected[1, 1] == -101).all()  # the mean of half a block
    assert (expected[2, 0, :, :5] == np.where(np.arange(8)[:, None] < 4, 116, 110)).all()


def test_a_painted_block_is_opaque_and_a_changed_one_is_not():
    coder, every = PaintedDetailCoder(60), np.ones((ROWS, COLUMNS), bool)
    nothing = np.zeros((0, 3, SIDE, SIDE), int)
    colours = np.zeros((ROWS * COLUMNS, 3, SIDE, SIDE), int)
    colours[:, 0, 0, 0] = 20
    left = np.broadcast_to(np.arange(COLUMNS) < 4, every.shape)
    changes = [
        Change(every, nothing, every, every, colours),
        Change(left, colours[left.ravel()], every, ~every, nothing),
        Change(~every, nothing, left, ~every, nothing),
    ]
    memory = Memory.empty(ROWS, COLUMNS)
    _, (first, second, third) = coder.encode(memory, [STILL] * 3, lambda number, _: changes[number])
    assert first.opaque.all()
    assert np.array_equal(first.picture[0], np.full_like(first.picture[0], coder.pixels(colours)[0, 0, 0, 0]))
    assert np.array_equal(in_blocks(second.opaque[None]).all((2, 3, 4)), ~left)
    assert np.array_equal(second.picture, first.picture)  # nothing was left of the colours in what is changed
    assert second.covering().sum() == second.opaque.sum()
    assert not third.covering().any()  # what is opaque is hidden
    detail = detail_of([first, second, third])
    assert detail.colours.shape == (3, 3, SIDE * ROWS, SIDE * COLUMNS)
    assert [shares.mean() for shares in detail.opaque] == [1, 5 / 9, 0]


@pytest.mark.parametrize("groups", [slice(0, 2), slice(1, 2)])
def test_pictures_are_given_their_detail(groups):
    rng = np.random.default_rng(0)
    colours = rng.integers(-300, 300, (2, 3, 8, 8)).astype(np.int16)
    opaque = rng.random((2, 8, 8)) < 0.5
    video = torch.from_numpy(rng.uniform(-1.3, 1.3, (1, 3, 8, 8, 8)).astype(np.float32))[
        :, :, 4 * groups.start :
    ]
    found = mirror.added(video, Detail(colours, opaque, np.zeros((2, 2, 1, 1))), groups)[0].numpy()
    for at, number in enumerate(range(*groups.indices(2))):
        for frame in range(4 * at, 4 * at + 4):
            decoded = np.where(opaque[number], 0, video[0, :, frame].numpy().clip(-1, 1))
            assert np.allclose(found[:, frame], decoded + colours[number] / (127.5 * 16), atol=1e-6)


def test_what_moves_exactly_is_painted_once():
    """A decoder that shows something else each time, as networks do with letters that move."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (3, 30, 12)).repeat(4, 1).repeat(6, 2).astype(np.float32)
    shift = np.array([6, 0])[:, None, None]
    pictures = np.stack([tiles[:, 24 - 6 * t : 24 - 6 * t + SIDE * ROWS] for t in range(4)]) - 127.5
    vectors = [STILL, *[STILL + shift] * 3]
    lacking = Lacking(
        rng.normal(0, 30, pictures.shape).astype(np.float32),
        pictures / np.float32(127.5),
        np.full(4, 4),
        8,
        RESTING,
    )
    sizes = {}
    for coder in (DetailCoder(70), PaintedDetailCoder(70)):
        changes, chooser = [], DetailChooser(coder, lacking, vectors)

        def noted(number, memory, changes=changes, chooser=chooser):
            changes.append(chooser.choose(number, memory))
            return changes[-1]

        data, memories = coder.encode(Memory.empty(ROWS, COLUMNS), vectors, noted)
        sizes[coder.name] = len(data)
    assert sizes["detail-1"] == 0  # what passes is not worth its bits
    shares = [change.painted.mean() for change in changes]
    assert shares[0] > 0.95
    assert max(shares[1:]) < 0.35, shares  # what comes in
    for memory, picture in zip(memories, pictures, strict=True):
        assert memory.covering().mean() > 0.8
        planes = turned(picture[None], COLOURS)[0]
        assert np.square(memory.picture / 16 - planes)[:, memory.covering()].mean() < 60


def test_where_the_decoder_is_right_nothing_is_painted():
    rng = np.random.default_rng(0)
    pictures = np.repeat(rng.uniform(-1, 1, (1, 3, SIDE * ROWS, SIDE * COLUMNS)).astype(np.float32), 4, 0)
    lacking = Lacking(
        rng.normal(0, 2, pictures.shape).astype(np.float32), pictures, np.full(4, 4), 8, RESTING
    )
    coder = PaintedDetailCoder(70)
    data, _ = coder.encode(
        Memory.empty(ROWS, COLUMNS), [STILL] * 4, DetailChooser(coder, lacking, [STILL] * 4).choose
    )
    assert data == b""


@pytest.mark.parametrize("bits", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("is_surrounded", [True, False])
def test_what_spares_symbols_is_painted_among_opaque_blocks(bits, is_surrounded):
    """Flat rows between tiles, which the decoder shows well enough, but not for nothing."""
    rng = np.random.default_rng(0)
    picture = rng.uniform(-1, 1, (3, SIDE * ROWS, SIDE * COLUMNS)).astype(np.float32)
    flat = np.zeros((ROWS, COLUMNS), bool)
    flat[1::2] = True
    picture[:, over_pixels(flat)] = 0.4
    off = rng.normal(0, 60 if is_surrounded else 2, (4, *picture.shape))
    off[:, :, over_pixels(flat)] = rng.normal(0, 1, (4, 3, int(flat.sum()) * SIDE**2))
    lacking = Lacking(off.astype(np.float32), np.repeat(picture[None], 4, 0), np.full(4, 4), 8, RESTING)
    coder, spent = PaintedDetailCoder(60), np.full((4, ROWS, COLUMNS), bits)
    data, memories = encode_lacking(coder, Memory.empty(ROWS, COLUMNS), [STILL] * 4, lacking, spent)
    if not is_surrounded:
        assert data == b""
        return
    for memory in memories:
        covered = in_blocks(memory.covering()[None]).all((2, 3, 4))
        assert covered[~flat].mean() > 0.9
        assert covered[flat].mean() == pytest.approx(float(bits > 1), abs=0.15)


def test_what_differs_within_a_group_is_not_painted():
    """Opaque blocks show their frames the same."""
    rng = np.random.default_rng(0)
    pictures = np.repeat(rng.uniform(-1, 1, (1, 3, SIDE * ROWS, SIDE * COLUMNS)).astype(np.float32), 4, 0)
    coder, shares = PaintedDetailCoder(70), []
    for spread in (0, 3 * 64 * 40**2):
        apart = np.full(RESTING.shape, spread, np.float32)
        lacking = Lacking(
            rng.normal(0, 30, pictures.shape).astype(np.float32), pictures, np.full(4, 4), 8, apart
        )
        chooser = DetailChooser(coder, lacking, [STILL] * 4)
        _, memories = coder.encode(Memory.empty(ROWS, COLUMNS), [STILL] * 4, chooser.choose)
        shares.append(memories[-1].covering().mean())
    assert shares[0] > 0.95
    assert shares[1] == 0


def test_how_far_frames_are_from_their_mean():
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, (1, 3, 8, 8, 16)).astype(np.float32)
    found = mirror.spreads(torch.from_numpy(video), [slice(3, 4), slice(0, 3)]).numpy()
    seen = video[0, :, 4:7]
    squares = ((seen - seen.mean(1, keepdims=True)) ** 2).mean(1).sum(0)
    assert np.allclose(found[0], 0)
    assert np.allclose(found[1], [[squares[:, :8].sum(), squares[:, 8:].sum()]], rtol=1e-4)


def lines(height, width, seed=0):
    """Lines of something like letters, 26 pixels apart: float32 (3, H, W) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    picture = np.ones((height, width), np.float32)
    for top in range(4, height - 14, 26):
        letters = rng.random((14, width // 3)) < 0.5
        picture[top : top + 14, : 3 * (width // 3)] = np.where(letters, -1, 1).repeat(3, 1)
    return np.broadcast_to(picture, (3, height, width))


@pytest.mark.parametrize("down", [-120, -20, -3, 7, 100])
def test_vectors_follow_lines_that_look_alike(down):
    wide = lines(450, 192)
    before, after = wide[:, 120:312], wide[:, 120 - down : 312 - down]
    field = np.zeros((2, 6, 6), np.int32)
    steady = np.broadcast_to(np.array([down, 0])[:, None, None], field.shape).astype(np.int32)
    found = exact(before, after, field, (steady,), 0.005, searches=False)
    inside = [row for row in range(1, 5) if 0 <= 32 * row - down <= 192 - 32]
    assert inside
    assert (found[:, inside] == steady[:, inside]).all()


def test_vectors_stay_where_nothing_moves_exactly():
    rng = np.random.default_rng(0)
    before, after = rng.uniform(-1, 1, (2, 3, 96, 96)).astype(np.float32)
    field = rng.integers(-5, 5, (2, 3, 3)).astype(np.int32)
    assert np.array_equal(exact(before, after, field, (np.zeros_like(field),), 0.005, searches=True), field)


def test_the_way_from_group_to_group_by_that_within():
    fields = np.zeros((3, 2, 4, 6), np.int16)  # of places 16 pixels apart; of blocks there are 2 x 3
    for part, frames in enumerate((2, 1, -1)):
        fields[part, 0] = -5 * UNIT * frames
        fields[part, 1, :, 3:] = 2 * UNIT * frames
    vectors = steady_motion(fields, np.zeros((2, 2, 3), np.int32))
    assert vectors.dtype == np.int32
    assert (vectors[0] == -20).all()
    assert vectors[1].tolist() == [[0, 4, 8]] * 2


@pytest.mark.parametrize("down", [-90, -54, 54, 90])
def test_a_page_that_jumps_is_followed(down):
    wide = np.concatenate([lines(260, 192, seed) for seed in (1, 2)], 1)
    now = np.stack([wide[:, 130:322], wide[:, 130 - down : 322 - down]])
    known = Scene(Wanted(now, None, np.zeros((2, 3, 2, 12, 12), np.int16)), None)
    field = np.zeros((2, 6, 6), np.int32)
    assert not any(start.any() for start in known.starts(0, 6, 6))  # nothing is known before it
    assert [start[:, 0, 0].tolist() for start in known.starts(1, 6, 6)] == [[0, 0], [down, 0]]
    found = known.exactly(1, field, 0.005)
    inside = [row for row in range(1, 5) if 0 <= 32 * row - down <= 192 - 32]
    assert inside
    assert (found[0, inside] == down).all()
    assert (found[1, inside] == 0).all()


def test_motion_within_a_group_says_where_vectors_may_begin():
    fields = np.zeros((2, 3, 2, 6, 6), np.int16)
    fields[1, :, 1] = np.array([2, 1, -1])[:, None, None] * UNIT * 6
    known = Scene(Wanted(np.zeros((2, 3, 96, 96), np.float32), None, fields), None)
    whole, first, _ = known.starts(1, 3, 3)
    assert (whole == np.array([0, 24])[:, None, None]).all()
    assert (first == np.array([0, 18])[:, None, None]).all()
    assert known.starts(1, 3, 3) is known.starts(1, 3, 3)


def test_a_scene_gives_the_same_vectors_ever_after():
    tiles = np.random.default_rng(0).uniform(-1, 1, (3, 40, 8)).repeat(4, 1).repeat(12, 2).astype(np.float32)
    now = np.stack([tiles[:, 6 * t : 6 * t + 64] for t in range(3)])
    known = Scene(Wanted(now, None, None), None)
    field = np.ones((2, 2, 3), np.int32)
    assert np.array_equal(known.exactly(0, field, 0.005), field)  # of what was before nothing is known
    found = known.exactly(1, field, 0.005)
    assert not np.array_equal(found, field)
    assert np.array_equal(known.exactly(1, field + 3, 0.005), found)


def test_what_is_covered_is_seen_little():
    memory = Memory.empty(ROWS, COLUMNS)
    known = Scene(Wanted(np.zeros((1, 3, 48, 72), np.float32), None, None), memory)
    assert not known.cover([memory])
    assert known.seen is None
    memory.opaque[:, :40] = True
    assert not known.cover([memory])  # it is not shown
    assert known.cover([replace(memory, shown=np.ones((ROWS, COLUMNS), bool))])
    assert known.seen.shape == (1, ROWS, COLUMNS)
    assert np.allclose(known.seen[0], [[1 / 256] * 4 + [1 / 4, 3 / 4] + [1] * 3])


def parts_of(data):
    """Detail, and what comes after corrections, of the bytes of a chunk."""
    _, rest = cut(data)
    detail, rest = cut(rest)
    return detail, cut(rest)[1]


def symbol_bytes(path):
    with open_cvl(path) as cvl:
        return [len(parts_of(cvl.read_chunk(number).symbols)[1]) for number in range(len(cvl.index))]


def test_what_is_remembered_hides_where_it_is_still_right():
    rng = np.random.default_rng(0)
    planes = rng.integers(-900, 900, (3, SIDE * ROWS, SIDE * COLUMNS)).astype(np.int16)
    opaque = np.zeros(planes.shape[1:], bool)
    opaque[:, :48] = True
    memory = Memory(planes, np.ones((ROWS, COLUMNS), bool), opaque)
    now = turned(planes[None] / 16, COLOURS.T) / np.float32(127.5)
    now[..., :8] *= -1
    beginning = Scene(Wanted(now, None, None), None)
    beginning.remember(memory, 48, 2000.0)
    assert beginning.seen is None  # until it is tried
    assert np.allclose(beginning.seen_if_linked[0, 0], [3 / 4, 1 / 4, *[1 / 256] * 3, 1 / 4, 3 / 4, 1, 1])
    field = np.full((2, 2, 3), 9, np.int32)
    assert (beginning.exactly(0, field, 0.005) == [0, 9, 9]).all()  # by blocks of four times four positions


def test_a_page_at_rest_is_painted_in_one_period_and_not_in_the_next(tmp_path):
    """By the default model: what a random one decodes is no page."""
    write_lossless(tmp_path / "page.mkv", page(53, 96, 64))
    encode_file(tmp_path / "page.mkv", tmp_path / "page.cvl", EncodeOptions(device="cpu", quality=8))
    with open_cvl(tmp_path / "page.cvl") as cvl:
        parts = [parts_of(cvl.read_chunk(number).symbols) for number in range(4)]
    details = [len(detail) for detail, _ in parts]
    _, last = parts[3]
    assert last[0] == LINKED
    assert details[0] > 1000
    assert max(details[1:]) < 40, details
    assert len(last) < 200


def test_the_frames_beside_show_what_is_opaque():
    rng = np.random.default_rng(0)
    first, last = torch.from_numpy(rng.uniform(-1, 1, (2, 1, 3, 8, 8)).astype(np.float32))
    detail = Detail(
        np.full((2, 3, 8, 8), 51 * 16, np.int16),
        np.stack([np.zeros((8, 8), bool), np.eye(8) > 0]),
        np.zeros((2, 2, 1, 1), np.int32),
    )
    group = painted(Group(np.zeros((3, 2, 1, 1), np.int16), first, last, ()), detail, 1)
    for frame, before in ((group.first, first), (group.last, last)):
        assert torch.allclose(frame[0, :, range(8), range(8)], torch.tensor(0.4))
        assert torch.equal(frame[0, :, 0, 1:], before[0, :, 0, 1:])


@pytest.fixture
def sparing(monkeypatch):
    """A random network lacks a lot everywhere: so that not all is painted, nor corrected."""
    monkeypatch.setattr(cosine_choice, "LAST_PRICE", 3000.0)


@pytest.fixture(params=[PAINTED, KEEPING])
def options(request):
    return replace(OPTIONS, model=f"tiny-{request.param}")


@pytest.fixture
def drawn(tiny, sparing, lossless, tmp_path, options):
    encode_file(lossless(CLIP), tmp_path / "whole.cvl", options)
    return tmp_path / "whole.cvl"


@pytest.mark.parametrize("options", [PAINTED], indirect=True)
def test_drawn_clips_are_painted_and_the_better_for_it(drawn, tmp_path):
    with open_cvl(drawn) as cvl:
        read = list(latents.read_latents(cvl, latents.model_of(cvl.header)[1]))
    shares = [places.mean() for chunk in read for places in chunk.detail.opaque]
    assert 0.2 < np.mean(shares) < 0.95, shares
    encode_file(tmp_path / "source.mkv", tmp_path / "plain.cvl", replace(OPTIONS, model=f"tiny-{CORRECTED}"))
    better = psnr(CLIP, frames_of(drawn)).mean() - psnr(CLIP, frames_of(tmp_path / "plain.cvl")).mean()
    assert better > 0.2
    assert drawn.stat().st_size < 1.1 * (tmp_path / "plain.cvl").stat().st_size


@pytest.mark.parametrize("busy", [1, 10**9], ids=["groups of 1", "groups of 4"])
def test_the_encoder_sees_what_the_decoder_shows(drawn, monkeypatch, busy, options):
    assert_the_encoder_sees_what_the_decoder_shows(monkeypatch, drawn, CLIP, options, busy)


def test_a_part_is_that_of_the_whole(drawn, options):
    spec = find_model(options.model)
    engine = codec.make_engine(spec, latents.Weights(spec).build, codec.choose_placement("cpu", "fp32"))
    parts = range(3), range(12, 13), range(13, 15), range(28, 29), range(29, 46), range(44, 45), range(60, 62)
    assert assert_parts_are_those_of_the_whole(engine, drawn, parts) == len(CLIP)


def test_an_interrupted_encode_goes_on_to_the_same_bytes(drawn, options):
    assert_an_interrupted_encode_goes_on(drawn, options)


@pytest.mark.parametrize("options", [PAINTED], indirect=True)
def test_what_a_chunk_takes_is_measured(drawn):
    assert_all_is_measured(drawn, chunks=5)


@pytest.mark.parametrize("options", [PAINTED], indirect=True)
def test_symbols_that_nobody_sees_take_few_bits(drawn, monkeypatch, tmp_path, options):
    """The file of an encoder that does not know what is covered takes more for no better frames."""
    monkeypatch.setattr(scene.Scene, "cover", lambda self, memories: False)
    encode_file(tmp_path / "source.mkv", tmp_path / "plain.cvl", options)
    assert drawn.stat().st_size < (tmp_path / "plain.cvl").stat().st_size
    own, plain = (sum(symbol_bytes(path)) for path in (drawn, tmp_path / "plain.cvl"))
    assert own < 0.95 * plain
    worse = psnr(CLIP, frames_of(tmp_path / "plain.cvl")).mean() - psnr(CLIP, frames_of(drawn)).mean()
    assert worse < 0.3


@pytest.mark.parametrize("options", [PAINTED], indirect=True)
def test_without_detail_nothing_is_painted(drawn, tmp_path, options):
    encode_file(tmp_path / "source.mkv", tmp_path / "plain.cvl", replace(options, detail=False))
    with open_cvl(tmp_path / "plain.cvl") as cvl:
        assert all(c.detail is None for c in latents.read_latents(cvl, latents.model_of(cvl.header)[1]))


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (41, 30)])
@pytest.mark.parametrize("frames", [1, 2, 5, 13, 14])
def test_every_number_of_frames_and_every_size(tiny, sparing, lossless, tmp_path, frames, size):
    rgb = drawn_picture(frames, *size)
    encode_file(lossless(rgb), tmp_path / "a.cvl", OPTIONS)
    assert frames_of(tmp_path / "a.cvl").shape == rgb.shape


def test_frames_of_what_is_drawn_are_aligned_by_whole_pixels():
    """Thin lines that move by an odd number of pixels, which half a resolution does not show."""
    wide = (127.5 * (1 + lines(400, 192)[0]))[None]
    frames = np.stack([wide[0, 100 + 5 * n : 292 + 5 * n] for n in range(4)])
    fields = align.find(torch.from_numpy(frames[None].copy()))[0]
    for part, frame in enumerate((0, 1, 3)):
        inside = fields[part][:, 2:-2, 2:-2]
        assert (inside[0] == 5 * UNIT * (frame - REFERENCE)).mean() > 0.9, (frame, inside[0])
        assert (inside[1] == 0).mean() > 0.9


def test_what_a_camera_saw_is_not_painted(tiny, sparing, lossless, tmp_path):
    """Of the default model."""
    rgb = moving_picture(17, 96, 64)
    encode_file(lossless(rgb), tmp_path / "a.cvl", EncodeOptions(device="cpu"))
    with open_cvl(tmp_path / "a.cvl") as cvl:
        read = list(latents.read_latents(cvl, latents.model_of(cvl.header)[1]))
    assert all(chunk.detail is None or chunk.detail.opaque.mean() < 0.02 for chunk in read)


assert BLOCK * CELL == 32  # of which the sizes above are made
