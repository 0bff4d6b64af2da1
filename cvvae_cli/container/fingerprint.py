"""What a result depends on, as one short name: source content, weights and options; no path, no time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FINGERPRINT_DIGITS = 32


def hash_file(path: Path) -> str:
    """SHA-256 of a file, hex; of a folder, that of its files' names and contents."""
    if path.is_dir():
        parts = [f"{p.name}\0{hash_file(p)}\n" for p in sorted(path.iterdir()) if p.is_file()]
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(source_sha256: str, weights_sha256: str, options: dict[str, Any]) -> str:
    """The name of encoding this source with these weights and options."""
    values = {"source": source_sha256, "weights": weights_sha256, "options": options}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_DIGITS]
