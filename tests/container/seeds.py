"""Small sound .cvl files to begin with, and the coders that read their symbols."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from tiny import GOLDEN, tiny_spec

from cvvae_cli import store
from cvvae_cli.bitstream.anchors import (
    AlignedCoder,
    AnchoredCoder,
    BorrowingCoder,
    CorrectedCoder,
    DetailedCoder,
    LinkedCoder,
    PaintedCoder,
)
from cvvae_cli.bitstream.chunk import (
    ChunkCoder,
    CoderWithBorrowing,
    CoderWithCorrections,
    CoderWithDetail,
    CoderWithFields,
    CoderWithPainting,
    LatentCoder,
    QuantizedCoder,
)
from cvvae_cli.bitstream.coders import ContextCoder, ContextTables
from cvvae_cli.bitstream.exact import EXACT_TYPES, ExactCoder
from cvvae_cli.bitstream.flow import BorrowingFlowCoder, FlowCoder
from cvvae_cli.bitstream.motion import CenteredCoder, MotionCoder
from cvvae_cli.bitstream.prior import PriorCoder, PriorTables
from cvvae_cli.bitstream.quantize import Quantizer
from cvvae_cli.container.reader import CvlReader
from cvvae_cli.container.writer import CvlWriter
from cvvae_cli.models.registry import Weights
from cvvae_cli.types import SideStream


def coders() -> dict[str, LatentCoder]:
    """By their names in headers."""
    if GOLDEN not in store.WEIGHTS_FOLDERS:
        store.WEIGHTS_FOLDERS = (*store.WEIGHTS_FOLDERS, GOLDEN)
    weights, levelled, moving, centered, anchored, aligned = (Weights(tiny_spec(n)) for n in range(1, 7))
    context = ChunkCoder(ContextCoder(ContextTables.from_tensors(weights.arrays)), 8)
    prior = ChunkCoder(PriorCoder(PriorTables.from_tensors(levelled.arrays), 85), 8)
    motion = ChunkCoder(MotionCoder.of_model(moving.arrays, 85), 8)
    mean = CenteredCoder.of_model(centered.arrays, 85)
    anchor = AnchoredCoder.of_model(anchored.arrays, 85)
    exact: dict[str, LatentCoder] = {name: ExactCoder(dtype) for name, dtype in EXACT_TYPES.items()}
    with_fields: dict[str, QuantizedCoder] = {
        kind.name: CoderWithFields(
            Quantizer(*aligned.gain_and_step(85), kind.symbol_bits),
            ChunkCoder(kind.of_model(aligned.arrays, 85), 8),
            FlowCoder.of_model(aligned.arrays),
        )
        for kind in (AlignedCoder, LinkedCoder)
    }
    quantizer, flow = with_fields["prior-6"].quantizer, FlowCoder.of_model(aligned.arrays)
    detailed, corrected, painted, borrowing = (
        kind.of_model(aligned.arrays, 85)
        for kind in (DetailedCoder, CorrectedCoder, PaintedCoder, BorrowingCoder)
    )
    with_fields["prior-7"] = CoderWithDetail(quantizer, detailed, 8, flow)
    with_fields["prior-8"] = CoderWithCorrections(quantizer, corrected, 8, flow)
    with_fields["prior-9"] = CoderWithPainting(quantizer, painted, 8, flow)
    borrowing_flow = BorrowingFlowCoder.of_model(aligned.arrays)
    with_fields["prior-10"] = CoderWithBorrowing(quantizer, borrowing, 8, borrowing_flow)
    return exact | {
        "context-1": QuantizedCoder(Quantizer(*weights.gain_and_step(None)), context),
        "prior-1": QuantizedCoder(Quantizer(*levelled.gain_and_step(85)), prior),
        "prior-2": QuantizedCoder(Quantizer(*moving.gain_and_step(85)), motion),
        "prior-3": QuantizedCoder(
            Quantizer(*centered.gain_and_step(85), mean.symbol_bits), ChunkCoder(mean, 8)
        ),
        "prior-4": QuantizedCoder(
            Quantizer(*anchored.gain_and_step(85), anchor.symbol_bits), ChunkCoder(anchor, 8)
        ),
        **with_fields,
    }


def seeds() -> list[bytes]:
    """The goldens, one with side streams, and one of exact latents."""
    goldens = [path.read_bytes() for path in sorted(GOLDEN.glob("*.cvl"))]
    with CvlReader(io.BytesIO(goldens[0])) as cvl:
        header = cvl.header
        chunks = [cvl.read_chunk(n) for n in range(len(cvl.index))]
    rich, exact = io.BytesIO(), io.BytesIO()
    with CvlWriter(rich, replace(header, side=(SideStream("audio", "aac", "eng"),), chapters=2)) as cvl:
        cvl.write_side([(None, b"head" * 9)])
        for number, chunk in enumerate(chunks):
            cvl.write_chunk(len(chunk.latents), chunk.pts, chunk.symbols)
            cvl.write_side([(1000 * number, b"cluster" * 12)])
    latents = np.random.default_rng(0).normal(0, 5, (4, 4, 5, 7)).astype(np.float32)
    with CvlWriter(exact, replace(header, coder="exact-bf16", period=header.chunk)) as cvl:
        for chunk in chunks:
            count = len(chunk.latents)
            cvl.write_chunk(count, chunk.pts, ExactCoder("bf16").encode(0, latents[:, :count]))
    return [*goldens, rich.getvalue(), exact.getvalue()]
