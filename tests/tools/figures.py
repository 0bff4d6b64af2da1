"""Put a measured table where a page shows it: between two comments that carry its name."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def held_out_figures(run: Path, steps: int) -> dict[str, Any] | None:
    """What a training run logged of the held-out clips at its step `steps`; None if it is not there yet."""
    path = run / "log.jsonl"
    log = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = [line["holdout"] for line in log if "holdout" in line and line["step"] == steps]
    return found[-1] if found else None


def replace_figures(page: str, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->` of a page of the project."""
    path = ROOT / page
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    before = path.read_text()
    if not pattern.search(before):
        raise SystemExit(f"{path} has no place for {name}")
    path.write_text(pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", before))
