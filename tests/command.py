"""The command as a process of its own, forked from one that has imported what every command needs.

Imports would take most of the time of most tests. What starts from nothing is tested too: as
`python -m cvvae_cli`, in tests that kill or interrupt it, and as it is installed (test_wheel.py).
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

NAMES = ("stdin", "stdout", "stderr")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["cvvae_cli.cli.app", "cvvae_cli.codec", "cvvae_cli.bench.run"])


def run_command(
    arguments: Sequence[str], folder: Path, stdin: bytes = b"", timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`cvvae` in a folder, with the present environment; stdout and stderr apart, no terminal."""
    with tempfile.TemporaryDirectory() as name:
        streams = Path(name)
        os.mkfifo(streams / "stdin")  # a pipe, in which nobody can go back
        process = FORKS.Process(target=_run, args=(arguments, folder, dict(os.environ), streams))
        process.start()
        writer = threading.Thread(target=_write, args=(streams / "stdin", stdin), daemon=True)
        writer.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        out, err = ((streams / stream).read_bytes().decode() for stream in NAMES[1:])
        return subprocess.CompletedProcess(list(arguments), process.exitcode, out, err)


def _write(pipe: Path, data: bytes) -> None:
    """All of it, or what the other side reads."""
    with suppress(BrokenPipeError):
        pipe.write_bytes(data)


def _run(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], streams: Path) -> None:
    """What the process does."""
    os.environ.clear()
    os.environ.update(environment)
    for number, (name, mode) in enumerate(zip(NAMES, ("r", "w", "w"), strict=True)):
        with (streams / name).open(mode) as file:
            os.dup2(file.fileno(), number)
        setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process
    os.chdir(folder)
    sys.argv = ["cvvae", *arguments]
    runpy.run_module("cvvae_cli", run_name="__main__", alter_sys=True)
