"""The quality level that reaches a target, found by coding samples of the clip first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from cvvae_cli.bitstream.chunk import (
    MOST_LINKED,
    ChunkCoder,
    CoderWithDetail,
    better_beginning,
    coder_of,
    told_by,
    which_aligned,
)
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.correction_choice import is_corrected
from cvvae_cli.bitstream.corrections import CorrectionCoder
from cvvae_cli.bitstream.detail import detail_of
from cvvae_cli.bitstream.flow import BorrowingFlowCoder, worthless
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.bitstream.residuals import Plan, ResidualCoder
from cvvae_cli.bitstream.scene import LEAST_HIDDEN
from cvvae_cli.engine.base import BaseEngine
from cvvae_cli.engine.mirror import Mirror
from cvvae_cli.engine.plan import concatenate
from cvvae_cli.engine.stream import Engine
from cvvae_cli.errors import ConfigError
from cvvae_cli.metrics.psnr import psnr
from cvvae_cli.models.registry import Weights
from cvvae_cli.options import Target
from cvvae_cli.types import Correction, Detail, FrameBatch, LatentChunk
from cvvae_cli.video.color import in_eight_bits
from cvvae_cli.video.reader import FrameSource, VideoReader
from cvvae_cli.video.sidestreams import SideSource, SideWriter

SAMPLES = 3
SIZE_MARGIN = 0.97  # samples differ from the whole by some percent
FILE_BYTES, CHUNK_BYTES = 500, 36  # beside the symbols, rather more: measured 402, some 70 a stream, and 33.7
ABOUT = 4  # levels near enough to align frames for
DB_PER_LEVEL, LOG_PER_LEVEL = 0.05, 0.02  # about: of PSNR, and of bits
LEAST_SLOPE, PATIENCE = 1e-6, 6  # of a search: against noise; tries before it halves what is left
ENDLESS = 2**20  # a period that does not end within a sample
SAMPLE_CHUNKS = 3  # of latent frames each: the first costs more than those that follow it


@dataclass(frozen=True)
class Sample:
    """A few chunks of the clip: their frames, and their latents as the network gives them."""

    rgb: np.ndarray
    chunks: tuple[LatentChunk, ...]


@dataclass(frozen=True)
class Choice:
    """A level, and what the samples give at it."""

    level: int
    bits_per_pixel: float
    psnr_db: float


def find_level(
    target: Target,
    video: FrameSource,
    side: SideSource,
    engine: BaseEngine,
    weights: Weights,
    *,
    aligns: bool = True,
    details: bool = True,
) -> Choice:
    """The highest level that keeps within a rate or size, or the lowest that reaches a PSNR.

    `aligns`: frames of a group are moved onto one, and `details`: detail is coded, if the coder can. How
    frames are aligned depends on the level, so it is done again once that is known about. `video` is read to
    its end. Raises ConfigError for a target that no level reaches.
    """
    if engine.spec.levels is None:
        raise ConfigError(f"{engine.spec.name} has one quality level only", hint="leave the target out")
    asked = (target.bits_per_pixel, target.psnr_db, target.size_bytes)
    if not all(value is None or math.isfinite(value) for value in asked):
        raise ConfigError("a target is a finite number", hint="for the best quality pass --quality 10")
    first, last = engine.spec.levels
    counter = SideCounter(video, side)
    clips, frames = take_clips(video, engine)
    most = room_for(target, clips[0].rgb.shape[1:3], frames, counter, engine)
    kind = ENTROPY_CODERS[engine.spec.coder]
    aligns, details = aligns and kind.takes_fields, details and kind.takes_detail
    level = (first + last) // 2
    rounds = 2 if aligns else 1
    shares: dict[int, float] = {}
    for number in range(rounds):
        error = worthless(level) if aligns else None
        within = 1 if number == rounds - 1 else ABOUT
        samples = [encoded(clip, engine, error, details=details) for clip in clips]
        trial = Trial(samples, frames, engine, weights)
        if target.psnr_db is not None:
            found = trial.lowest_level(target.psnr_db, level, within)
            level = last if found is None else found
        else:
            found = trial.highest_level(most, level, within, shares=shares)
            level = first if found is None else found
    if found is not None:
        return trial.choice(found)
    if target.psnr_db is not None:
        best = trial.psnr_db(last)
        raise ConfigError(
            f"no quality reaches {target.psnr_db:g} dB: the best gives {best:.2f} dB", hint="ask for less"
        )
    least = trial.bits_per_pixel(first)
    raise ConfigError(
        f"no quality is that small: the least needs {least:.4f} bits per pixel, {most:.4f} are left",
        hint="scale the video down, or ask for more",
    )


def room_for(
    target: Target, size: tuple[int, ...], frames: int, counter: SideCounter, engine: BaseEngine
) -> float:
    """Bits per pixel that a rate or size leaves for the pictures."""
    whole = frames * size[0] * size[1] / 8  # bytes at one bit per pixel
    if target.size_bytes is not None:
        room = round(target.size_bytes * SIZE_MARGIN) - counter.total()
    else:
        room = round((target.bits_per_pixel or 0.0) * whole)
    chunks = -(-engine.spec.geometry.num_latents(frames) // engine.spec.chunk_latents)
    return max(0.0, (room - FILE_BYTES - chunks * CHUNK_BYTES) / whole)


class SideCounter:
    """Counts the bytes that the side streams of a source will take."""

    def __init__(self, video: FrameSource, side: SideSource) -> None:
        self._writer = SideWriter(side) if side and isinstance(video, VideoReader) else None
        self._total = 0
        if self._writer and isinstance(video, VideoReader):
            video.listen(self._add)

    def _add(self, packet: Any) -> None:
        assert self._writer is not None
        self._writer.add(packet)
        self._total += sum(len(data) for _, data in self._writer.take())

    def total(self) -> int:
        """After the whole source was read."""
        if self._writer:
            self._total += sum(len(data) for _, data in self._writer.finish())
        return self._total


def first_reaching(
    levels: range, margin: Callable[[int], float], guess: int, slope: float, within: int = 1
) -> int | None:
    """The lowest level whose margin is not below 0, of margins that grow with the level; None: there is none.

    Few are tried: a guess, the next by about how much a level adds, `slope`, then by what the last two differ
    by; if that takes long, the middle of what is left. `within`: any of so many levels, from that one on,
    will do.
    """
    low, high = levels.start - 1, levels.stop  # reaches it not, reaches it
    tries: list[tuple[int, float]] = []
    level, gap = guess, 1
    while high - low > gap:
        found = margin(level)
        if found < 0:
            low = level
        else:
            high, gap = level, within
        if tries:
            before, other = tries[-1]
            slope = max((found - other) / (level - before), LEAST_SLOPE)
        tries.append((level, found))
        level = level - math.floor(found / slope) if len(tries) <= PATIENCE else (low + high) // 2
        level = max(min(level, high - gap), low + 1)
    return high if high < levels.stop else None


def take_clips(video: FrameSource, engine: BaseEngine) -> tuple[list[FrameBatch], int]:
    """Parts spread over the clip, and the number of its frames. One pass; memory is that of the parts."""
    geometry, chunk = engine.spec.geometry, engine.spec.chunk_latents
    length = len(geometry.frames_of(range(SAMPLE_CHUNKS * chunk)))
    expected = video.info.num_frames or length
    room = max(0, expected - length)
    starts = sorted({round(room * (n + 0.5) / SAMPLES) for n in range(SAMPLES)}) if room else [0]
    starts.append(0)  # kept where the clip is so much shorter than expected that it has none of the others
    clips: list[list[FrameBatch]] = [[] for _ in starts]
    frames = 0
    for batch in video:
        for start, clip in zip(starts, clips, strict=True):
            keep = slice(max(0, start - frames), max(0, start + length - frames))
            if len(batch.rgb[keep]):
                clip.append(FrameBatch(batch.rgb[keep].copy(), batch.pts[keep]))
        frames += len(batch)
    *clips, beginning = clips
    return [concatenate(clip) for clip in clips if clip] or [concatenate(beginning)], frames


def encoded(clip: FrameBatch, engine: BaseEngine, error: float | None, *, details: bool = False) -> Sample:
    """With frames aligned where `error` is given: that for which no vector is coded."""
    coder = ENTROPY_CODERS[engine.spec.coder]
    chunks = engine.encode_stream(
        [clip],
        worthless=error,
        borrows=coder.borrows,
        lights=coder.lights,
        keeps_means=details,
        keeps_frames=details and coder.takes_corrections,
    )
    return Sample(clip.rgb, tuple(chunks))


@dataclass(frozen=True)
class Coded:
    """A chunk of a sample at a level."""

    plan: Plan
    detail: Detail | None = None  # that its pictures are given
    corrections: dict[int, Correction] | None = None  # that are added to its frames
    detail_bits: int = 0  # with those of corrections


class Trial:
    """Codes the samples at any level."""

    def __init__(self, samples: list[Sample], frames: int, engine: BaseEngine, weights: Weights) -> None:
        """Of a clip of `frames` frames."""
        self.samples = samples
        self.frames = frames
        self.engine = engine
        self.weights = weights
        self._known: dict[int, float] = {}  # bits of latents at a level
        self._known_details: dict[int, float] = {}
        self._known_psnr: dict[int, float] = {}
        self.pixels = samples[0].rgb.shape[1] * samples[0].rgb.shape[2]
        first, last = engine.spec.levels or (0, 0)
        self.levels = range(first, last + 1)

    def lowest_level(self, psnr_db: float, guess: int, within: int = 1) -> int | None:
        """The lowest that reaches a PSNR, or one little above it; None if none does."""
        return first_reaching(self.levels, lambda n: self.psnr_db(n) - psnr_db, guess, DB_PER_LEVEL, within)

    def highest_level(
        self, most: float, guess: int, within: int = 1, *, shares: dict[int, float] | None = None
    ) -> int | None:
        """The highest that needs no more bits per pixel, or one little below it; None if all need more.

        What detail takes is measured, for which the network must decode, at few levels only: at that which
        seems to be the one, until it is. `shares`: what it took beside the rest at other levels of a trial
        like this one; those of this one are added.
        """
        if most <= 0:
            return None
        shares = {} if shares is None else shares
        measured: set[int] = set()

        def measure(level: int) -> None:
            shares[level] = self.bits_of_detail(level) / self.bits_of_latents(level)
            measured.add(level)

        if self.has_details and not shares:
            measure(guess)
        downwards = range(-self.levels[-1], 1 - self.levels[0])

        def room(number: int) -> float:
            """How much is left at a level, counted downwards, as a logarithm."""
            return math.log(most / self._expected_bits(-number, shares))

        level = guess
        while True:
            found = first_reaching(downwards, room, -level, LOG_PER_LEVEL, within)
            level = self.levels[0] if found is None else -found
            if not self.has_details or level in measured:
                return level if self._expected_bits(level, shares) <= most else None
            measure(level)

    def _expected_bits(self, level: int, shares: dict[int, float]) -> float:
        known = sorted(shares)
        share = np.interp(level, known, [shares[each] for each in known]) if known else 0.0
        return self.bits_of_latents(level) * (1 + float(share))

    @property
    def has_details(self) -> bool:
        return self.samples[0].chunks[0].means is not None

    def choice(self, level: int) -> Choice:
        return Choice(level, self.bits_per_pixel(level), self.psnr_db(level))

    def bits_per_pixel(self, level: int) -> float:
        """Of the clip, if it is like the samples."""
        detail = self.bits_of_detail(level) if self.has_details else 0.0
        return self.bits_of_latents(level) + detail

    def bits_of_latents(self, level: int) -> float:
        """Bits per pixel but for detail; each sample counts its first latent frame as a fresh start."""
        if level not in self._known:
            self._known[level] = self._measure_latents(level)
        return self._known[level]

    def _measure_latents(self, level: int) -> float:
        coder = self._coder(level)
        first = whole = linked = 0.0
        count = 0  # of the latent frames but the first ones
        for sample in self.samples:
            opening, coded = self._opening(coder, sample, level), self._coded(coder, sample, level)
            first += coder.bits_by_channel(opening).sum()
            whole += sum(coder.bits_by_channel(chunk.plan).sum() for chunk in coded)
            count += sum(len(chunk.plan.symbols) for chunk in coded) - 1
            if coder.links:
                linked += self._link(coder, sample, level, opening.symbols[0])[1]
        start = first / len(self.samples)
        following = (whole - first) / count if count else start
        latents, starts, fresh = self._starts(coder)
        bits = fresh * start + (starts - fresh) * linked / len(self.samples)
        bits += (latents - starts) * following + (latents - 1) * self.bits_of_fields
        return float(bits / (self.frames * self.pixels))

    def bits_of_detail(self, level: int) -> float:
        """Bits per pixel of detail, which begins anew where a period does not link well."""
        if level not in self._known_details:
            for _ in self._detailed(level):
                pass
        return self._known_details[level]

    def _detailed(self, level: int) -> Iterator[tuple[Sample, list[Coded]]]:
        """The samples, coded with their detail; after the last its bits are known."""
        coder = self._coder(level)
        links, details = 0, []
        for sample in self.samples:
            coded = self._coded(coder, sample, level, details=True)
            yield sample, coded
            both = zip(coded, self._saved(coder, sample, level, coded), strict=True)
            details.append([(chunk.detail_bits - less, len(chunk.plan.symbols)) for chunk, less in both])
            links += coder.links and self._link(coder, sample, level, coded[0].plan.symbols[0])[0]
        latents, starts, fresh = self._starts(coder)
        openings = starts - (starts - fresh) * links / len(self.samples)
        bits = bits_of_details(details, openings, latents)
        self._known_details[level] = bits / (self.frames * self.pixels)

    def _starts(self, coder: ResidualCoder) -> tuple[int, int, int]:
        """Of the clip: latent frames, periods, and how many of these begin fresh whatever they hold."""
        spec = self.engine.spec
        latents = spec.geometry.num_latents(self.frames)
        starts = -(-latents // spec.period)
        return latents, starts, -(-starts // (MOST_LINKED + 1)) if coder.links else starts

    def _link(
        self, coder: ResidualCoder, sample: Sample, level: int, opening: np.ndarray
    ) -> tuple[bool, float]:
        """Whether the first latent frame of a period takes less from that of the one before; its bits.

        A sample is about as long as a period: its last frame is that far from its first.
        """
        scaled, aligned = self._scaled(sample.chunks[-1], level)
        past, plan = better_beginning(coder, scaled[-1:], (opening, opening), aligned[-1:])
        return bool(past), float(coder.bits_by_channel(plan).sum())

    @cached_property
    def bits_of_fields(self) -> float:
        """Of a latent frame but the first, which stands for one frame; at the level they were aligned for."""
        if not ENTROPY_CODERS[self.engine.spec.coder].takes_fields:
            return 0.0
        flow = BorrowingFlowCoder.of_model(self.weights.arrays)
        both = [(c.fields, c.borrowed) for s in self.samples for c in s.chunks if c.fields is not None]
        moved = sum(len(flow.encode_all(*each)) for each in both if each[1] or each[0].any())
        return 8 * moved / max(1, sum(len(fields) for fields, _ in both) - len(self.samples))

    def _coder(self, level: int) -> ResidualCoder:
        kind = ENTROPY_CODERS[self.engine.spec.coder]
        return kind.of_model(self.weights.arrays, level, str(self.engine.placement.device))

    def _opening(self, coder: ResidualCoder, sample: Sample, level: int) -> Plan:
        """Of the first latent frame of a sample, as it is in `_plans`."""
        scaled, aligned = self._scaled(sample.chunks[0], level)
        return coder.choose(scaled, (), aligned, count=1)

    def _coded(
        self, coder: ResidualCoder, sample: Sample, level: int, *, details: bool = False
    ) -> list[Coded]:
        """The chunks of a sample; the coder is fresh at the first."""
        if details and self.has_details:
            return list(self._with_details(sample, level))
        chunks = ChunkCoder(coder, ENDLESS)
        coded, first_latent = [], 0
        for chunk in sample.chunks:
            coded.append(Coded(chunks.choose(first_latent, *self._scaled(chunk, level))))
            first_latent += chunk.latents.shape[1]
        return coded

    def _with_details(self, sample: Sample, level: int) -> Iterator[Coded]:
        """The same, and all that is coded beside latents."""
        spec, levels = self.engine.spec, self.weights.gain_and_step(level)
        device = str(self.engine.placement.device)
        coder = coder_of(spec.coder, self.weights.arrays, levels, level, ENDLESS, device)
        assert isinstance(self.engine, Engine)  # the windowed models have no coder of detail
        assert isinstance(coder, CoderWithDetail)
        corrects = is_corrected(coder, level)
        size = sample.rgb.shape[1:3] if corrects else None
        mirror = Mirror(self.engine, level, size, self.frames if len(sample.rgb) == self.frames else None)
        first_latent = 0
        for chunk in sample.chunks:
            coded = coder.coded(first_latent, *self._scaled(chunk, level), mirror.of(chunk))
            detail = None if coded.memories is None else detail_of(coded.memories)
            size, told = chunk.latents.shape[2:], told_by(chunk.frames)
            corrections = CorrectionCoder(level).decode(coded.corrections, told, *size)
            bits = 8 * (len(coded.detail) + len(coded.corrections))
            yield Coded(coded.plan, detail, corrections, bits)
            first_latent += chunk.latents.shape[1]

    def _saved(self, coder: ResidualCoder, sample: Sample, level: int, coded: list[Coded]) -> list[float]:
        """Bits of latents that opaque detail saves, of each chunk: they are counted as if there were none."""
        if all(chunk.detail is None or chunk.detail.opaque.mean() < LEAST_HIDDEN for chunk in coded):
            return [0.0] * len(coded)
        plain, own = (
            [float(coder.bits_by_channel(chunk.plan).sum()) for chunk in chunks]
            for chunks in (self._coded(coder, sample, level), coded)
        )
        return [one - other for one, other in zip(plain, own, strict=True)]

    def _scaled(self, chunk: LatentChunk, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Latents in cells (t, C, h, w), and of which of them the frames were aligned (t,)."""
        scaled = self._quantizer(level).scale(chunk.latents)
        return scaled, np.zeros(len(scaled), bool) if chunk.fields is None else which_aligned(chunk.fields)

    def _quantizer(self, level: int) -> Quantizer:
        bits = ENTROPY_CODERS[self.engine.spec.coder].symbol_bits
        return Quantizer(*self.weights.gain_and_step(level), bits)

    def psnr_db(self, level: int) -> float:
        """Mean over the samples' frames, decoded."""
        if level not in self._known_psnr:
            self._known_psnr[level] = self._measure_psnr(level)
        return self._known_psnr[level]

    def _measure_psnr(self, level: int) -> float:
        values = []
        for sample, coded in self._detailed(level):
            chunks = [
                replace(
                    chunk,
                    latents=self._quantizer(level).dequantize(each.plan.symbols),
                    detail=each.detail,
                    level=level,
                    corrections=each.corrections,
                )
                for chunk, each in zip(sample.chunks, coded, strict=True)
            ]
            height, width = sample.rgb.shape[1:3]
            decoded = self.engine.decode_stream(chunks, width, height)
            values.append(psnr(in_eight_bits(sample.rgb), np.concatenate([b.rgb for b in decoded])))
        return float(np.concatenate(values).mean())


def bits_of_details(samples: list[list[tuple[float, int]]], openings: float, latents: int) -> float:
    """Of a clip of so many latent frames, in which detail begins anew `openings` times: by bits and latent
    frames of the chunks of samples."""
    first = np.mean([sample[0] for sample in samples], 0)
    others = np.sum([chunk for sample in samples for chunk in sample[1:]] or [first], 0)
    following = others[0] / others[1]
    return float(openings * first[0] + max(0, latents - openings * first[1]) * following)
