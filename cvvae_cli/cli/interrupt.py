"""Interrupts (Ctrl-C) that do not get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a callback of a library, which can
only drop it or turn it into an error of its own, a job would go on, or fail for a wrong reason.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Seen:
    interrupt = False


@contextmanager
def noticed() -> Iterator[None]:
    """Take note of interrupts within; they are raised as ever.

    Outside the main thread, and where interrupts are handled otherwise, nothing changes.
    """
    _Seen.interrupt = False
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: Any) -> None:
        _Seen.interrupt = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def was_noticed() -> bool:
    """Whether an interrupt came since `noticed` began."""
    return _Seen.interrupt


def raise_if_noticed() -> None:
    """Raise KeyboardInterrupt if there was one, which whoever called this cannot have seen."""
    if _Seen.interrupt:
        raise KeyboardInterrupt
