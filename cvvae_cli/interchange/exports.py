"""Export: the latents of a .cvl file as one tensor (C, t, h, w) of another file, bit for bit.

Layouts of safetensors files: `cvvae` (tensors "latents" and "pts", the header in the metadata) and `musubi`
(the latent cache that musubi-tuner reads).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvvae_cli.bitstream.chunk import is_changed
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.exact import EXACT_TYPES, to_words
from cvvae_cli.container.reader import CvlReader, open_cvl
from cvvae_cli.errors import ConfigError, OutputNotWritableError
from cvvae_cli.interchange import safetensors
from cvvae_cli.interchange.clip import header_text
from cvvae_cli.interchange.npz import NpzTarget
from cvvae_cli.latents import model_of, read_latents
from cvvae_cli.output import replace_on_success, require_writable

MUSUBI_VERSION = "1.0.1"
MUSUBI_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote; the fields are the keys of `--json`."""

    frames: int
    latent_shape: tuple[int, int, int, int]
    dtype: str
    layout: str
    output_bytes: int


def export_file(
    source: Path,
    output: Path,
    *,
    layout: str = "cvvae",
    dtype: str | None = None,
    architecture: str | None = None,
    scaled: bool = False,
    force: bool = False,
) -> ExportReport:
    """Write the latents of a .cvl file as one tensor. Side streams are left behind. Raises a CvvaeError.

    `dtype` is fp32, bf16 or fp16; None: that of exact latents, else fp32. With `scaled` the latents are those
    that a diffusion model sees: (latent - shift) x factor of the model.
    """
    require_writable(output, (source,), force=force)
    if layout not in ("cvvae", "musubi"):
        raise ConfigError(f"no layout is called {layout!r}", hint="use cvvae or musubi")
    with open_cvl(source) as cvl:
        dtype = dtype or EXACT_TYPES.get(cvl.header.coder, "fp32")
        if dtype not in safetensors.LABELS:
            raise ConfigError(f"latents cannot be stored as {dtype!r}", hint="use fp32, bf16 or fp16")
        spec, weights = model_of(cvl.header)
        refuse_aligned(cvl)
        rows, columns = cvl.header.geometry.latent_size(*cvl.header.size)
        shape = (cvl.header.geometry.channels, cvl.num_latents, rows, columns)
        with replace_on_success(output, force=force) as part, target(output, part.path, layout) as kind:
            words, pts = kind.create(cvl, shape, dtype, architecture or spec.name, scaled)
            for chunk in read_latents(cvl, weights):
                latents = chunk.latents
                if scaled:
                    latents = (latents - spec.shift_factor) * spec.scaling_factor
                first = cvl.header.geometry.latent_of(chunk.frames.start)
                words[:, first : first + latents.shape[1]] = to_words(latents.astype(np.float32), dtype)
                pts[chunk.frames.start : chunk.frames.stop] = chunk.pts
        return ExportReport(cvl.num_frames, shape, dtype, layout, output.stat().st_size)


def refuse_aligned(cvl: CvlReader) -> None:
    """Raise ConfigError if latents of a file cannot stand alone."""
    coder = ENTROPY_CODERS.get(cvl.header.coder)
    if coder is None or not coder.takes_fields:
        return
    if any(is_changed(cvl.read_chunk(number).symbols) for number in range(len(cvl.index))):
        raise ConfigError(
            "latents of this file are of frames that were moved onto each other, or evened out: alone they "
            "mean little",
            hint="encode the video with --no-align, or --exact bf16, and export that",
        )


@contextmanager
def target(output: Path, part: Path, layout: str) -> Iterator[SafetensorsTarget | NpzTarget]:
    """The kind of file that the suffix of `output` names."""
    suffix = output.suffix.lower()
    if suffix == ".safetensors":
        yield SafetensorsTarget(part, layout)
    elif suffix == ".npz" and layout == "cvvae":
        npz = NpzTarget(part)
        try:
            yield npz
            npz.finish()
        finally:
            npz.clean_up()
    else:
        raise OutputNotWritableError(
            f"cannot export to {output.name} in the layout {layout}", hint="use .safetensors or .npz"
        )


@dataclass(frozen=True)
class SafetensorsTarget:
    """A safetensors file that is being written."""

    part: Path
    layout: str

    def create(
        self, cvl: CvlReader, shape: tuple[int, ...], dtype: str, architecture: str, scaled: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tensors to fill: latents as words, pts."""
        label = safetensors.LABELS[dtype]
        if self.layout == "musubi":
            name = f"latents_{'x'.join(map(str, shape[1:]))}_{MUSUBI_TYPES[dtype]}"
            metadata = {
                "architecture": architecture,
                "width": str(cvl.header.size[0]),
                "height": str(cvl.header.size[1]),
                "frame_count": str(cvl.num_frames),
                "format_version": MUSUBI_VERSION,
            }
            maps = safetensors.create(self.part, {name: (label, shape)}, metadata)
            return maps[name], np.zeros(cvl.num_frames, np.int64)
        metadata = {"cvvae_header": header_text(cvl.header), "scaled": str(scaled).lower()}
        shapes = {"latents": (label, shape), "pts": ("I64", (cvl.num_frames,))}
        maps = safetensors.create(self.part, shapes, metadata)
        return maps["latents"], maps["pts"]
