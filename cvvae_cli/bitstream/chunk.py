"""The latents of a file, chunk by chunk: exactly, or as symbols of an entropy coder that knows the past.

At every latent frame whose number divides by the period the coder forgets what it knew, so that a reader can
begin there: it starts fresh, or, if it links periods, from the first latent frame of the period before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from cvvae_cli.bitstream.anchors import (
    BorrowingCoder,
    CoarseToFineCoder,
    CorrectedCoder,
    DetailedCoder,
    PaintedCoder,
)
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.correction_choice import encode_left
from cvvae_cli.bitstream.corrections import CorrectionCoder
from cvvae_cli.bitstream.cosine_choice import price_of
from cvvae_cli.bitstream.detail import Memory, detail_coder, detail_of
from cvvae_cli.bitstream.detail_choice import encode_lacking
from cvvae_cli.bitstream.flow import BorrowingFlowCoder, FlowCoder
from cvvae_cli.bitstream.light import decode_light, encode_light
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.bitstream.residuals import Aligned, Past, Plan, shift
from cvvae_cli.bitstream.scene import Scene
from cvvae_cli.bitstream.vectors import CELL
from cvvae_cli.errors import CorruptFileError, UnsupportedFormatError
from cvvae_cli.flow.field import GROUP, OTHERS, field_size
from cvvae_cli.types import Borrowed, Correction, Detail, Lacking, Wanted

SIZE_BYTES = 3
LIT = 1 << 8 * SIZE_BYTES - 1  # in the number of bytes that fields take: light comes before them
FRESH, LINKED = 0, 1  # how a period begins
MOST_LINKED = 4  # periods in a row that this encoder links: 60 latent frames from one fresh start to the next
Shape = tuple[int, int, int, int]
Fields = np.ndarray | None  # int16 (t, 3, 2, rows, columns), where frames may be aligned: flow/field.py


class Mirrored(Protocol):
    """What a decoder will make of a chunk that is encoded (engine/mirror.py)."""

    @property
    def follows_frames(self) -> bool:
        """Whether `left` tells anything."""
        ...

    @property
    def wanted(self) -> Wanted:
        """What its pictures should be."""
        ...

    def lacking(self, latents: np.ndarray) -> Lacking:
        """What pictures of latents float32 (C, t, h, w), as they will be decoded, lack."""
        ...

    def left(self, detail: Detail | None) -> Iterator[np.ndarray]:
        """Of the latents that `lacking` was given last: what each frame lacks that can be told by now.

        `detail` is what the pictures are given. float32 (3, H, W) in levels of 255.
        """
        ...


class LatentCoder(Protocol):
    """Codes the chunks of a file in order; `first_latent` says where each stands."""

    takes_fields: bool  # whether groups of frames may be aligned before they are encoded (cvvae_cli/flow)
    takes_detail: bool  # whether what pictures lack is coded beside them (bitstream/detail.py)
    takes_corrections: bool  # and whether what single frames lack is (bitstream/corrections.py)
    borrows: bool  # whether frames may be taken from the group beside (flow/borrow.py)
    lights: bool  # whether frames whose light changes may be evened out (flow/light.py)
    borrowed: Borrowed  # what `decode_fields` found last,
    light: np.ndarray | None  # and this, int16 (T, 2) of every frame of the chunk

    def encode(
        self,
        first_latent: int,
        latents: np.ndarray,
        fields: Fields = None,
        mirrored: Mirrored | None = None,
        borrowed: Borrowed | None = None,
        light: np.ndarray | None = None,
    ) -> bytes:
        """float32 (C, t, h, w), and fields int16 (t, 3, 2, rows, columns) or None → bytes.

        `mirrored` says what will lack; without it neither detail nor corrections are coded.
        """
        ...

    def decode(self, first_latent: int, data: bytes, shape: Shape, fields: Fields = None) -> np.ndarray:
        """Bytes → float32 of `shape` (C, t, h, w); with what `decode_fields` gave, if that is at hand."""
        ...

    def decode_fields(self, data: bytes, shape: Shape) -> np.ndarray | None:
        """Bytes → the fields of latents of that shape."""
        ...

    def decode_detail(self, first_latent: int, data: bytes, shape: Shape) -> list[Memory] | None:
        """Of what `decode` was just given: what is remembered at each latent frame, if any of it is shown."""
        ...

    def decode_corrections(self, data: bytes, shape: Shape, frames: range) -> dict[int, Correction] | None:
        """Of a chunk of frames: what is added to those that can be told by then, if anything is."""
        ...

    def is_fresh(self, first_latent: int, data: bytes) -> bool:
        """Of a chunk with which a period begins: whether it needs nothing before it."""
        ...


class SymbolCoder(Protocol):
    """What ENTROPY_CODERS holds."""

    links: bool  # whether a period may begin from the first latent frame of the period before

    def choose(
        self, scaled: np.ndarray, past: Past, aligned: Aligned = None, count: int | None = None
    ) -> Plan: ...

    def pack(self, plan: Plan) -> bytes: ...

    def beginning(self, scaled: np.ndarray, past: Past, aligned: Aligned) -> tuple[Plan, float]: ...

    def bits_by_channel(self, plan: Plan) -> np.ndarray: ...

    def bits_by_position(self, plan: Plan) -> np.ndarray: ...

    def unpack(self, data: bytes, shape: Shape, past: Past, aligned: Aligned = None) -> Plan: ...

    def decode(self, data: bytes, shape: Shape, past: Past, aligned: Aligned = None) -> np.ndarray: ...


@dataclass(frozen=True)
class CodedChunk:
    """A chunk with what lies beside its symbols."""

    begins: bytes  # how its period does, if one does
    plan: Plan
    detail: bytes
    memories: list[Memory] | None  # what is remembered at each latent frame, if any of it is shown
    corrections: bytes


class QuantizedCoder:
    """Turns latents into symbols and codes those: a LatentCoder."""

    takes_fields = False
    takes_detail = False
    takes_corrections = False
    borrows = False
    lights = False
    light: np.ndarray | None = None

    def __init__(self, quantizer: Quantizer, chunks: ChunkCoder) -> None:
        self.quantizer = quantizer
        self.chunks = chunks
        self.borrowed: Borrowed = {}

    def encode(
        self,
        first_latent: int,
        latents: np.ndarray,
        fields: Fields = None,
        mirrored: Mirrored | None = None,
        borrowed: Borrowed | None = None,
        light: np.ndarray | None = None,
    ) -> bytes:
        return self.chunks.encode(first_latent, self.quantizer.scale(latents))

    def decode(self, first_latent: int, data: bytes, shape: Shape, fields: Fields = None) -> np.ndarray:
        return self.quantizer.dequantize(self.chunks.decode(first_latent, data, in_time(shape)))

    def decode_fields(self, data: bytes, shape: Shape) -> np.ndarray | None:
        return None

    def decode_detail(self, first_latent: int, data: bytes, shape: Shape) -> list[Memory] | None:
        return None

    def decode_corrections(self, data: bytes, shape: Shape, frames: range) -> dict[int, Correction] | None:
        return None

    def is_fresh(self, first_latent: int, data: bytes) -> bool:
        return self.chunks.is_fresh(first_latent, data)

    def measure(self, first_latent: int, data: bytes, shape: Shape) -> np.ndarray:
        """float64 (C,): the bits of what `decode` reads, by channel; all share what lies beside symbols."""
        return self.chunks.measure(first_latent, data, in_time(shape))


class CoderWithFields(QuantizedCoder):
    """Codes fields before the symbols: how many bytes they take, then those, if any group is aligned.

    Without fields none is.
    """

    takes_fields = True

    def __init__(self, quantizer: Quantizer, chunks: ChunkCoder, flow: FlowCoder) -> None:
        super().__init__(quantizer, chunks)
        self.flow = flow

    def encode(
        self,
        first_latent: int,
        latents: np.ndarray,
        fields: Fields = None,
        mirrored: Mirrored | None = None,
        borrowed: Borrowed | None = None,
        light: np.ndarray | None = None,
    ) -> bytes:
        moved, aligned = b"", None
        if fields is not None:
            aligned = which_aligned(fields)
            if borrowed or aligned.any():
                moved = self.flow.encode_all(fields, borrowed or {})
        beginning = self._beginning(moved, light)
        return beginning + self._encode(first_latent, self.quantizer.scale(latents), aligned, mirrored)

    def decode(self, first_latent: int, data: bytes, shape: Shape, fields: Fields = None) -> np.ndarray:
        aligned = which_aligned(self.decode_fields(data, shape) if fields is None else fields)
        symbols = self.chunks.decode(first_latent, self._symbols_of(data), in_time(shape), aligned)
        return self.quantizer.dequantize(symbols)

    def decode_fields(self, data: bytes, shape: Shape) -> np.ndarray:
        moved, _ = self._begun(data)
        places = (shape[1], *field_size(*(CELL * n for n in shape[2:])))
        self.borrowed = {}
        if not moved:
            return np.zeros((places[0], len(OTHERS), 2, *places[1:]), np.int16)
        fields, self.borrowed = self.flow.decode_all(moved, places)
        return fields

    def is_fresh(self, first_latent: int, data: bytes) -> bool:
        return self.chunks.is_fresh(first_latent, self._symbols_of(data))

    def measure(self, first_latent: int, data: bytes, shape: Shape) -> np.ndarray:
        symbols = self._symbols_of(data)
        aligned = which_aligned(self.decode_fields(data, shape))
        bits = self.chunks.measure(first_latent, symbols, in_time(shape), aligned)
        return bits + 8 * (len(data) - len(symbols)) / shape[0]

    def _encode(
        self, first_latent: int, scaled: np.ndarray, aligned: Aligned, mirrored: Mirrored | None
    ) -> bytes:
        """What comes after the fields, of latents in cells of the quantiser (t, C, h, w)."""
        return self.chunks.encode(first_latent, scaled, aligned)

    def _beginning(self, moved: bytes, light: np.ndarray | None) -> bytes:
        """What comes before all else."""
        return sized(moved)

    def _begun(self, data: bytes) -> tuple[bytes, bytes]:
        """Fields as they are coded, and what comes after them."""
        return cut(data)

    def _symbols_of(self, data: bytes) -> bytes:
        return self._begun(data)[1]


class CoderWithDetail(CoderWithFields):
    """Codes detail between fields and symbols: how many bytes it takes, then those, if any is shown."""

    takes_detail = True

    def __init__(self, quantizer: Quantizer, coder: DetailedCoder, period: int, flow: FlowCoder) -> None:
        super().__init__(quantizer, ChunkCoder(coder, period), flow)
        self.detail = detail_coder(coder, coder.level)
        self.coder = coder
        self._memory: Memory | None = None
        self._opening: Memory | None = None  # after the first latent frame of the period
        self._unhidden: np.ndarray | None = None  # bits of positions (t, h, w), if detail can hide them

    def decode_detail(self, first_latent: int, data: bytes, shape: Shape) -> list[Memory] | None:
        detail, _ = cut(self._begun(data)[1])
        vectors = self.coder.vectors(in_time(shape))
        memories = self.detail.decode(detail, self._memory_before(first_latent, in_time(shape)), vectors)
        self._remember(first_latent, memories)
        return memories if detail else None

    def _encode(
        self, first_latent: int, scaled: np.ndarray, aligned: Aligned, mirrored: Mirrored | None
    ) -> bytes:
        coded = self.coded(first_latent, scaled, aligned, mirrored)
        return sized(coded.detail) + self._more(coded) + coded.begins + self.coder.pack(coded.plan)

    def coded(
        self, first_latent: int, scaled: np.ndarray, aligned: Aligned, mirrored: Mirrored | None
    ) -> CodedChunk:
        """The next chunk, of latents in cells of the quantiser (t, C, h, w)."""
        begins, plan = self.chunks.planned(first_latent, scaled, aligned)
        plan, detail, memories = self._detailed(first_latent, scaled, aligned, plan, mirrored)
        self._remember(first_latent, memories)
        shown = memories if detail else None
        return CodedChunk(begins, plan, detail, shown, self._corrections(shown, mirrored))

    def _detailed(
        self,
        first_latent: int,
        scaled: np.ndarray,
        aligned: Aligned,
        plan: Plan,
        mirrored: Mirrored | None,
    ) -> tuple[Plan, bytes, list[Memory]]:
        """A plan of latents in cells (t, C, h, w), its detail, and what is remembered at each of them."""
        vectors = self.coder.vectors(plan.symbols.shape)
        memory = self._memory_before(first_latent, plan.symbols.shape)
        if mirrored is None:
            return plan, b"", self.detail.decode(b"", memory, vectors)
        lacking = mirrored.lacking(self.quantizer.dequantize(plan.symbols))
        return plan, *encode_lacking(self.detail, memory, vectors, lacking, self._unhidden)

    def _corrections(self, memories: list[Memory] | None, mirrored: Mirrored | None) -> bytes:
        """Of a chunk; `memories`: what is remembered at each latent frame, if any is shown."""
        return b""

    def _more(self, coded: CodedChunk) -> bytes:
        """What comes after detail."""
        return b""

    def _symbols_of(self, data: bytes) -> bytes:
        return cut(super()._symbols_of(data))[1]

    def _memory_before(self, first_latent: int, shape: Shape) -> Memory:
        """What is remembered as a chunk (t, C, h, w) begins."""
        if first_latent % self.chunks.period == 0:
            self._memory = self._opening if self.chunks.is_linked else None
        return Memory.empty(*shape[2:]) if self._memory is None else self._memory

    def _remember(self, first_latent: int, memories: list[Memory]) -> None:
        if first_latent % self.chunks.period == 0:
            self._opening = memories[0]
        self._memory = memories[-1]


class CoderWithCorrections(CoderWithDetail):
    """Codes corrections between detail and symbols: how many bytes they take, then those, if there are any.

    With a chunk come those of its frames but the last one, and of the last frame of the chunk before: a frame
    is not known before the one after it.
    """

    takes_corrections = True

    def __init__(self, quantizer: Quantizer, coder: CorrectedCoder, period: int, flow: FlowCoder) -> None:
        super().__init__(quantizer, coder, period, flow)
        self.corrections = CorrectionCoder(coder.level)

    def decode_corrections(self, data: bytes, shape: Shape, frames: range) -> dict[int, Correction] | None:
        corrections, _ = cut(super()._symbols_of(data))
        return self.corrections.decode(corrections, told_by(frames), *shape[2:])

    def _corrections(self, memories: list[Memory] | None, mirrored: Mirrored | None) -> bytes:
        if mirrored is None or not mirrored.follows_frames:
            return b""
        detail = None if memories is None else detail_of(memories)
        return encode_left(self.corrections, mirrored.left(detail))

    def _more(self, coded: CodedChunk) -> bytes:
        return sized(coded.corrections)

    def _symbols_of(self, data: bytes) -> bytes:
        return cut(super()._symbols_of(data))[1]


class CoderWithPainting(CoderWithCorrections):
    """Codes the same with detail that may stand in place of what is decoded."""

    coder: PaintedCoder

    def coded(
        self, first_latent: int, scaled: np.ndarray, aligned: Aligned, mirrored: Mirrored | None
    ) -> CodedChunk:
        self.coder.scene = None
        if mirrored is not None:
            begins = first_latent % self.chunks.period == 0
            # if a period is linked, then to a picture that is not at hand
            wanted = replace(mirrored.wanted, before=None) if begins else mirrored.wanted
            self.coder.scene = Scene(wanted, None if begins else self._memory, self.coder.reach)
            if begins and self._opening is not None:
                frames = GROUP * self.chunks.period
                self.coder.scene.remember(self._opening, frames, price_of(self.coder.level))
        return super().coded(first_latent, scaled, aligned, mirrored)

    def _detailed(
        self,
        first_latent: int,
        scaled: np.ndarray,
        aligned: Aligned,
        plan: Plan,
        mirrored: Mirrored | None,
    ) -> tuple[Plan, bytes, list[Memory]]:
        """Symbols that opaque detail hides are chosen again, and then detail."""
        self._unhidden = None if mirrored is None else self.coder.bits_by_position(plan)
        found = super()._detailed(first_latent, scaled, aligned, plan, mirrored)
        scene = self.coder.scene
        if scene is None or not scene.cover(found[2]):
            return found
        plan = self.chunks.again(first_latent, scaled, aligned)
        return super()._detailed(first_latent, scaled, aligned, plan, mirrored)


class CoderWithBorrowing(CoderWithPainting):
    """Codes the same, and what frames are taken from the group beside among the fields."""

    flow: BorrowingFlowCoder
    borrows = True


class CoderWithLight(CoderWithBorrowing):
    """Codes the same, before it the light of the frames, if that changes."""

    lights = True

    def decode_fields(self, data: bytes, shape: Shape) -> np.ndarray:
        self.light = without_light(data)[1]
        return super().decode_fields(data, shape)

    def _beginning(self, moved: bytes, light: np.ndarray | None) -> bytes:
        return with_light(super()._beginning(moved, light), light)

    def _begun(self, data: bytes) -> tuple[bytes, bytes]:
        return super()._begun(without_light(data)[0])


def with_light(data: bytes, light: np.ndarray | None) -> bytes:
    """What `without_light` takes off: marked in the first number of the bytes, which is of 23 bits."""
    if light is None:
        return data
    head, packed = int.from_bytes(data[:SIZE_BYTES], "little") | LIT, encode_light(light)
    return head.to_bytes(SIZE_BYTES, "little") + bytes([len(packed)]) + packed + data[SIZE_BYTES:]


def without_light(data: bytes) -> tuple[bytes, np.ndarray | None]:
    """Bytes without the light of frames, and that, if they hold any. Raises CorruptFileError."""
    head = int.from_bytes(data[:SIZE_BYTES], "little")
    if not head & LIT:
        return data, None
    begin = SIZE_BYTES + 1
    end = begin + data[SIZE_BYTES] if len(data) > SIZE_BYTES else begin
    return (head ^ LIT).to_bytes(SIZE_BYTES, "little") + data[end:], decode_light(data[begin:end])


def told_by(frames: range) -> range:
    """The frames whose corrections come with a chunk of frames."""
    return range(max(0, frames.start - 1), frames.stop - 1)


def sized(data: bytes) -> bytes:
    """What `cut` takes off."""
    return len(data).to_bytes(SIZE_BYTES, "little") + data


def in_time(shape: Shape) -> Shape:
    """(C, t, h, w) → (t, C, h, w)."""
    return (shape[1], shape[0], *shape[2:])


def which_aligned(fields: np.ndarray) -> np.ndarray:
    """Fields (t, 3, 2, rows, columns) → of each latent frame, whether its frames were moved: bool (t,)."""
    return np.logical_or.reduce(fields, axis=(1, 2, 3, 4))


def cut(data: bytes) -> tuple[bytes, bytes]:
    """Bytes whose number lies before them, and what comes after. Raises CorruptFileError."""
    end = SIZE_BYTES + int.from_bytes(data[:SIZE_BYTES], "little")
    if not SIZE_BYTES <= end < len(data):
        raise CorruptFileError("what lies beside the symbols of a chunk is cut")
    return data[SIZE_BYTES:end], data[end:]


def is_changed(data: bytes) -> bool:
    """Whether a chunk of a coder that takes fields is of frames that were moved or evened out before."""
    plain, light = without_light(data)
    return light is not None or bool(cut(plain)[0])


def better_beginning(
    coder: SymbolCoder, scaled: np.ndarray, opening: Past, aligned: Aligned
) -> tuple[Past, Plan]:
    """What the first latent frame of a period had better be expected from: nothing, or the opening of the
    period before; and its symbols. `scaled` (t, C, h, w) is of its chunk."""
    both = [(past, *coder.beginning(scaled, past, aligned)) for past in ((), opening)]
    past, plan, _ = min(both, key=lambda each: each[2])
    return past, plan


class ChunkCoder:
    """Codes the symbols of chunks in order; `first_latent` says where each stands."""

    def __init__(self, coder: SymbolCoder, period: int) -> None:
        self.coder = coder
        self.period = period
        self._past: Past = ()
        self._before: Past = ()  # what was the past of the chunk that was encoded last
        self._opening: Past = ()  # first latent frames: of this period, and of the last that began fresh
        self._linked = 0  # periods since then

    def encode(self, first_latent: int, scaled: np.ndarray, aligned: Aligned = None) -> bytes:
        """Latents in cells of the quantiser, float32 (t, C, h, w) → bytes."""
        begins, plan = self.planned(first_latent, scaled, aligned)
        return begins + self.coder.pack(plan)

    def planned(self, first_latent: int, scaled: np.ndarray, aligned: Aligned = None) -> tuple[bytes, Plan]:
        """How the period begins, if one does, and the symbols."""
        plan = self.choose(first_latent, scaled, aligned)
        if not self.coder.links or not self._begins_period(first_latent):
            return b"", plan
        return bytes([LINKED if self._linked else FRESH]), plan

    @property
    def is_linked(self) -> bool:
        """Whether the present period goes on from the first latent frame of the one before."""
        return self._linked > 0

    def choose(self, first_latent: int, scaled: np.ndarray, aligned: Aligned = None) -> Plan:
        """The symbols that stand for latents in cells of the quantiser, float32 (t, C, h, w)."""
        if self._begins_period(first_latent):
            self._begin(self._links_well(scaled, aligned))
        self._before = self._past
        return self.again(first_latent, scaled, aligned)

    def again(self, first_latent: int, scaled: np.ndarray, aligned: Aligned = None) -> Plan:
        """Other symbols for what `choose` was given last."""
        self._past = self._before
        plan = self.coder.choose(scaled, self._past, aligned)
        self._remember(first_latent, plan.symbols)
        return plan

    def measure(self, first_latent: int, data: bytes, shape: Shape, aligned: Aligned = None) -> np.ndarray:
        """float64 (C,): the bits of bytes that `decode` would read, by channel."""
        symbols = self._symbols_of(first_latent, data)
        plan = self.coder.unpack(symbols, shape, self._past, aligned)
        self._remember(first_latent, plan.symbols)
        return self.coder.bits_by_channel(plan) + 8 * (len(data) - len(symbols)) / shape[1]

    def decode(self, first_latent: int, data: bytes, shape: Shape, aligned: Aligned = None) -> np.ndarray:
        """Bytes → int32 of `shape` (t, C, h, w)."""
        data = self._symbols_of(first_latent, data)
        symbols = self.coder.decode(data, shape, self._past, aligned)
        self._remember(first_latent, symbols)
        return symbols

    def is_fresh(self, first_latent: int, data: bytes) -> bool:
        """Whether a chunk with which a period begins needs none before it. Raises CorruptFileError."""
        if not self.coder.links:
            return True
        known = (FRESH,) if first_latent == 0 else (FRESH, LINKED)
        if not data or data[0] not in known:
            raise CorruptFileError("the beginning of a period is damaged")
        return data[0] == FRESH

    def _begins_period(self, first_latent: int) -> bool:
        return first_latent % self.period == 0

    def _symbols_of(self, first_latent: int, data: bytes) -> bytes:
        """What is coded of the symbols of a chunk, for whose past all is made ready."""
        if not self._begins_period(first_latent):
            return data
        self._begin(not self.is_fresh(first_latent, data))
        return data[1:] if self.coder.links else data

    def _links_well(self, scaled: np.ndarray, aligned: Aligned) -> bool:
        """Whether a period had better begin from the first latent frame of the one before."""
        if not self.coder.links or not self._opening or self._linked == MOST_LINKED:
            return False
        past, _ = better_beginning(self.coder, scaled, self._opening, aligned)
        return bool(past)

    def _begin(self, is_linked: bool) -> None:
        if is_linked and not self._opening:
            raise CorruptFileError("the period to which one is linked is missing")
        self._past = self._opening if is_linked else ()
        self._linked = self._linked + 1 if is_linked else 0

    def _remember(self, first_latent: int, symbols: np.ndarray) -> None:
        if self._begins_period(first_latent):
            self._opening = (symbols[0], self._opening[-1] if self._linked else symbols[0])
        for frame in symbols:
            self._past = shift(self._past, frame)


def coder_of(
    name: str,
    tensors: Mapping[str, np.ndarray],
    gain_and_step: tuple[np.ndarray, np.ndarray | None],
    level: int | None,
    period: int,
    device: str = "cpu",
) -> QuantizedCoder:
    """The coder of symbols that a header names, with the tensors of a model.

    Raises UnsupportedFormatError if there is none of that name.
    """
    kind = ENTROPY_CODERS.get(name)
    if kind is None:
        raise UnsupportedFormatError(
            f"the file uses the coder {name!r}, which this program does not know",
            hint="install a newer cvvae",
        )
    coder = kind.of_model(tensors, level, device)
    quantizer = Quantizer(*gain_and_step, coder.symbol_bits)
    if isinstance(coder, CoarseToFineCoder):
        return CoderWithLight(quantizer, coder, period, BorrowingFlowCoder.of_model(tensors))
    if isinstance(coder, BorrowingCoder):
        return CoderWithBorrowing(quantizer, coder, period, BorrowingFlowCoder.of_model(tensors))
    if isinstance(coder, PaintedCoder):
        return CoderWithPainting(quantizer, coder, period, FlowCoder.of_model(tensors))
    if isinstance(coder, CorrectedCoder):
        return CoderWithCorrections(quantizer, coder, period, FlowCoder.of_model(tensors))
    if isinstance(coder, DetailedCoder):
        return CoderWithDetail(quantizer, coder, period, FlowCoder.of_model(tensors))
    chunks = ChunkCoder(coder, period)
    if coder.takes_fields:
        return CoderWithFields(quantizer, chunks, FlowCoder.of_model(tensors))
    return QuantizedCoder(quantizer, chunks)
