"""Output files appear under their name whole or not at all; what an interruption leaves can be resumed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cvvae_cli.errors import CvvaeError, OutputExistsError, OutputNotWritableError

try:
    import fcntl
except ImportError:  # Windows: the part file alone guards the output
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("cvvae")
PART_SUFFIX = ".part"


@dataclass
class Part:
    """An output that is being written."""

    path: Path
    is_resumable: bool = False  # keep it if the job is interrupted, and say how to go on


def part_of(output: Path) -> Path:
    """Where an output is written until it is whole."""
    return output.with_name(output.name + PART_SUFFIX)  # same folder: a rename must not cross disks


def require_writable(output: Path, sources: tuple[Path, ...] = (), *, force: bool = False) -> None:
    """Refuse an output that exists, is an input, or lies where nothing can be written."""
    for source in sources:
        if output.exists() and source.exists() and output.samefile(source):
            raise OutputExistsError(f"{output} is the source itself", hint="choose another name")
    if output.is_dir():
        raise OutputExistsError(f"{output} is a folder", hint="name a file in it")
    if output.exists() and not force:
        raise OutputExistsError(f"{output} already exists", hint="pass --force to replace it")
    if not output.parent.is_dir():
        raise OutputNotWritableError(f"there is no folder {output.parent}", hint="create it first")
    if not os.access(output.parent, os.W_OK):
        raise OutputNotWritableError(f"the folder {output.parent} may not be written to")


def require_writable_folder(folder: Path, page: str, *, force: bool = False) -> None:
    """The same for a folder, made if it is not there, in which a page `page` will lie."""
    if folder.is_dir():
        require_writable(folder / page, force=force)
    elif folder.exists():
        raise OutputExistsError(f"{folder} is a file", hint="name a folder")
    else:
        require_writable(folder)


@contextmanager
def replace_on_success(output: Path, *, force: bool = False, resume: bool = False) -> Iterator[Part]:
    """Give a locked part file; it becomes `output` if the block ends without an error.

    With `resume` a part file that is there is kept as it is. After an interruption or a full disk a part that
    says it is resumable stays; after an error of the job itself only a part that was there before stays.
    """
    part = Part(part_of(output))
    try:
        lock = part.path.open("ab" if force or resume else "xb")  # not "wb": another run may hold it
    except FileExistsError:
        raise OutputExistsError(
            f"{part.path} exists: another run writes it, or was interrupted",
            hint="pass --resume to go on (encode only), or --force to start over",
        ) from None
    except OSError as error:
        raise OutputNotWritableError(f"cannot create {part.path}: {error.strerror}") from None
    with lock:
        take_lock(lock, part.path)
        held_something = resume and part.path.stat().st_size > 0
        try:
            yield part
            with part.path.open("rb") as file:
                os.fsync(file.fileno())
            part.path.replace(output)
        except BaseException as error:
            if part.is_resumable and not isinstance(error, CvvaeError):
                logger.warning("%s is kept: the same command with --resume goes on from there", part.path)
            elif not held_something:
                with suppress(OSError):
                    part.path.unlink()
            raise


def take_lock(file: BinaryIO, part: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputExistsError(f"{part} is being written by another run", hint="wait for it") from None
