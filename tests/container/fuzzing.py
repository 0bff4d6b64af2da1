"""Mutated .cvl files, and what must hold for each. `make fuzz` runs it for minutes, the tests for seconds."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

from cvvae_cli.bitstream.chunk import LatentCoder
from cvvae_cli.container.reader import CvlReader
from cvvae_cli.errors import CorruptFileError, CvvaeError, UnsupportedFormatError

FIXED_BOUND = 2**22  # bytes beside twice the file: a chunk may hold 65,535 timestamps in a few bytes
LONGEST_SECONDS = 1.0  # of the processor, not of a clock on the wall: how busy a machine is says nothing
DEEP_SHARE = 0.1  # of the attacks: decoding symbols is slow
LARGEST_PICTURE = 2**16  # pixels up to which symbols of a mutant are decoded: a header may claim gigabytes
INTERESTING = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def records_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Tag and payload of every record of a sound file."""
    found, place = [], 8
    while place < len(data):
        tag, size = struct.unpack_from("<4sI", data, place)
        found.append((tag, data[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def framed(records: list[tuple[bytes, bytes]]) -> bytes:
    """A file of records with right checksums; what the footer says of sizes is left as it is."""
    parts = [b"\x89CVL\r\n\x1a\n"]
    for tag, payload in records:
        body = tag + struct.pack("<I", len(payload)) + payload
        parts.append(body + struct.pack("<I", zlib.crc32(body)))
    return b"".join(parts)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Damage as disks and networks do it: flips, cuts, holes, repeats, overwritten numbers."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not damaged:
            break
        place = rng.randrange(len(damaged))
        kind = rng.randrange(7)
        if kind == 0:
            damaged[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[place] = rng.randrange(256)
        elif kind == 2:
            del damaged[place:]
        elif kind == 3:
            del damaged[place : place + rng.randrange(1, 64)]
        elif kind == 4:
            damaged[place:place] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 5:
            damaged[place:place] = damaged[place : place + rng.randrange(1, 200)]
        else:
            number = rng.choice(INTERESTING)
            width = rng.choice((2, 4, 8))
            damaged[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(damaged)


def mutate_records(data: bytes, rng: random.Random) -> bytes:
    """Damage as an attacker does it: every checksum is right."""
    records = records_of(data)
    for _ in range(rng.choice((1, 1, 2))):
        number = rng.randrange(len(records))
        tag, payload = records[number]
        kind = rng.randrange(7)
        if kind == 0:
            del records[number]
        elif kind == 1:
            records.insert(rng.randrange(len(records) + 1), (tag, payload))
        elif kind == 2:
            other = rng.randrange(len(records))
            records[number], records[other] = records[other], records[number]
        elif kind == 3:
            records[number] = (rng.choice((b"HEAD", b"LATS", b"SIDE", b"INDX", b"FOOT", b"NEWS")), payload)
        elif kind == 4 and tag == b"HEAD" and len(payload) > 4:
            records[number] = (tag, mutate_header(payload, rng))
        else:
            records[number] = (tag, mutate_bytes(payload, rng))
        if not records:
            break
    whole = framed(records)
    if rng.random() < 0.7 and len(records) > 1 and records[-1][0] == b"FOOT" and len(records[-1][1]) == 32:
        index = len(whole) - 44 - 12 - len(records[-2][1])  # a footer that knows where things are
        footer = struct.pack("<Q", index) + records[-1][1][8:24] + struct.pack("<Q", len(whole))
        whole = framed([*records[:-1], (b"FOOT", footer)])
    return whole


def mutate_header(payload: bytes, rng: random.Random) -> bytes:
    try:
        header = json.loads(payload[2:])
    except ValueError:  # mutated before
        return mutate_bytes(payload, rng)
    key = rng.choice(sorted(header))
    values = [*INTERESTING, -1, None, "", "x" * 300, [], [1], [0, 0], [2**40, 16], {}, 1.5, True, [[[]]]]
    if isinstance(header[key], list) and header[key] and rng.random() < 0.7:
        header[key][rng.randrange(len(header[key]))] = rng.choice(values)
    elif rng.random() < 0.2:
        del header[key]
    else:
        header[key] = rng.choice(values)
    return payload[:2] + json.dumps(header).encode()


def mutants(seeds: list[bytes], seed: int) -> Iterator[tuple[bytes, bytes, bool, bool]]:
    """Original, mutant, whether the mutant's checksums were made right, whether to decode its symbols."""
    rng = random.Random(seed)
    while True:
        original = rng.choice(seeds)
        is_attack = rng.random() < 0.6
        mutant = (mutate_records if is_attack else mutate_bytes)(original, rng)
        yield original, mutant, is_attack, is_attack and rng.random() < DEEP_SHARE


def read_all(data: bytes, coders: dict[str, LatentCoder], *, allow_partial: bool = False) -> None:
    """What `verify` does, and the symbols too where the picture is small."""
    with CvlReader(io.BytesIO(data), allow_partial=allow_partial) as cvl:
        cvl.verify()
        b"".join(cvl.side_data())
        for number in range(len(cvl.index)):
            cvl.read_chunk(number)
        header = cvl.header
        coder = coders.get(header.coder)
        width, height = header.size
        if coder is None or width * height > LARGEST_PICTURE or header.latent != (4, 4, 8):
            return
        for number in range(len(cvl.index)):
            chunk = cvl.read_chunk(number)
            shape = (4, len(chunk.latents), *header.geometry.latent_size(width, height))
            coder.decode(chunk.latents.start, chunk.symbols, shape)
            coder.decode_fields(chunk.symbols, shape)
            coder.decode_detail(chunk.latents.start, chunk.symbols, shape)
            coder.decode_corrections(chunk.symbols, shape, cvl.frames_of(number))


def measured(data: bytes, coders: dict[str, LatentCoder]) -> tuple[str, float, int]:
    """Read it all: how that ended, seconds of the processor, and the most bytes at a time."""
    outcome = "read"
    tracemalloc.start()
    began = time.process_time()
    try:
        read_all(data, coders)
    except (CorruptFileError, UnsupportedFormatError) as error:
        outcome = type(error).__name__
    finally:
        seconds = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return outcome, seconds, peak


def seconds_untraced(data: bytes, coders: dict[str, LatentCoder]) -> float:
    """Those of the processor, to read it all."""
    began = time.process_time()
    with suppress(CorruptFileError, UnsupportedFormatError):
        read_all(data, coders)
    return time.process_time() - began


def check(
    original: bytes, mutant: bytes, is_attack: bool, is_deep: bool, coders: dict[str, LatentCoder]
) -> str:
    """Read a mutant; returns how it ended. Raises AssertionError for what must not happen."""
    known = coders if is_deep else {}
    outcome, seconds, peak = measured(mutant, known)
    if seconds >= LONGEST_SECONDS:  # more than half of it may be the tracing of memory
        seconds = seconds_untraced(mutant, known)
    assert seconds < LONGEST_SECONDS, f"{seconds:.1f} s"
    limit = 2 * len(mutant) + FIXED_BOUND + (2**24 if is_deep else 0)  # symbols of a small picture
    assert peak <= limit, f"{peak} bytes for a file of {len(mutant)}"
    if not is_attack and mutant != original:
        assert outcome != "read", "a change went unnoticed"
    try:
        with CvlReader(io.BytesIO(mutant), allow_partial=True) as cvl:
            cvl.verify()
    except CvvaeError:
        pass
    return outcome


def fuzz(seeds: list[bytes], coders: dict[str, LatentCoder], count: int, seed: int) -> Counter[str]:
    """Check `count` mutants; returns how often each outcome came."""
    outcomes: Counter[str] = Counter()
    source = mutants(seeds, seed)
    for number in range(count):
        original, mutant, is_attack, is_deep = next(source)
        try:
            outcomes[check(original, mutant, is_attack, is_deep, coders)] += 1
        except Exception as error:
            raise AssertionError(f"mutant {number} of seed {seed}: {error!r}") from error
    return outcomes
