"""What a person sees: progress on stderr, results on stdout, errors as a sentence and a hint."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cvvae_cli.cli import interrupt
from cvvae_cli.errors import ConfigError, CvvaeError
from cvvae_cli.types import OnProgress
from cvvae_cli.types import Progress as State

LOG_EVERY_SECONDS = 10.0
NO_TERMINAL_COLUMNS = 240  # a file has room; nothing is cut off

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(values: object) -> None:
    """One compact line on stdout."""
    sys.stdout.write(json.dumps(values, separators=(",", ":"), allow_nan=False) + "\n")


def print_table(title: str, rows: Mapping[str, str]) -> None:
    table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def print_rows(title: str, rows: list[dict[str, object]]) -> None:
    """A table of rows with the same keys."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in rows[0] if rows else ():
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    out.print(table)


def print_grid(title: str, heads: list[str], cells: list[list[str]]) -> None:
    """A table of text; the first column to the left, the others to the right. Never cut off."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for line in cells:
        table.add_row(*line)
    page = out if out.is_terminal else Console(highlight=False, width=NO_TERMINAL_COLUMNS)
    page.print(table)


def print_error(error: CvvaeError) -> None:
    err.print("[bold red]error:[/] ", end="")
    err.print(error.message, markup=False, soft_wrap=True)
    if error.hint:
        err.print("[bold]hint:[/] ", end="")
        err.print(error.hint, markup=False, soft_wrap=True)


class Notes(logging.Handler):
    """Shows what the rooms log as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print("[bold yellow]note:[/] ", end="")
        err.print(record.getMessage(), markup=False, soft_wrap=True)


def show_notes() -> None:
    logger = logging.getLogger("cvvae")
    logger.propagate = False
    logger.handlers = [Notes()]


def parse_bytes(text: str) -> int:
    """A size in bytes. Raises ConfigError for what is none.

    >>> [parse_bytes(text) for text in ("500kB", "1.5 MB", "4096")]
    [500000, 1500000, 4096]
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*(k|m|g|)(i?)b?\s*", text.lower())
    try:
        number = Fraction(found[1]) if found else Fraction(0)
    except ValueError:
        number = Fraction(0)
    if found is None or number <= 0:
        raise ConfigError(f"{text!r} is not a size", hint="for example 500kB or 20MB")
    return int(number * (1024 if found[3] else 1000) ** ("", "k", "m", "g").index(found[2]))


def bytes_text(size: int | None) -> str:
    """A size for people.

    >>> bytes_text(1_536_000)
    '1.54 MB'
    """
    if size is None:
        return "unknown"
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{size} bytes" if units[0] == "bytes" else f"{value:.3g} {units[0]}"


@contextmanager
def progress(label: str) -> Iterator[OnProgress]:
    """A listener that draws a bar on a terminal and writes sparse lines elsewhere; it notices interrupts."""
    began = time.monotonic()
    if not err.is_terminal:
        yield SparseLog(label, began)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(label, total=None, detail="")

        def show(state: State) -> None:
            interrupt.raise_if_noticed()
            bar.tasks[0].total = state.believed_total  # `update` cannot take a total back
            bar.update(task, completed=state.frames, detail=detail(state, began))

        yield show


@contextmanager
def transfer(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A listener of a download: a bar on a terminal, sparse lines elsewhere."""
    if not err.is_terminal:
        last = time.monotonic()

        def log(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last > LOG_EVERY_SECONDS:
                last = time.monotonic()
                err.print(f"{label}: {bytes_text(done)} of {bytes_text(total)}")

        yield log
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def detail(state: State, began: float) -> str:
    """Frames per second since the start, and bits per pixel so far."""
    fps = f"{state.frames / max(time.monotonic() - began, 1e-9):.1f} fps"
    return fps if state.bits_per_pixel is None else f"{fps}, {state.bits_per_pixel:.4f} bits per pixel"


class SparseLog:
    """A line every ten seconds."""

    def __init__(self, label: str, began: float) -> None:
        self.label = label
        self.began = self.last = began

    def __call__(self, state: State) -> None:
        interrupt.raise_if_noticed()
        if time.monotonic() - self.last < LOG_EVERY_SECONDS:
            return
        self.last = time.monotonic()
        total = f"/{state.believed_total}" if state.believed_total else ""
        err.print(f"{self.label}: {state.frames}{total} frames, {detail(state, self.began)}")
