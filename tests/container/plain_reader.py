"""A reader of .cvl files written from FORMAT.md alone: plain Python, no numpy, nothing of cvvae_cli.

`read(data, tables)` gives the header and the symbols as {(latent, channel, row, column): int}.
"""

import json
import struct
import zlib
from bisect import bisect_right
from itertools import accumulate


def read(data, tables):
    assert data[:8] == b"\x89CVL\r\n\x1a\n"
    header, symbols, past, place = None, {}, (), 8
    while place < len(data):
        tag, size = struct.unpack_from("<4sI", data, place)
        body = data[place : place + 8 + size]
        assert struct.unpack_from("<I", data, place + 8 + size)[0] == zlib.crc32(body)
        place += 12 + size
        if tag == b"HEAD":
            assert body[8] == 1
            header = json.loads(body[10:])
        if tag == b"LATS":
            first, count, _ = struct.unpack_from("<IHH", body, 8)
            _, at = varint(body, 16)
            runs, at = varint(body, at)
            for _ in range(2 * runs):
                _, at = varint(body, at)
            ans = Ans(struct.unpack(f"<{(len(body) - at) // 4}I", body[at:]), tables["frequencies"])
            for t in range(first, first + count):
                past = () if t % header["period"] == 0 else past
                frame = decode_frame(ans, header, tables, past)
                symbols |= {(t, *key): value for key, value in frame.items()}
                past = (frame, *past[:1])
    return header, symbols


def dot(weights, features):
    return sum(a * b for a, b in zip(weights, features, strict=True))


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


class Ans:
    def __init__(self, words, frequencies):
        self.words = list(words)
        self.ends = [list(accumulate(row)) for row in frequencies]
        self.state = self.words.pop()
        self.refill()

    def refill(self):
        if self.words and self.state < 2**32:
            self.state = self.state << 32 | self.words.pop()

    def take(self, low, width, q):
        self.state = (self.state >> 24) * width + q - low
        self.refill()

    def symbol(self, table):
        ends, q = self.ends[table], self.state % 2**24
        i = bisect_right(ends, q)
        low = ends[i - 1] if i else 0
        self.take(low, ends[i] - low, q)
        return i

    def raw(self):
        q = self.state % 2**24
        self.take(q >> 7 << 7, 128, q)
        return q >> 7


def decode_frame(ans, header, tables, past):
    channels, _, pixels = header["latent"]
    w, h = (-(-s // pixels) for s in header["size"])
    p, q = (past[0], past[-1]) if past else ({}, {})
    frame, residual = {}, {}

    def total(get, y, x, places):
        return sum(get(y + dy, x + dx) for dy, dx in places)

    row, column = ((0, -1), (0, 1)), ((-1, 0), (1, 0))
    corners = ((-1, -1), (-1, 1), (1, -1), (1, 1))

    def blur(get, y, x):
        return 4 * get(y, x) + 2 * total(get, y, x, row + column) + total(get, y, x, corners)

    for c in range(channels):

        def before(y, x, c=c):
            return p.get((c, y, x), 0)

        def now(y, x, c=c):
            return frame.get((c, y, x), 0)

        def change(y, x, c=c):
            return abs(before(y, x) - q.get((c, y, x), 0))

        def motion(y, x):
            return sum(min(abs(p.get((k, y, x), 0) - q.get((k, y, x), 0)), 255) for k in range(channels))

        def activity(y, x, c=c):
            return sum(min(abs(residual.get((k, y, x), 0)), 255) for k in range(c))

        def last(y, x, c=c):
            return min(abs(residual.get((c - 1, y, x), 0)), 255)

        def left(y, x, c=c):
            return abs(residual.get((c, y, x), 0))

        for index, (top, side) in enumerate(((0, 0), (1, 1), (0, 1), (1, 0))):
            guesses = []
            for y in range(top, h, 2):
                for x in range(side, w, 2):
                    means = [before(y, x), *(total(before, y, x, n) for n in (row, column, corners))]
                    means += [q.get((c, y, x), 0), *(total(now, y, x, n) for n in (row, column, corners)), 64]
                    scales = [blur(change, y, x), blur(lambda y, x: abs(before(y, x)), y, x)]
                    scales += [blur(activity, y, x), blur(last, y, x)]
                    scales += [4 * total(left, y, x, row + column + corners), blur(motion, y, x), 64]
                    kind = len(past)
                    if kind == 2:
                        kind += bisect_right(tables["motion_thresholds"], blur(motion, y, x))
                    mean = dot(tables["mean_weights"][index][c][kind], means)
                    scale = dot(tables["scale_weights"][index][c][kind], scales)
                    predicted = (mean + 2048) >> 12
                    fraction = mean - (predicted << 12)
                    phase = min(abs(fraction) * 3 >> 11, 2)
                    table = 3 * bisect_right(tables["thresholds"], scale) + phase
                    predicted = max(-32767, min(32767, predicted))
                    guesses.append((table, y, x, predicted, -1 if fraction < 0 else 1))
            values = {}
            for table, y, x, _, _ in sorted(guesses, key=lambda g: g[0]):
                values[y, x] = ans.symbol(table)
            for _, y, x, predicted, sign in guesses:
                v = values[y, x] - 127 if values[y, x] != 255 else ans.raw() - 65536
                residual[c, y, x] = sign * v
                frame[c, y, x] = predicted + sign * v
    return frame
