"""Options that several commands share, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="Numbers of the network: auto, fp32, bf16 or fp16.")]
Tile = Annotated[
    int | None,
    typer.Option(
        min=64,
        help="Largest side of a tile in pixels; smaller needs less memory. The result is the same with "
        "compact; with the paper's networks tiles are part of it.",
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(help="Most memory for activations, such as 8GiB; else most of what is free."),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Fuse the layers of the paper's networks first: slow at the start, kept for later.",
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace OUTPUT if it exists.")]
MetricNames = Annotated[
    str | None,
    typer.Option(
        help="Metrics between commas, such as psnr_db,ssim,lpips; all but the slow ones by default."
    ),
]
LpipsWeights = Annotated[
    Path | None,
    typer.Option(help="Weights of the LPIPS trunk (.pth or .safetensors), where they cannot be fetched."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]
NoAudio = Annotated[bool, typer.Option("--no-audio", help="Leave the audio out.")]
NoSubtitles = Annotated[bool, typer.Option("--no-subtitles", help="Leave the subtitles out.")]
NoAttachments = Annotated[
    bool, typer.Option("--no-attachments", help="Leave attached files (fonts, covers) out.")
]
