"""The latents of a .cvl file: of any chunk, without the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cvvae_cli.bitstream.chunk import LatentCoder, QuantizedCoder, coder_of
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.detail import Memory, detail_of
from cvvae_cli.bitstream.exact import EXACT_TYPES, ExactCoder
from cvvae_cli.container.header import Header
from cvvae_cli.container.layout import Chunk
from cvvae_cli.container.reader import CvlReader
from cvvae_cli.errors import CorruptFileError, WeightsError
from cvvae_cli.models.registry import ModelSpec, Weights, find_model
from cvvae_cli.types import LatentChunk, WindowGeometry


def model_of(header: Header) -> tuple[ModelSpec, Weights]:
    """The model and the very weights that a file was encoded with, run on the file's own chunk grid."""
    spec = find_model(header.model)
    if header.weights != spec.weights_sha256:
        raise WeightsError(
            f"the file was encoded with other weights of {spec.name} ({header.weights[:12]}…, "
            f"these are {spec.weights_sha256[:12]}…)",
            hint="decode it with the version of cvvae that made it",
        )
    if header.geometry != spec.geometry:
        raise CorruptFileError(f"the header's geometry is not that of {spec.name}")
    if (header.window is None) != (spec.windows is None):
        raise CorruptFileError(f"the header's windows are not those of {spec.name}")
    windows = None if header.window is None else WindowGeometry(*header.window)
    kind = ENTROPY_CODERS.get(header.coder)
    borrows = kind is not None and kind.borrows
    spec_of_file = replace(
        spec, chunk_latents=header.chunk, period=header.period, windows=windows, borrows=borrows
    )
    return spec_of_file, Weights(spec)


def latent_coder(header: Header, weights: Weights, device: str = "cpu") -> LatentCoder:
    """The coder that a header names, with the tables of the model; its bits are the same on every device."""
    if header.coder in EXACT_TYPES:
        return ExactCoder(EXACT_TYPES[header.coder])
    levels = weights.gain_and_step(header.level)
    return coder_of(header.coder, weights.arrays, levels, header.level, header.period, device)


def read_latents(
    cvl: CvlReader,
    weights: Weights,
    chunks: range | None = None,
    stop: int | None = None,
    *,
    device: str = "cpu",
) -> Iterator[LatentChunk]:
    """The dequantised latents of consecutive chunks, by default of all; none from latent frame `stop` on."""
    chunks = range(len(cvl.index)) if chunks is None else chunks
    yield from decoded_chunks(cvl, latent_coder(cvl.header, weights, device), chunks, stop)


def decoded_chunks(
    cvl: CvlReader, coder: LatentCoder, chunks: range, stop: int | None = None
) -> Iterator[LatentChunk]:
    """The same with a coder of one's own, which is told all that they need of the chunks before them."""
    header = cvl.header
    stop = cvl.num_latents if stop is None or not isinstance(coder, QuantizedCoder) else stop
    channels = header.geometry.channels
    rows, columns = header.geometry.latent_size(*header.size)

    def decoded(chunk: Chunk, latents: range) -> tuple[np.ndarray, np.ndarray | None, list[Memory] | None]:
        shape = (channels, len(latents), rows, columns)
        fields = coder.decode_fields(chunk.symbols, shape)
        values = coder.decode(latents.start, chunk.symbols, shape, fields)
        return values, fields, coder.decode_detail(latents.start, chunk.symbols, shape)

    *earlier, opening = openings(cvl, coder, chunks.start)
    for chunk in earlier:
        decoded(chunk, chunk.latents[:1])
    first = opening.latents.start // header.chunk
    for number in range(first, chunks.stop):
        chunk = opening if number == first else cvl.read_chunk(number)
        latents = range(chunk.latents.start, min(chunk.latents.stop, stop))
        values, fields, memories = decoded(chunk, latents)
        if number in chunks:
            every = cvl.frames_of(number)
            frames = range(every.start, min(header.geometry.frames_of(latents).stop, cvl.num_frames))
            yield LatentChunk(
                values,
                frames,
                np.array(chunk.pts[: len(frames)], np.int64),
                fields,
                coder.borrowed,
                checked_light(coder.light, every),
                detail=None if memories is None else detail_of(memories),
                level=header.level,
                corrections=coder.decode_corrections(chunk.symbols, values.shape, every),
            )


def checked_light(light: np.ndarray | None, frames: range) -> np.ndarray | None:
    """The light of the frames of a chunk. Raises CorruptFileError if it is of others."""
    if light is not None and len(light) != len(frames):
        raise CorruptFileError("the light of a chunk is not that of its frames")
    return light


def openings(cvl: CvlReader, coder: LatentCoder, number: int) -> list[Chunk]:
    """The chunks with which periods begin, linked to each other: from a fresh one to that of a chunk."""
    chunks = cvl.header.period // cvl.header.chunk
    number -= number % chunks
    found = [cvl.read_chunk(number)]
    while not coder.is_fresh(found[0].latents.start, found[0].symbols):
        number -= chunks
        found.insert(0, cvl.read_chunk(number))
    return found


def bits_by_channel(cvl: CvlReader, weights: Weights) -> np.ndarray | None:
    """float64 (C,): bits of each channel's symbols by the coder's own tables; None for exact latents."""
    coder = latent_coder(cvl.header, weights)
    if not isinstance(coder, QuantizedCoder):
        return None
    channels = cvl.header.geometry.channels
    size = cvl.header.geometry.latent_size(*cvl.header.size)
    bits = np.zeros(channels)
    for number in range(len(cvl.index)):
        chunk = cvl.read_chunk(number)
        bits += coder.measure(chunk.latents.start, chunk.symbols, (channels, len(chunk.latents), *size))
    return bits
