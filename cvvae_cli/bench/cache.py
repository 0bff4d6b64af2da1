"""Rows already measured, one file each, under a hash of everything that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1  # of what an entry holds


@dataclass(frozen=True)
class Entry:
    """A row, its values per frame, and pictures (JPEG) by name."""

    row: dict[str, Any]
    per_frame: dict[str, list[float | None]] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)


class RowCache:
    """A folder of entries; None for `folder` keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str) -> Entry | None:
        """The entry of a key; None if there is none, or it is damaged."""
        if self.folder is None:
            return None
        try:
            kept = json.loads((self.folder / f"{key}.json").read_text())
            pictures = {name: (self.folder / f"{key}.{name}.jpg").read_bytes() for name in kept["pictures"]}
            return Entry(kept["row"], kept["per_frame"], pictures)
        except (OSError, ValueError, KeyError):
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry; the file that `get` looks for first appears last, whole."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, data in entry.pictures.items():
            (self.folder / f"{key}.{name}.jpg").write_bytes(data)
        kept = {"row": entry.row, "per_frame": entry.per_frame, "pictures": sorted(entry.pictures)}
        part = self.folder / f"{key}.json.part"
        part.write_text(json.dumps(kept))
        part.replace(self.folder / f"{key}.json")


def key_of(facts: Mapping[str, object]) -> str:
    text = json.dumps({"version": VERSION, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
