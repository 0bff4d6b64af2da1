"""Hostile .cvl files: `python tests/container/hostile.py` wrote tests/hostile."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from container.fuzzing import framed, records_of
from container.seeds import seeds

from cvvae_cli.container.header import Header
from cvvae_cli.container.layout import CHUNK_HEAD, pack_chunk, pack_header
from cvvae_cli.container.reader import CvlReader
from cvvae_cli.container.writer import CvlWriter

FOLDER = Path(__file__).parent.parent / "hostile"
Payload = Callable[[bytes], bytes]


def changed(data: bytes, tag: bytes, change: Payload, *, mend: bool = True) -> bytes:
    """The first record of a kind with another payload; checksums right, and the footer too with `mend`."""
    records = records_of(data)
    number = next(i for i, record in enumerate(records) if record[0] == tag)
    records[number] = (tag, change(records[number][1]))
    if mend:
        whole = framed(records)
        index = len(whole) - 44 - 12 - len(records[-2][1])
        footer = struct.pack("<Q", index) + records[-1][1][8:24] + struct.pack("<Q", len(whole))
        records[-1] = (b"FOOT", footer)
    return framed(records)


def bomb(header: Header) -> bytes:
    """Exact latents whose planes inflate to a thousand times their size."""
    plane = zlib.compress(bytes(2**24))
    symbols = b"".join(struct.pack("<BI", 1, len(plane)) + plane for _ in range(2))
    file = io.BytesIO()
    with CvlWriter(file, replace(header, coder="exact-bf16", period=header.chunk)) as cvl:
        cvl.write_chunk(1, [0], symbols)
    return file.getvalue()


def files() -> dict[str, tuple[str, bytes]]:
    """Name → what it tries, and the file."""
    golden, rich = seeds()[0], seeds()[-2]
    with CvlReader(io.BytesIO(golden)) as cvl:
        header = cvl.header
    deep = b"\x01\x00" + b"[" * 60_000
    index = struct.Struct("<Q")
    return {
        "four-gigabytes": (
            "a record that claims four gigabytes",
            golden.replace(b"LATS", b"LATS\xff\xff\xff\xff", 1),
        ),
        "deep-json": ("a header nested 60,000 deep", changed(golden, b"HEAD", lambda _: deep)),
        "wide-picture": (
            "a picture of 65,536 x 65,536 pixels",
            changed(golden, b"HEAD", lambda _: header_of(header, size=[65_536, 65_536])),
        ),
        "many-channels": (
            "2^40 latent channels",
            changed(golden, b"HEAD", lambda _: header_of(header, latent=[2**40, 4, 8])),
        ),
        "no-time": (
            "a time base of 1/0",
            changed(golden, b"HEAD", lambda _: header_of(header, time_base=[1, 0])),
        ),
        "zero-chunk": (
            "chunks of no latent frames",
            changed(golden, b"HEAD", lambda _: header_of(header, chunk=0)),
        ),
        "index-claims": (
            "an index of 2^32 - 1 chunks in 8 bytes",
            changed(golden, b"INDX", lambda _: b"\xff" * 4 + bytes(4)),
        ),
        "index-overlap": (
            "two index entries for one chunk",
            changed(golden, b"INDX", lambda p: p[:16] + p[8:16] + p[24:]),
        ),
        "index-header": (
            "an index that points into the header",
            changed(golden, b"INDX", lambda p: p[:8] + index.pack(8) + p[16:]),
        ),
        "index-side-beyond": (
            "a side entry that ends beyond the index",
            changed(rich, b"INDX", lambda p: p[:-20] + struct.pack("<QIq", len(rich) - 300, 2**22, 0)),
        ),
        "footer-frames": (
            "a footer of 2^60 frames",
            changed(golden, b"FOOT", lambda p: p[:8] + index.pack(2**60) + p[16:], mend=False),
        ),
        "footer-beyond": (
            "a footer that points beyond the file",
            changed(golden, b"FOOT", lambda p: index.pack(2**63) + p[8:], mend=False),
        ),
        "chunk-twice": ("the same chunk twice", repeated(golden, b"LATS")),
        "chunk-missing": ("a chunk left out, its index entry kept", without(golden, b"LATS")),
        "header-twice": ("a second header", repeated(golden, b"HEAD")),
        "times-many": (
            "a chunk whose timestamps claim 2^62 runs",
            changed(golden, b"LATS", lambda p: p[: CHUNK_HEAD.size] + b"\0" + b"\xff" * 8 + b"\x3f" + p[10:]),
        ),
        "times-back": (
            "timestamps that go back between chunks",
            changed(golden, b"LATS", lambda p: pack_chunk(0, 4, [10**9 + i for i in range(13)], p[20:])),
        ),
        "ans-words": (
            "symbols of three bytes, which is no whole word",
            changed(golden, b"LATS", lambda p: p[: CHUNK_HEAD.size + 6] + b"abc"),
        ),
        "bomb": ("exact latents that inflate a thousandfold", bomb(header)),
        "newer": ("a format of the far future", changed(golden, b"HEAD", lambda p: b"\xff" + p[1:])),
        "coder": (
            "a coder that nobody knows",
            changed(golden, b"HEAD", lambda _: header_of(header, coder="__import__('os')")),
        ),
        "model": (
            "a model named like a path",
            changed(golden, b"HEAD", lambda _: header_of(header, model="../../etc/passwd")),
        ),
        "trailing": ("bytes after the footer", golden + b"more"),
        "empty-name": ("a record without a name", golden.replace(b"LATS", bytes(4), 1)),
    }


def header_of(header: Header, **changes: object) -> bytes:
    return pack_header(header.to_json() | changes)


def repeated(data: bytes, tag: bytes) -> bytes:
    records = records_of(data)
    number = next(i for i, record in enumerate(records) if record[0] == tag)
    return changed(
        framed([*records[: number + 1], records[number], *records[number + 1 :]]), b"FOOT", lambda p: p
    )


def without(data: bytes, tag: bytes) -> bytes:
    records = records_of(data)
    number = next(i for i, record in enumerate(records) if record[0] == tag)
    return changed(framed([*records[:number], *records[number + 1 :]]), b"FOOT", lambda p: p)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    lines = ["# Hostile files", "", "Made by `tests/container/hostile.py`; none of them may be read.", ""]
    for name, (tries, data) in files().items():
        (FOLDER / f"{name}.cvl").write_bytes(data)
        lines.append(f"* `{name}.cvl`: {tries}")
    (FOLDER / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
