"""One stage of a pipeline ahead of the next, where the two do not compete for the same cores."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
END = object()


def ahead(items: Iterator[Item], device: torch.device) -> Generator[Item, None, None]:
    """The same items; with a GPU the next is computed in a thread while the last one is being used.

    One item waits at most, so memory stays bounded. Without a GPU all cores are busy already. Close it before
    what the items are made from.
    """
    if device.type != "cuda":
        yield from items
        return
    with ThreadPoolExecutor(1) as thread:
        try:
            coming = thread.submit(next, items, END)
            while (item := coming.result()) is not END:
                coming = thread.submit(next, items, END)
                yield item  # type: ignore[misc]
        finally:
            if isinstance(items, Generator):
                thread.submit(items.close).result()  # once what is being computed is done
