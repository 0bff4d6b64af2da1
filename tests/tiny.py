"""KB-sized models for tests; `python tests/tiny.py` made their goldens, which never change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save

from cvvae_cli.access import decode_frames
from cvvae_cli.bitstream.correction_choice import encode_left
from cvvae_cli.bitstream.corrections import CorrectionCoder
from cvvae_cli.bitstream.detail import Choose, DetailCoder, Memory
from cvvae_cli.bitstream.motion import Picture
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.bitstream.vectors import BLOCK
from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine.device import choose_placement
from cvvae_cli.engine.load import make_engine
from cvvae_cli.engine.stream import Engine
from cvvae_cli.latents import bits_by_channel, model_of, read_latents
from cvvae_cli.models.compact import Compact, CompactConfig
from cvvae_cli.models.registry import MODELS, NETWORK_PREFIX, ModelSpec, Weights, build_compact
from cvvae_cli.options import EncodeOptions
from cvvae_cli.train.tables import fit_tables
from cvvae_cli.types import FrameBatch, LatentChunk, LatentGeometry, VideoInfo
from cvvae_cli.video.writer import OutputOptions, VideoWriter

GOLDEN = Path(__file__).parent / "golden"
GAIN = (20.0, 2.0, 1.0, 0.5)
CODERS = (
    "context-1",
    "prior-1",
    "prior-2",
    "prior-3",
    "prior-4",
    "prior-5",
    "prior-6",
    "prior-7",
)  # of the tiny models, from tiny-1 on
REFINED = len(CODERS) + 1  # the number of the tiny model with a refiner
FILLED = REFINED + 1  # and of the one that takes what its groups lost from those beside
ACROSS = FILLED + 1  # and of the one whose refiner sees farther, and the chunk before
JOINED = ACROSS + 1  # and of the one with a joiner
CORRECTED = JOINED + 1  # and of the one whose frames are corrected
PAINTED = CORRECTED + 1  # and of the one whose detail may be opaque
BORROWING = PAINTED + 1  # and of the one whose frames may be those of the group beside
GROUPED = BORROWING + 1  # and of the one whose symbols are coded in groups of channels
CUTS = (1, 3)  # of its channels
PYRAMID = GROUPED + 1  # and of the one whose first frames are coded from coarse to fine
STRIDES = (4, 2, 1)  # of their passes
COARSE_TO_FINE = PYRAMID + 1  # and of the one whose other frames are, too
LATER_STRIDES = (4, 2, 1)  # of the passes of those
REACHING = COARSE_TO_FINE + 1  # and of the one whose vectors reach farther
REACH = 300  # pixels
KEEPING = REACHING + 1  # and of the one whose opaque detail is shown as it is
FILES = {
    FILLED: REFINED,
    CORRECTED: JOINED,
    PAINTED: JOINED,
    BORROWING: JOINED,
    KEEPING: REACHING,
}  # the number of the file of the weights, if it is another's
LATER = {
    CORRECTED: "prior-8",
    PAINTED: "prior-9",
    BORROWING: "prior-10",
    GROUPED: "prior-11",
    PYRAMID: "prior-12",
    COARSE_TO_FINE: "prior-13",
    REACHING: "prior-14",
    KEEPING: "prior-15",
}  # coders that the names of tiny models do not tell
EVERY = 6  # frames kept of the golden clip
CONFIG = CompactConfig(
    latent_channels=4, fine_channels=8, coarse_channels=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1)
)


def tiny_spec(number: int = 1) -> ModelSpec:
    """A tiny model, like one of the registry: tiny-1 with `context-1`, tiny-2 to -8 `prior-1` to `-7`.

    The integers of tiny-7 and tiny-8 are those of tiny-6. tiny-9 is tiny-8 with a refiner, tiny-10
    is tiny-9 that fills borders, tiny-11 fills them too and has another refiner, tiny-12 a joiner as well.
    tiny-13 is tiny-12 with `prior-8`, tiny-14 with `prior-9`, tiny-15 with `prior-10`; tiny-16 to
    tiny-18 have integers of their own, of `prior-11` to `prior-13`. tiny-19 is tiny-18 with `prior-14`,
    tiny-20 is tiny-19 with `prior-15`.
    """
    name, file = f"tiny-{number}", f"tiny-{FILES.get(number, number)}.safetensors"
    data = (GOLDEN / file).read_bytes()
    return ModelSpec(
        name=name,
        geometry=LatentGeometry(4, 4, 8),
        build=build_compact,
        weights_file=file,
        weights_sha256=hashlib.sha256(data).hexdigest(),
        chunk_latents=4,
        coder=LATER.get(number, CODERS[min(number, len(CODERS)) - 1]),
        period=8,
        encode_context=CONFIG.encode_context,
        decode_context=CONFIG.decode_context,
        encode_halo=CONFIG.encode_halo,
        decode_halo=CONFIG.decode_halo,
        levels=None if number == 1 else (10, 100),
        default_level=None if number == 1 else 50,
        base="tiny-8" if number >= REFINED else None,
        fills_borders=number >= FILLED,
    )


def random_network(config: CompactConfig = CONFIG, seed: int = 0) -> Compact:
    """A network in which every layer matters: nothing is left at zero."""
    torch.manual_seed(seed)
    network = Compact(config).channels_last()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            fan_in = module.weight[0].numel()
            torch.nn.init.normal_(module.weight, std=0.8 / fan_in**0.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    basis, _ = torch.linalg.qr(torch.randn(768, config.latent_channels))
    smooth = torch.linspace(0, 1, 768)[:, None] * torch.arange(1, config.latent_channels + 1) * 3.14
    basis, _ = torch.linalg.qr(torch.cos(smooth) + 0.05 * basis)
    network.start_from_principal_components(torch.zeros(768), basis, 0.9)
    return network.eval().requires_grad_(False)


def write_lossless(path: Path, rgb: np.ndarray, pts: np.ndarray | None = None) -> None:
    """RGB frames (T, H, W, 3), losslessly; pts in ms, by default those of 25 frames a second."""
    info = VideoInfo(rgb.shape[2], rgb.shape[1], Fraction(25), Fraction(1, 1000), len(rgb))
    times = np.arange(len(rgb), dtype=np.int64) * 40 if pts is None else pts
    with VideoWriter(path, path, info, OutputOptions(codec="ffv1"), None) as video:
        video.write(FrameBatch(rgb, times))


def moving_picture(frames: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured waves that move, with some noise: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(x / (5 + 3 * c) + t / 4) + np.cos(y / (7 + 2 * c) - t / 5) for c in range(3)]
    noise = rng.normal(0, 3, (frames, height, width, 3))
    return np.clip(np.stack(waves, -1) * 55 + 128 + noise, 0, 255).astype(np.uint8)


def drawn_picture(frames: int, width: int, height: int) -> np.ndarray:
    """Coloured tiles that move up by two pixels a frame, and waves beside them, uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(2)
    tiles = rng.integers(0, 256, (height // 3 + frames, width // 6 + 1, 3)).repeat(3, 0).repeat(6, 1)
    rgb = moving_picture(frames, width, height)
    for number, picture in enumerate(rgb):
        picture[:, : width // 2] = tiles[2 * number : 2 * number + height, : width // 2]
    return rgb


def page(frames: int, width: int, height: int) -> np.ndarray:
    """Letters at rest, uint8 (T, H, W, 3)."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for row in range(4, height, 12):
        draw.text((3, row), "latents of a video are a few numbers for each block of pixels", fill="black")
    return np.repeat(np.asarray(image)[None], frames, axis=0)


def batches_of(rgb: np.ndarray, size: int = 8, first_pts: int = 0, ticks: int = 512) -> list[FrameBatch]:
    """Frames as the batches that a reader gives."""
    pts = np.arange(len(rgb), dtype=np.int64) * ticks + first_pts
    return [FrameBatch(rgb[i : i + size], pts[i : i + size]) for i in range(0, len(rgb), size)]


def encode(
    engine: Engine, rgb: np.ndarray, level: int | None = 50, worthless: float | None = None
) -> list[LatentChunk]:
    """Chunks of frames, as the streaming engine gives them, of a quality level."""
    chunks = engine.encode_stream(batches_of(rgb), worthless=worthless, keeps_means=True)
    return [replace(chunk, level=level) for chunk in chunks]


def decode(
    engine: Engine,
    chunks: list[LatentChunk],
    wanted: range | None = None,
    width: int = 72,
    height: int = 56,
) -> np.ndarray:
    """Their frames, or some of them."""
    return np.concatenate([b.rgb for b in engine.decode_stream(chunks, width, height, wanted)])


def what_reaches(engine: Engine, chunks: list[LatentChunk], wanted: range) -> list[LatentChunk]:
    """Of all chunks of a video what `needed` asks for, and no more."""
    geometry = engine.spec.geometry
    needed = engine.needed(wanted, *chunks[0].latents.shape[2:])
    given = []
    for number, chunk in enumerate(chunks):
        latents = range(4 * number, min(4 * number + 4, needed.stop))
        if latents and latents.stop > needed.start:
            frames = range(chunk.frames.start, min(chunk.frames.stop, geometry.frames_of(latents).stop))
            given.append(replace(chunk, latents=chunk.latents[:, : len(latents)], frames=frames))
    return given


def assert_parts_are_those_of_the_whole(engine: Engine, path: Path, parts: Iterable[range]) -> int:
    """Of the frames of a file; how many it has."""
    weights = Weights(engine.spec)
    with open_cvl(path) as cvl:
        whole = np.concatenate([b.rgb for b in decode_frames(cvl, weights, engine)])
        for wanted in parts:
            part = np.concatenate([b.rgb for b in decode_frames(cvl, weights, engine, wanted)])
            assert np.array_equal(part, whole[wanted.start : wanted.stop])
    return len(whole)


def assert_all_is_measured(path: Path, chunks: int) -> None:
    """Of a file of so many chunks: what they take, whatever they hold."""
    with open_cvl(path) as cvl:
        assert len(cvl.index) == chunks
        bits = bits_by_channel(cvl, model_of(cvl.header)[1])
        taken = sum(8 * len(cvl.read_chunk(n).symbols) for n in range(chunks))
    assert bits is not None
    assert abs(bits.sum() - taken) < 0.02 * taken + 64 * chunks


def frames_of(path: Path, change: Callable[[LatentChunk], LatentChunk] = lambda chunk: chunk) -> np.ndarray:
    """Those of a file, decoded in fp32, whose chunks are changed before."""
    with open_cvl(path) as cvl:
        spec, weights = model_of(cvl.header)
        engine = make_engine(spec, weights.build, choose_placement("cpu", "fp32"))
        chunks = map(change, read_latents(cvl, weights))
        return np.concatenate([batch.rgb for batch in engine.decode_stream(chunks, *cvl.header.size)])


def assert_the_encoder_sees_what_the_decoder_shows(
    monkeypatch: pytest.MonkeyPatch, path: Path, clip: np.ndarray, options: EncodeOptions, busy: int
) -> None:
    """What lacks in the end of source.mkv beside a file, as it was measured before corrections were chosen.

    The file is written anew; `busy`: positions that keep a CPU busy.
    """
    monkeypatch.setattr("cvvae_cli.engine.stream.BUSY_POSITIONS", busy)
    measured: list[np.ndarray] = []

    def noted(coder: CorrectionCoder, left: Iterable[np.ndarray]) -> bytes:
        measured.extend(left := list(left))
        return encode_left(coder, left)

    monkeypatch.setattr("cvvae_cli.engine.mirror.KEPT_AS", torch.float32)  # half floats are only about right
    monkeypatch.setattr("cvvae_cli.bitstream.chunk.encode_left", noted)
    encode_file(path.parent / "source.mkv", path, replace(options, force=True))
    assert len(measured) == len(clip) - 1
    plain = frames_of(path, lambda chunk: replace(chunk, corrections=None))
    for frame, left in enumerate(measured):
        expected = clip[frame].astype(np.float32) - plain[frame]
        assert np.abs(left.transpose(1, 2, 0) - expected).max() <= 0.501, frame


def assert_an_interrupted_encode_goes_on(path: Path, options: EncodeOptions) -> None:
    """Of source.mkv beside a file, to the same bytes, wherever it is cut between chunks."""
    whole, output = path.read_bytes(), path.parent / "out.cvl"
    with open_cvl(path) as cvl:
        ends = list(cvl.index[1:])
    for cut in [*ends, len(whole) - 1]:
        (path.parent / "out.cvl.part").write_bytes(whole[:cut])
        encode_file(path.parent / "source.mkv", output, replace(options, resume=True))
        assert output.read_bytes() == whole, cut
        output.unlink()


def same(one: Memory, other: Memory) -> bool:
    return all(np.array_equal(*both) for both in zip(vars(one).values(), vars(other).values(), strict=True))


def assert_memories_come_back(
    coder: DetailCoder, memory: Memory, vectors: list[np.ndarray], choices: Iterable[Choose]
) -> Memory:
    """Of chunks of detail, whole and in parts, each of which goes on from the one before; the last memory."""
    for choose in choices:
        data, memories = coder.encode(memory, vectors, choose)
        found = coder.decode(data, memory, vectors)
        assert all(map(same, found, memories))
        assert all(map(same, coder.decode(data, memory, vectors[:1]), memories[:1]))
        memory = memories[-1]
    return memory


def make_weights() -> None:
    network = random_network()
    network.load_state_dict({n: t.half().float() for n, t in network.state_dict().items()})
    gain = np.array(GAIN, np.float32)
    clips = [
        torch.from_numpy(moving_picture(17, 64, 64, seed)).permute(3, 0, 1, 2)[None] for seed in range(6)
    ]
    symbols = [
        Quantizer(gain).quantize(network.encode(c.contiguous().float() / 127.5 - 1)[0].numpy()) for c in clips
    ]
    arrays = {NETWORK_PREFIX + n: t.half().numpy() for n, t in network.state_dict().items()}
    arrays |= {"quantizer.gain": gain} | fit_tables(symbols).to_tensors()
    metadata = {"model": "tiny-1", "config": json.dumps(CONFIG.to_dict())}
    (GOLDEN / "tiny-1.safetensors").write_bytes(save(arrays, metadata))


def make_refiner_weights(number: int) -> None:
    """tiny-9, -11 or -12: refiners that follow neighbours by about a half, and add something else."""
    config = replace(CONFIG, refiner_width=8, refiner_layers=3)
    if number == JOINED:
        config = replace(config, joiner_width=8, joiner_layers=3)
    if number >= ACROSS:
        inner = {"refiner_inner_width": 8, "refiner_inner_layers": 1, "refiner_across": True}
        config = replace(config, refiner_layers=4, **inner)
    network = random_network(config, seed=number)
    arrays = {}
    for part in ("refiner", "joiner"):
        if (refiner := getattr(network, part)) is None:
            continue
        refiner.head.weight.data.mul_(0.3)
        state = refiner.state_dict()
        arrays |= {f"{NETWORK_PREFIX}{part}.{n}": t.half().contiguous().numpy() for n, t in state.items()}
    metadata = {"model": f"tiny-{number}", "base": "tiny-8", "config": json.dumps(config.to_dict())}
    (GOLDEN / f"tiny-{number}.safetensors").write_bytes(save(arrays, metadata))


def make_prior_weights() -> None:
    """The same network with quality levels, fields of motion, and a trained prior of width 16.

    What made tiny-2, with `prior-1`, is in the history of this file, up to commit acbd238; tiny-3, with
    `prior-2`, up to 82e87a1; tiny-4, with `prior-3`, up to 44a7a01; tiny-5, with `prior-4`, up to 9378a44.
    """
    from cvvae_cli.bitstream.flow import FREQUENCIES
    from cvvae_cli.train.aligned import onto_references
    from cvvae_cli.train.flow import flow_frequencies
    from cvvae_cli.train.motion import rounded_motion
    from cvvae_cli.train.prior import CodedClip, LatentPrior, Levels, Rounder, fit_frequencies, logistic_bits

    arrays = load_file(GOLDEN / "tiny-1.safetensors")
    network = random_network()
    log_gain = np.log(np.outer((0.1, 0.25, 0.5, 1.0), GAIN)).astype(np.float32)
    log_step = -log_gain - np.float32(0.02)
    anchors = torch.from_numpy(log_gain), torch.from_numpy(log_step)
    clips = [
        torch.from_numpy(moving_picture(33, 64, 64, seed)).permute(3, 0, 1, 2)[None] for seed in range(8)
    ]
    aligned = [  # every other one stays as it is
        onto_references(c.contiguous().float() / 127.5 - 1, torch.tensor([number % 2 == 1]))
        for number, c in enumerate(clips)
    ]
    latents = [network.encode(video) for video, _, _ in aligned]
    plain = [(c.float() / 127.5 - 1, network.encode(c.float() / 127.5 - 1)) for c in clips]
    torch.manual_seed(0)
    prior, levels = LatentPrior(4, width=16), Levels.at(torch.linspace(0, 1, 8), *anchors)
    prior.motion.fit(plain)
    optimizer = torch.optim.Adam(prior.groups(3e-3))
    scaled = torch.cat(latents) * levels.gain
    vectors, which = prior.motion.vectors(torch.cat(latents)), torch.cat([each for _, _, each in aligned])
    for _ in range(800):
        estimate = prior(prior.decoded(scaled, vectors, which, levels), vectors, which, levels)
        chosen = prior.quantized(scaled, *estimate, vectors)
        logistic_bits(chosen, *estimate).mean().backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    rounder = Rounder(prior)
    rounder.measure(scaled, which, levels)
    listed = [
        CodedClip(s.permute(1, 0, 2, 3).numpy(), np.append(False, each), 10 + round(90 * place))
        for s, each, place in zip(scaled, which.numpy(), levels.place.tolist(), strict=True)
    ]
    every = Levels.at(torch.linspace(0, 1, 91), *anchors)
    motion = rounded_motion(prior.motion, every.gain.flatten(1), every.step.flatten(1))
    tables = fit_frequencies(rounder.tables(), motion, listed, period=8)
    kept = {n: a for n, a in arrays.items() if n.startswith(NETWORK_PREFIX)}
    kept |= tables.to_tensors() | motion.to_tensors()
    kept |= {"quantizer.log_gain": log_gain, "quantizer.log_step": log_step}
    kept[FREQUENCIES] = flow_frequencies([fields for _, fields, _ in aligned])
    metadata = {"model": "tiny-6", "config": json.dumps(CONFIG.to_dict())}
    (GOLDEN / "tiny-6.safetensors").write_bytes(save(kept, metadata))


def make_grouped_weights(
    number: int = GROUPED, strides: tuple[int, ...] = (), later: tuple[int, ...] = ()
) -> None:
    """tiny-16: tiny-12 with a prior that is trained on from that of tiny-6, in groups of channels.

    tiny-17 as well, with STRIDES, and tiny-18, with LATER_STRIDES too.
    """
    from cvvae_cli.train.config import PriorSection, TrainConfig
    from cvvae_cli.train.symbols import PriorTrainee

    register_all()
    section = PriorSection(cuts=CUTS, strides=strides, later=later, clips=8)
    trainee = PriorTrainee(
        TrainConfig(task="prior", start=f"tiny-{JOINED}", prior=section), torch.device("cpu")
    )
    trainee.start(None)  # type: ignore[arg-type]  # nothing is drawn
    samples = trainee._frozen["samples"]
    for clip in range(section.clips):
        video = torch.from_numpy(moving_picture(33, 64, 64, clip)).permute(3, 0, 1, 2)[None]
        samples[clip] = trainee.coded(video.contiguous().float() / 127.5 - 1, 10 + 90 * clip // 7)
    optimizer = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], 3e-3)
    torch.manual_seed(0)
    for _ in range(300):
        trainee.bits(list(samples.values()), torch.rand(8, *samples[0].scaled.shape)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    tables = trainee.tables(None, section.clips)  # type: ignore[arg-type]
    arrays = load_file(GOLDEN / f"tiny-{JOINED}.safetensors") | tables.to_tensors()
    write_joined(number, arrays)


def make_reaching_weights() -> None:
    """tiny-19: tiny-18 whose vectors go up to REACH."""
    register_all()
    arrays = load_file(GOLDEN / f"tiny-{COARSE_TO_FINE}.safetensors")
    arrays["prior.reach"] = np.array([REACH], np.uint16)
    write_joined(REACHING, arrays)


def write_joined(number: int, arrays: dict[str, np.ndarray]) -> None:
    """The file of a tiny model that has the network of tiny-12."""
    config = Weights(tiny_spec(JOINED)).config
    metadata = {"model": f"tiny-{number}", "base": "tiny-8", "config": json.dumps(config)}
    (GOLDEN / f"tiny-{number}.safetensors").write_bytes(save(arrays, metadata))


def register_all() -> None:
    from cvvae_cli import store

    numbers = (n for n in range(1, KEEPING + 1) if (GOLDEN / f"tiny-{FILES.get(n, n)}.safetensors").exists())
    MODELS.update({f"tiny-{n}": tiny_spec(n) for n in numbers})
    store.WEIGHTS_FOLDERS = (*store.WEIGHTS_FOLDERS, GOLDEN)


GOLDENS = {
    "v1.0-context": {"model": "tiny-1"},
    "v1.0-prior": {"model": "tiny-2", "quality": 8.5},
    "v1.0-motion": {"model": "tiny-3", "quality": 8.5},
    "v1.0-centered": {"model": "tiny-4", "quality": 8.5},
    "v1.0-anchored": {"model": "tiny-5", "quality": 8.5},
    "v1.0-aligned": {"model": "tiny-6", "quality": 8.5},
    "v1.0-linked": {"model": "tiny-7", "quality": 8.5},
    "v1.0-detailed": {"model": "tiny-8", "quality": 8.5},
    "v1.0-corrected": {"model": f"tiny-{CORRECTED}", "quality": 8.5},
    "v1.0-painted": {"model": f"tiny-{PAINTED}", "quality": 8.5},
    "v1.0-borrowing": {"model": f"tiny-{BORROWING}", "quality": 8.5},
    "v1.0-grouped": {"model": f"tiny-{GROUPED}", "quality": 8.5},
    "v1.0-pyramid": {"model": f"tiny-{PYRAMID}", "quality": 8.5},
    "v1.0-coarse-to-fine": {"model": f"tiny-{COARSE_TO_FINE}", "quality": 8.5},
    "v1.0-reaching": {"model": f"tiny-{REACHING}", "quality": 8.5},
    "v1.0-keeping": {"model": f"tiny-{KEEPING}", "quality": 8.5},
    "v1.0-exact": {"model": "tiny-1", "exact": "bf16"},
}


def make_goldens(names: Iterable[str] = GOLDENS) -> None:
    """Write golden files of format 1.0, their symbols or latents, and their frames."""
    from cvvae_cli import codec, latents
    from cvvae_cli.bitstream import anchors, cosine_choice
    from cvvae_cli.bitstream.coders import ENTROPY_CODERS
    from cvvae_cli.engine.device import choose_placement
    from cvvae_cli.flow import align, refinement
    from cvvae_cli.options import EncodeOptions

    refinement.WORTHLESS, align.LEAST_GAIN = 1.0, -0.1  # so that fields hold something in all their parts
    register_all()
    source = GOLDEN / "source.mkv"
    for name in names:
        options = GOLDENS[name]
        # so that not all is shown, nor corrected, however bad the network
        kind = name.removeprefix("v1.0-")
        borrows = kind in ("borrowing", "grouped", "pyramid", "coarse-to-fine", "reaching", "keeping")
        if kind == "reaching":  # any vectors decode
            anchors.PaintedCoder.search = wild_vectors  # type: ignore[assignment, method-assign]
        price = 5000.0 if borrows or kind == "painted" else cosine_choice.FIRST_PRICE
        cosine_choice.LAST_PRICE = 2000.0 if kind == "corrected" else price
        write_golden_source(
            source,
            is_slow=kind in ("linked", "detailed"),
            is_drawn=borrows or kind == "painted",
            changes=(10, 16, 23) if borrows else None,
            dims=kind in ("coarse-to-fine", "reaching", "keeping"),
        )
        golden = GOLDEN / f"{name}.cvl"
        codec.encode_file(source, golden, EncodeOptions(**options, device="cpu", dtype="fp32", force=True))
        with open_cvl(golden) as cvl:
            spec, weights = latents.model_of(cvl.header)
            chunks = list(latents.read_latents(cvl, weights))
            engine = Engine(spec, weights.build, choose_placement("cpu", "fp32"))
            frames = np.concatenate([b.rgb for b in engine.decode_stream(chunks, 52, 34)])
            level = cvl.header.level
        values = np.concatenate([c.latents for c in chunks], axis=1)
        if "exact" not in options:
            quantizer = Quantizer(*weights.gain_and_step(level))
            step = quantizer.step if quantizer.step is not None else 1 / quantizer.gain
            one = 2 ** ENTROPY_CODERS[spec.coder].symbol_bits
            values = np.rint(values.transpose(1, 0, 2, 3) / step * one).astype(np.int16)
        np.savez_compressed(GOLDEN / f"{name}.npz", values=values, frames=frames[::EVERY])
        source.unlink()


def wild_vectors(_: object, before: Picture, wanted: torch.Tensor) -> np.ndarray:
    """In place of the search of a coder: vectors of all lengths up to REACH."""
    rows, columns = (-(-length // BLOCK) for length in wanted.shape[:2])
    rng = np.random.default_rng(int(before.luma.abs().sum()) % 2**32)
    return rng.integers(-REACH, REACH + 1, (2, rows, columns)).astype(np.int32)


def write_golden_source(
    path: Path,
    *,
    is_slow: bool = False,
    is_drawn: bool = False,
    changes: tuple[int, ...] | None = None,
    dims: bool = False,
) -> None:
    """38 frames that move, with a hard change, and sound; or 102 that are slow, the change late; or drawn, or
    dim in turns at the end."""
    frames, change = (102, 92) if is_slow else (38, 16)
    rgb = moving_picture(frames, 52, 34, seed=9)
    if is_slow:
        rgb = np.stack([np.roll(rgb[0], number // 40, axis=1) for number in range(frames)])
    if is_drawn:
        rgb = drawn_picture(frames, 52, 34)
    for start in changes or (change,):
        rgb[start:] = 255 - rgb[start:]  # a change that only escapes can code
    if dims:
        rgb[30:] = (rgb[30:] * np.array([1, 0.5, 0.7])[np.arange(8) % 3, None, None, None]).astype(np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 52, 34, "bgr0"
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for number, picture in enumerate(rgb):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if number % 8 == 0:
                samples = np.full((1, 80), 100 * number, np.int16)
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                frame.sample_rate, frame.pts = 8000, 320 * number
                container.mux(audio.encode(frame))
        container.mux(video.encode(None))


if __name__ == "__main__":
    # the weights of tiny-6, and so of those after it, are of make_prior_weights; those of tiny-16 to tiny-18
    # of make_grouped_weights, those of tiny-19 of make_reaching_weights
    make_goldens(["v1.0-reaching"])
