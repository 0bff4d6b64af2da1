"""NumPy's .npz: arrays "latents" (C, t, h, w), "pts" and "header"."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from cvvae_cli.container.reader import CvlReader
from cvvae_cli.errors import ConfigError, UnreadableSourceError
from cvvae_cli.interchange.clip import LatentClip, header_text, parsed, without_batch


class NpzTarget:
    """A .npz file that is being written: its arrays are mapped files first, then packed."""

    def __init__(self, part: Path) -> None:
        self.part = part
        self.header: np.ndarray = np.array("")
        self.arrays = {name: part.with_name(f"{part.name}.{name}.npy") for name in ("latents", "pts")}

    def create(
        self, cvl: CvlReader, shape: tuple[int, ...], dtype: str, architecture: str, scaled: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        if dtype == "bf16":
            raise ConfigError("numpy has no bf16", hint="pass --dtype fp32, or export to .safetensors")
        self.header = np.array(header_text(cvl.header) if not scaled else "")
        kind = np.dtype("<f4") if dtype == "fp32" else np.dtype("<f2")
        maps = [
            np.lib.format.open_memmap(path, "w+", dtype=kind, shape=shape)
            for path, kind, shape in (
                (self.arrays["latents"], kind, shape),
                (self.arrays["pts"], np.dtype("<i8"), (cvl.num_frames,)),
            )
        ]
        return maps[0].view(f"<u{kind.itemsize}"), maps[1]

    def finish(self) -> None:
        with zipfile.ZipFile(self.part, "w", allowZip64=True) as packed:
            for name, path in self.arrays.items():
                packed.write(path, f"{name}.npy")
            with packed.open("header.npy", "w") as file:
                np.lib.format.write_array(file, self.header)

    def clean_up(self) -> None:
        for path in self.arrays.values():
            path.unlink(missing_ok=True)


def read_npz(source: Path) -> LatentClip:
    try:
        with np.load(source, allow_pickle=False) as arrays:
            latents, pts = arrays["latents"], arrays.get("pts")
            text = str(arrays["header"]) if "header" in arrays else ""
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, EOFError):
        raise UnreadableSourceError(f"{source} is no .npz file with an array called latents") from None
    types = {np.dtype("<f4"): "fp32", np.dtype("<f2"): "fp16"}
    if latents.dtype not in types:
        raise UnreadableSourceError(f"the latents of {source} are {latents.dtype}, not float32 or float16")
    words = without_batch(source, latents.view(f"<u{latents.itemsize}"))
    return LatentClip(words, types[latents.dtype], pts, parsed(source, text), False, {})
