"""Fetch the released checkpoints of the paper's networks from their authors' repository."""

from __future__ import annotations

import os

from cvvae_cli.download import OnBytes, download, ignore_bytes
from cvvae_cli.errors import DownloadError, UnknownModelError
from cvvae_cli.models.imported import RELEASES, Imported, import_weights, read_manifest
from cvvae_cli.store import cache_folder

HUB = "https://huggingface.co"
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")  # in order of preference


def pull_weights(
    name: str, *, dtype: str = "fp16", force: bool = False, on_bytes: OnBytes = ignore_bytes
) -> Imported:
    """Fetch a release, convert it and note its hashes; what broke off before is continued.

    $HF_ENDPOINT names another hub. Raises UnknownModelError, DownloadError or WeightsError.
    """
    if name not in RELEASES:
        raise UnknownModelError(
            f"no release is called {name!r}", hint=f"releases: {', '.join(RELEASES)}; or import a file"
        )
    entries = read_manifest()
    if name in entries and not force:
        return entries[name]
    repository, folder = RELEASES[name]
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    errors = []
    for file in FILES:
        target = cache_folder() / "pull" / name / file
        try:
            download(f"{hub}/{repository}/resolve/main/{folder}/{file}", target, on_bytes=on_bytes)
        except DownloadError as error:
            errors.append(error)
            if "404" in str(error):
                continue
            break
        entry = import_weights(target, name, dtype=dtype, force=force)
        target.unlink()
        return entry
    raise DownloadError(
        str(errors[-1]),
        hint=f"fetch {hub}/{repository}/tree/main/{folder} elsewhere, "
        f"then run cvvae weights import PATH --as {name}",
    )
