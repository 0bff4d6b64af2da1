"""`cvvae info`. Needs the standard library and the container room only: it never loads torch."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from cvvae_cli.cli import console
from cvvae_cli.cli.options import Json
from cvvae_cli.container.header import Header
from cvvae_cli.container.layout import VERSION
from cvvae_cli.container.reader import CvlReader, open_cvl


def info(
    source: Annotated[Path, typer.Argument(help="The .cvl file.")],
    chunks: Annotated[bool, typer.Option("--chunks", help="List every chunk.")] = False,
    channels: Annotated[
        bool, typer.Option("--channels", help="Count the bits of every channel: decodes the symbols.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what a .cvl file holds."""
    with open_cvl(source, allow_partial=True) as cvl:
        values = describe(cvl)
        if chunks:
            values["chunk_table"] = chunk_table(cvl)
        if channels:
            values["bits_per_channel"] = bits_per_channel(cvl)
    if json:
        console.print_json(values)
        return
    rows = {
        "video": f"{values['frames']} frames of {values['width']}x{values['height']}, "
        f"{values['frame_rate']:.6g} per second, {values['duration_seconds']:.2f} s",
        "size": console.bytes_text(values["file_bytes"])
        + (", cut: the figures are of what is there" if values["is_cut"] else ""),
        "beside the video": side_text(values),
        "bits per pixel": f"{values['bits_per_pixel']:.4f}",
        "model": f"{values['model']} ({values['weights_sha256'][:12]}…)"
        + ("" if values["quality"] is None else f", quality {values['quality']:g}"),
        "latents": f"{values['latents']} frames of {' x '.join(map(str, values['latent_shape']))}",
        "chunks": f"{values['chunks']} of {values['chunk_latents']} latent frames",
        **windows_row(values["window"], cvl.header),
        "coder": f"{values['coder']}, in periods of {values['period']} latent frames",
        "colour (CICP)": f"primaries {values['color'][0]}, transfer {values['color'][1]}, "
        f"matrix {values['color'][2]}, range {RANGES[values['color'][3]]}",
        "depth": f"{values['depth']} bits",
        "pixel aspect": ":".join(map(str, values["pixel_aspect"])),
        "rotation applied": f"{values['rotation']}°",
        "encoded with": values["computed"],
        "format": values["format"],
    }
    console.print_table(str(source), rows)
    if chunks:
        console.print_rows("chunks", values["chunk_table"])
    if channels and values["bits_per_channel"]:
        total = sum(values["bits_per_channel"])
        console.print_rows(
            "channels",
            [
                {"channel": n, "bits": round(bits), "share": f"{bits / max(total, 1):.1%}"}
                for n, bits in enumerate(values["bits_per_channel"])
            ],
        )


def chunk_table(cvl: CvlReader) -> list[dict[str, Any]]:
    """One row for each chunk: where it lies, what it holds, what it takes."""
    base = Fraction(*cvl.header.time_base)
    rows = []
    for number, offset in enumerate(cvl.index):
        chunk, frames = cvl.read_chunk(number), cvl.frames_of(number)
        pixels = len(frames) * cvl.header.size[0] * cvl.header.size[1]
        rows.append(
            {
                "chunk": number,
                "offset": offset,
                "bytes": len(chunk.symbols),
                "first_frame": frames.start,
                "frames": len(frames),
                "start_seconds": round(float(chunk.pts[0] * base), 6),
                "bits_per_pixel": float(f"{len(chunk.symbols) * 8 / pixels:.6g}"),
            }
        )
    return rows


def bits_per_channel(cvl: CvlReader) -> list[float] | None:
    """Bits of each latent channel in the whole file; None for exact latents."""
    from cvvae_cli.latents import bits_by_channel, model_of

    bits = bits_by_channel(cvl, model_of(cvl.header)[1])
    return None if bits is None else [round(float(b), 1) for b in bits]


RANGES = {None: "not tagged", 0: "limited", 1: "full"}


def describe(cvl: CvlReader) -> dict[str, Any]:
    """The keys of `cvvae info --json`."""
    header, first, last = cvl.header, cvl.read_chunk(0), cvl.read_chunk(len(cvl.index) - 1)
    rate = Fraction(*header.rate)
    side_bytes = cvl.side_bytes()
    video_bytes = cvl.size_bytes - side_bytes
    pixels = header.size[0] * header.size[1] * cvl.num_frames
    return {
        "format": f"cvl {VERSION[0]}.{VERSION[1]}",
        "is_cut": cvl.is_cut,
        "frames": cvl.num_frames,
        "width": header.size[0],
        "height": header.size[1],
        "frame_rate": float(rate),
        "duration_seconds": float((last.pts[-1] - first.pts[0]) * Fraction(*header.time_base) + 1 / rate),
        "file_bytes": cvl.size_bytes,
        "video_bytes": video_bytes,
        "side_bytes": side_bytes,
        "side": header.to_json().get("side", []),
        "chapters": header.chapters,
        "overhead_bytes": video_bytes - cvl.symbol_bytes(),
        "bits_per_pixel": float(f"{video_bytes * 8 / pixels:.6g}"),
        "model": header.model,
        "weights_sha256": header.weights,
        "quality": None if header.level is None else header.level / 10,
        "latents": cvl.num_latents,
        "latent_shape": [header.latent[0], *header.geometry.latent_size(*header.size)],
        "chunks": len(cvl.index),
        "window": None if cvl.header.window is None else list(cvl.header.window),
        "chunk_latents": header.chunk,
        "coder": header.coder,
        "period": header.period,
        "context": list(header.context),
        "time_base": list(header.time_base),
        "color": list(header.color),
        "rotation": header.rotation,
        "depth": header.depth,
        "pixel_aspect": list(header.aspect),
        "computed": header.computed,
        "fingerprint": header.source,
    }


def windows_row(window: list[int] | None, header: Header) -> dict[str, str]:
    """How a windowed model cut the video; empty for others."""
    if window is None:
        return {}
    frames, overlap, tile, stride = window
    _, group, pixels = header.latent
    shared = f", sharing {overlap * group} more" if overlap else ""
    whole = f"tiles of {tile * pixels} every {stride * pixels} pixels"
    return {"windows": f"{frames * group} + 1 frames{shared}; {'no tiles' if tile == stride else whole}"}


def side_text(values: dict[str, Any]) -> str:
    """What lies beside the video, in words."""
    kept = [" ".join(filter(None, (s["kind"], s["codec"], s.get("language")))) for s in values["side"]]
    kept += [f"{values['chapters']} chapters"] if values["chapters"] else []
    return (
        f"{', '.join(kept) or 'tags'}: {console.bytes_text(values['side_bytes'])}"
        if values["side_bytes"]
        else "nothing"
    )
