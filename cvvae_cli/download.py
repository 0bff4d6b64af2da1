"""Fetch a file: checked against a hash, continued where a connection broke, never half there."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvvae_cli.errors import DownloadError

logger = logging.getLogger("cvvae")
CONNECT_SECONDS = 4.0  # to reach the server, names looked up and all
READ_SECONDS = 30.0
BLOCK_BYTES = 1 << 20
ATTEMPTS = 3
OnBytes = Callable[[int, int | None], None]  # bytes there, bytes in all


def ignore_bytes(done: int, total: int | None) -> None:
    """The listener of callers that do not want to know."""


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    sha256_prefix: str | None = None,
    on_bytes: OnBytes = ignore_bytes,
    pause_seconds: float = 1.0,
) -> str:
    """Bring `url` to `target` and return its SHA-256.

    What an earlier attempt left in `target`.part is continued. Raises DownloadError if the server cannot be
    reached within a few seconds, breaks off `ATTEMPTS` times without sending anything new, or sends other
    bytes than the hash names.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = size_of(part)
        try:
            continue_part(url, part, on_bytes)
            break
        except (OSError, http.client.HTTPException) as error:
            failures = 0 if size_of(part) > before else failures + 1
            if is_final(error) or failures >= ATTEMPTS:
                raise DownloadError(
                    f"cannot download {url}: {reason(error)}", hint="check the connection, and try again"
                ) from None
            time.sleep(pause_seconds * failures)
    digest = hash_of(part)
    if digest != (sha256 or digest) or not digest.startswith(sha256_prefix or ""):
        part.unlink()
        raise DownloadError(
            f"{url} sent other bytes than expected: their SHA-256 is {digest}", hint="nothing was kept"
        )
    part.replace(target)
    return digest


def continue_part(url: str, part: Path, on_bytes: OnBytes) -> None:
    """Append to `part` what is still missing of `url`."""
    have = size_of(part)
    headers = {"User-Agent": "cvvae"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = open_within(urllib.request.Request(url, headers=headers), CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing lies beyond: it is whole, or of another file
            return
        raise
    with response:
        is_continued = response.status == 206
        length = response.headers.get("Content-Length")
        done = have if is_continued else 0
        total = None if length is None else done + int(length)
        with part.open("ab" if is_continued else "wb") as file:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                on_bytes(done, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise ConnectionError(f"it broke off after {done} of {total} bytes")


def open_within(request: urllib.request.Request, seconds: float) -> Any:
    """The response of a server; the look-up of its name, which has no time limit of its own, included."""
    outcome: list[Any] = []

    def connect() -> None:
        try:
            outcome.append(urllib.request.urlopen(request, timeout=READ_SECONDS))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def is_final(error: Exception) -> bool:
    """Whether asking again is of no use: no connection at all, or a clear refusal."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < 500 and error.code not in (408, 429)
    return isinstance(error, urllib.error.URLError | TimeoutError)


def reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code}"
    return str(getattr(error, "reason", None) or error)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
