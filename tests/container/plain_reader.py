"""A reader of .cvl files written from FORMAT.md alone: plain Python, no numpy, nothing of cvvae_cli.

`read(data, tables)` gives the header, the symbols as {(latent, channel, row, column): int}, of exact latents
their bits, the fields as {(latent, frame 0, 1 or 3, row, column): (down, right)}, what is shown of detail as
{(latent, plane, row, column): integer}, where it is not 0, where it is opaque as {(latent, row, column)},
corrections as {(frame, plane, row, column): integer}, vectors of what is borrowed as fields are, and light as
{frame: (share, offset)}.
"""

import json
import struct
import zlib
from bisect import bisect_right
from itertools import accumulate


def read(data, tables):
    assert data[:8] == b"\x89CVL\r\n\x1a\n"
    header, symbols, fields, past, opening, place = None, {}, {}, (), (), 8
    details, covered, memory, opening_memory, corrections, borrowed = {}, set(), None, None, {}, {}
    lights = {}
    while place < len(data):
        tag, size = struct.unpack_from("<4sI", data, place)
        body = data[place : place + 8 + size]
        assert struct.unpack_from("<I", data, place + 8 + size)[0] == zlib.crc32(body)
        place += 12 + size
        if tag == b"HEAD":
            assert body[8] == 1
            header = json.loads(body[10:])
        if tag == b"LATS":
            first, count, num_frames = struct.unpack_from("<IHH", body, 8)
            _, at = varint(body, 16)
            runs, at = varint(body, at)
            for _ in range(2 * runs):
                _, at = varint(body, at)
            if header["coder"].startswith("exact-"):
                symbols |= read_exact(body[at:], header, first, count)
                continue
            decode_frame = DECODERS[header["coder"]]
            if version(header) >= 5:
                size = int.from_bytes(body[at : at + 3], "little")
                if version(header) >= 13 and size >= 1 << 23:
                    size -= 1 << 23
                    packed = body[at + 4 : at + 4 + body[at + 3]]
                    at += 1 + len(packed)
                    steps = struct.unpack(f"<{2 * num_frames}h", zlib.decompress(packed, -15))
                    shares, offsets = accumulate(steps[:num_frames]), accumulate(steps[num_frames:])
                    lights |= dict(
                        enumerate(zip(shares, offsets, strict=True), 4 * first - 3 if first else 0)
                    )
                moved, at = body[at + 3 : at + 3 + size], at + 3 + size
                ans = (
                    Ans(struct.unpack(f"<{size // 4}I", moved), tables["flow.frequencies"]) if size else None
                )
                for t in range(first, first + count):
                    found, taken = decode_fields(ans, header)
                    fields |= {(t, *key): value for key, value in found.items()}
                    borrowed |= {(t, *key): value for key, value in taken.items()}
            detail = None
            if version(header) >= 7:
                size = int.from_bytes(body[at : at + 3], "little")
                words, at = body[at + 3 : at + 3 + size], at + 3 + size
                made = cosine_tables(SPREADS, LENGTHS, DENSITIES, [1] * 16)
                made += cosine_tables(PAINTED_SPREADS, PAINTED_LENGTHS, [], [])
                detail = Ans(struct.unpack(f"<{size // 4}I", words), made) if size else None
            if version(header) >= 8:
                size = int.from_bytes(body[at : at + 3], "little")
                words, at = body[at + 3 : at + 3 + size], at + 3 + size
                if size:
                    made = cosine_tables(OWN_SPREADS, OWN_LENGTHS, OWN_DENSITIES, STATED)
                    ans = Ans(struct.unpack(f"<{size // 4}I", words), made)
                    start = 4 * first - 3 if first else 0
                    for frame in range(max(0, start - 1), start + num_frames - 1):
                        added = decode_correction(ans, header)
                        corrections |= {(frame, *key): value for key, value in added.items() if value}
            if first % header["period"] == 0:
                past, memory = (), ({}, {}, set())
                if version(header) >= 6:
                    if body[at]:
                        past, memory = opening, opening_memory
                    at += 1
            ans = Ans(struct.unpack(f"<{(len(body) - at) // 4}I", body[at:]), tables["frequencies"])
            for t in range(first, first + count):
                is_aligned = any(vector != (0, 0) for key, vector in fields.items() if key[0] == t)
                frame = decode_frame(
                    ans, header, tables, past, **({"is_aligned": True} if is_aligned else {})
                )
                symbols |= {(t, *key): value for key, value in frame.items()}
                if t % header["period"] == 0:  # this first frame, and the last that was fresh
                    opening = (frame, past[-1] if past else frame)
                past = (frame, *past[:1], *past[1:][-1:])  # the last two and the first of the period
                if version(header) >= 7:
                    memory = decode_detail(detail, header, memory, frame.vectors)
                    picture, shown, opaque = memory
                    covered |= {(t, y, x) for y, x in opaque if shown.get((y // 8, x // 8))}
                    details |= {
                        (t, plane, y, x): value
                        for (plane, y, x), value in picture.items()
                        if value and shown.get((y // 8, x // 8))
                    }
                    if t % header["period"] == 0:
                        opening_memory = memory
    return header, symbols, fields, details, covered, corrections, borrowed, lights


def version(header):
    """Of the priors; others are of none."""
    kind, number = header["coder"].rsplit("-", 1)
    return int(number) if kind == "prior" else 0


def latent_size(header):
    channels, _, pixels = header["latent"]
    width, height = header["size"]
    return channels, -(-height // pixels), -(-width // pixels)


def blocks(header):
    """Rows and columns of blocks of 4x4 latent positions."""
    _, h, w = latent_size(header)
    return -(-h // 4), -(-w // 4)


def read_exact(data, header, first, count):
    """Exact latents of 16 bits, as their bits."""
    channels, h, w = latent_size(header)
    planes, at = [], 0
    for _ in range(2):
        kind, size = struct.unpack_from("<BI", data, at)
        plane = data[at + 5 : at + 5 + size]
        planes.append(zlib.decompress(plane) if kind == 1 else plane)
        at += 5 + size
    keys = [(c, t, y, x) for c in range(channels) for t in range(count) for y in range(h) for x in range(w)]
    turned = [high << 8 | low for high, low in zip(*planes, strict=True)]
    words = [(word >> 1) | (word & 1) << 15 for word in turned]
    return {(first + t, c, y, x): word for (c, t, y, x), word in zip(keys, words, strict=True)}


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


def decode_context_frame(ans, header, tables, past):
    channels, h, w = latent_size(header)
    p, q = (past[0], past[:2][-1]) if past else ({}, {})
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
                    kind = min(2, len(past))
                    if kind == 2:
                        kind += bisect_right(tables["motion_thresholds"], blur(motion, y, x))
                    mean = dot(tables["mean_weights"][index][c][kind], means)
                    scale = dot(tables["scale_weights"][index][c][kind], scales)
                    guesses.append(((c, y, x), mean, bisect_right(tables["thresholds"], scale)))
            residual.update(decode_step(ans, guesses, frame))
    return frame


def decode_step(ans, guesses, frame, bits=0, bins=0, moving=(), anchors=None):
    """Decode what was predicted as (place, mean, bin); returns the residuals. Symbols are in 2^-bits."""
    rounded = []
    anchors = anchors or {}
    for place, mean, number in guesses:
        largest = 32767 >> bits << bits
        if place[1:] in moving:
            predicted = (mean + (2048 >> bits)) >> (12 - bits)
            rounded.append((3 * bins + number, place, max(-largest, min(largest, predicted)), 1))
            continue
        anchor = anchors.get(place, 0)
        mean -= anchor << 12 - bits
        predicted = (mean + 2048) >> 12
        fraction = mean - (predicted << 12)
        table = 3 * number + min(abs(fraction) * 3 >> 11, 2)
        predicted = max(-largest, min(largest, (predicted << bits) + anchor))
        rounded.append((table, place, predicted, -1 if fraction < 0 else 1))
    values, residual = {}, {}
    for table, place, _, _ in sorted(rounded, key=lambda g: g[0]):
        values[place] = ans.symbol(table)
    for _, place, predicted, sign in rounded:
        v = values[place] - 127 if values[place] != 255 else ans.raw() - 65536
        residual[place] = sign * v
        frame[place] = predicted + (sign * v << bits)
    return residual


def sums_around(frame, c, y, x, stride=1):
    """Of the horizontal, the vertical and the diagonal neighbours at a distance."""
    sides = ((0, -1), (0, 1)), ((-1, 0), (1, 0)), ((-1, -1), (-1, 1), (1, -1), (1, 1))
    return [sum(frame.get((c, y + stride * a, x + stride * b), 0) for a, b in side) for side in sides]


def level_row(rows, kind, level):
    """A row of a kind of frame and one between the anchors of a level, summed."""
    anchors, (number, part) = rows[3:], divmod(level - 10, 30)
    if number >= len(anchors) - 1:
        number, part = len(anchors) - 2, 30
    low, high = anchors[number], anchors[number + 1]
    return [k + (a * (30 - part) + b * part) // 30 for k, a, b in zip(rows[kind], low, high, strict=True)]


def active(sums, shifts):
    return [max(0, min(255, (s + (1 << n >> 1)) >> n)) for s, n in zip(sums, shifts, strict=True)]


def product(rows, inputs):
    """Sum over inputs of weight rows (inputs, outputs)."""
    return [dot(column, inputs) for column in zip(*rows, strict=True)]


def decode_prior_frame(ans, header, tables, past):
    p, q = (past[0], past[:2][-1]) if past else ({}, {})
    return decode_passes(ans, header, tables, min(2, len(past)), p, q, 0, len(tables["frequencies"]) // 3)


def decode_motion_frame(ans, header, tables, past):
    p, q = {}, past[0] if past else {}
    if past:
        vectors = decode_vectors(ans, *blocks(header), len(tables["frequencies"]) - 11)
        p = expected(header, {k[7:]: v for k, v in tables.items() if k.startswith("motion.")}, q, vectors)
    bins = (len(tables["frequencies"]) - 11) // 3
    return decode_passes(ans, header, tables, min(2, len(past)), p, q, 4, bins)


def decode_anchored_frame(ans, header, tables, past, is_aligned=False):
    channels, h, w = latent_size(header)
    first_vectors = len(tables["frequencies"]) - channels - 12
    if past:
        anchors = {place: symbol & 15 for place, symbol in past[-1].items()}
    else:
        areas = [(y, x) for y in range(-(-h // 8)) for x in range(-(-w // 8))]
        offsets = decode_plainly(ans, [(area, first_vectors + 11) for area in areas])
        areas = [area for area in areas if offsets[area]]
        wanted = [((c, *area), first_vectors + 12 + c) for c in range(channels) for area in areas]
        offsets = decode_plainly(ans, wanted)
        places = [(c, y, x) for c in range(channels) for y in range(h) for x in range(w)]
        anchors = {(c, y, x): 2 * offsets.get((c, y // 8, x // 8), 0) for c, y, x in places}
    return decode_centered_frame(ans, header, tables, past, first_vectors, anchors, is_aligned)


def decode_plainly(ans, wanted):
    """Integers of (place, table) that nothing predicts: {place: integer}"""
    values = {place: ans.symbol(table) for place, table in sorted(wanted, key=lambda w: w[1])}
    return {place: values[place] - 127 if values[place] != 255 else ans.raw() - 65536 for place, _ in wanted}


def decode_centered_frame(ans, header, tables, past, first_vectors=None, anchors=None, is_aligned=False):
    p, q, moving = {}, past[0] if past else {}, set()
    first_vectors = first_vectors or len(tables["frequencies"]) - 11
    if past:
        vectors = decode_vectors(ans, *blocks(header), first_vectors)
        motion = {k[7:]: v for k, v in tables.items() if k.startswith("motion.")}
        p = expected(header, motion, q, vectors, 4, is_aligned)
        _, h, w = latent_size(header)
        moving = {(y, x) for y in range(h) for x in range(w) if vectors[y // 4, x // 4] != (0, 0)}
    kind, bins = min(2, len(past)), first_vectors // 4
    frame = Frame(decode_passes(ans, header, tables, kind, p, q, 0, bins, 4, moving, anchors))
    frame.vectors = vectors if past else None
    return frame


DECODERS = {
    "context-1": decode_context_frame,
    "prior-1": decode_prior_frame,
    "prior-2": decode_motion_frame,
    "prior-3": decode_centered_frame,
    "prior-4": decode_anchored_frame,
    "prior-5": decode_anchored_frame,
    "prior-6": decode_anchored_frame,
    "prior-7": decode_anchored_frame,
    "prior-8": decode_anchored_frame,
    "prior-9": decode_anchored_frame,
    "prior-10": decode_anchored_frame,
    "prior-11": decode_anchored_frame,
    "prior-12": decode_anchored_frame,
    "prior-13": decode_anchored_frame,
    "prior-14": decode_anchored_frame,
    "prior-15": decode_anchored_frame,
}


class Frame(dict):
    """The symbols of a latent frame, and the vectors that came with them."""

    vectors = None


DENSITIES = 0, 1, 2, 4, 7, 12, 20, 32, 52, 80, 112, 144, 184, 220, 246, 256
SPREADS = """
122,92 128,171 128,171 128,171 128,171 128,171
199,154 165,156 138,140 90,119 49,92 22,60
192,120 149,119 118,111 82,96 46,75 20,46
235,131 193,144 152,148 105,141 61,116 27,64
148,183 142,213 130,210 96,224 89,238 86,205
157,128 136,162 104,163 82,174 59,178 56,179
246,120 221,154 178,186 129,190 65,173 40,132
252,171 252,250 252,250 238,234 38,238 4,159
"""
LENGTHS = """
24, 221, 21, 20, 34, 156, 342, 475, 552, 358, 462, 406, 294, 306, 269, 156
3807, 9, 24, 65, 39, 29, 19, 18, 20, 14, 12, 8, 8, 8, 8, 8
3868, 11, 69, 31, 16, 15, 11, 10, 9, 8, 8, 8, 8, 8, 8, 8
"""
OWN_DENSITIES = 0, 1, 2, 4, 7, 12, 20, 36, 64, 112, 184, 288, 432, 608, 816, 1024
STATED = 180, 18, 8, 8, 5, 4, 3, 3, 3, 4, 5, 5, 3, 3, 2, 2
OWN_SPREADS = """
105,134 105,134 105,134 105,134 105,134 105,134
167,209 138,206 120,197 87,174 68,132 61,90
218,212 167,225 134,228 106,221 84,187 86,148
252,196 213,241 144,248 90,243 75,222 85,223
33,166 23,166 6,166 4,152 5,142 6,117
141,151 136,191 111,219 80,225 44,223 39,184
250,197 226,244 197,237 112,249 60,233 60,233
250,197 226,244 197,237 112,249 60,233 60,233
"""
OWN_LENGTHS = """
49, 345, 439, 570, 693, 904, 591, 351, 100, 18, 6, 6, 6, 6, 6, 6
3722, 109, 111, 70, 17, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6
3858, 73, 72, 20, 7, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6
"""


PAINTED_SPREADS = """
22,9 128,128 128,128 128,128 128,128 128,128
169,89 132,89 103,73 88,60 74,54 39,38
225,191 162,172 127,146 98,116 69,88 37,46
240,196 194,208 153,199 106,178 64,136 31,74
48,42 40,46 31,40 17,34 9,30 6,36
157,96 166,103 160,112 131,111 99,93 64,49
252,195 225,213 198,201 155,183 102,147 80,78
252,213 235,230 217,206 169,192 74,171 34,104
"""
PAINTED_LENGTHS = """
116, 478, 72, 68, 46, 90, 64, 136, 485, 378, 358, 392, 334, 363, 369, 347
1680, 818, 111, 127, 83, 106, 84, 110, 345, 290, 105, 96, 48, 37, 34, 22
2284, 324, 155, 110, 79, 134, 97, 120, 325, 238, 70, 76, 32, 21, 16, 14
"""


def cosine_tables(spreads, lengths, densities, stated):
    tables = []
    for line in spreads.split():
        zero, last = map(int, line.split(","))
        row, left = [1] * 256, 2**24 - 256
        row[127] += left * zero >> 8
        left = (left - (left * zero >> 8)) >> 1
        for size in range(1, 128):
            share = left * last >> 8
            row[127 + size] += share
            row[127 - size] += share
            left -= share
        row[127] += 2**24 - sum(row)
        tables.append(row)
    weights = [list(map(int, line.split(", "))) for line in lengths.strip().splitlines()]
    weights += [[densities[-1] - p, p] for p in densities] + ([stated] if stated else [])
    for values in weights:
        row = [1] * 256
        for n, weight in enumerate(values):
            row[127 + n] += (2**24 - 256) * weight // sum(values)
        row[127] += 2**24 - sum(row)
        tables.append(row)
    return tables


def decode_detail(ans, header, memory, vectors):
    """The memory after a latent frame: {(plane, y, x): value}, {(row, column): whether it is shown}, and
    {(y, x)} that are opaque."""
    _, h, w = latent_size(header)
    picture, was, opaque = memory
    places = [(p, y, x) for p in range(3) for y in range(8 * h) for x in range(8 * w)]
    if vectors and (picture or opaque):
        old, were = picture, opaque
        picture, opaque = {}, set()
        for p, y, x in places:
            down, right = vectors[y // 32, x // 32]
            there = max(0, min(8 * h - 1, y - down)), max(0, min(8 * w - 1, x - right))
            picture[p, y, x] = old.get((p, *there), 0)
            if there in were:
                opaque.add((y, x))
    if not ans:
        return picture, {}, opaque
    changed = decode_changed(ans, h, w)
    pixels = {
        block: [(8 * block[0] + a, 8 * block[1] + b) for a in range(8) for b in range(8)] for block in changed
    }
    dense = {block: sum(pixel in opaque for pixel in pixels[block]) for block in changed}
    painted = {}
    if version(header) >= 9:
        densities = list(decode_plainly(ans, [(n, 67) for n in range(2)]).values())
        painted = decode_flags(
            ans, [(block, densities[dense[block] > 0]) for block in changed if changed[block]]
        )
    densities = list(decode_plainly(ans, [(n, 67) for n in range(2)]).values())

    def holds(block):
        return dense[block] or any(picture.get((p, *pixel)) for p in range(3) for pixel in pixels[block])

    kept = [block for block in changed if not changed[block] and holds(block)]
    shown = changed | decode_flags(ans, [(block, densities[was.get(block, False)]) for block in kept])
    added = decode_added(ans, header, {block: changed[block] and not painted.get(block) for block in changed})
    added |= decode_added(ans, header, painted, first_table=68)
    picture = dict(picture)
    for block in (block for block in changed if changed[block]):
        for p in range(3):
            known = [picture.get((p, *pixel), 0) for pixel in pixels[block] if pixel in opaque]
            for pixel in pixels[block]:
                if painted.get(block) and pixel not in opaque:
                    picture[p, *pixel] = sum(known) // len(known) if known else 0
                if not painted.get(block) and pixel in opaque:
                    picture[p, *pixel] = 0
        opaque = opaque | set(pixels[block]) if painted.get(block) else opaque - set(pixels[block])
    for place, value in added.items():
        picture[place] = max(-32767, min(32767, picture.get(place, 0) + value))
    return picture, shown, opaque


def decode_correction(ans, header):
    """Of a frame: {(plane, y, x): value}."""
    _, h, w = latent_size(header)
    return decode_added(ans, header, decode_changed(ans, h, w), 4)


def decode_flags(ans, which):
    """Of (block, density): those that are set."""
    open_ = decode_plainly(ans, [(block, 51 + d) for block, d in which if 0 < d < 15])
    return {block: d == 15 or bool(open_.get(block, 0)) for block, d in which}


def decode_changed(ans, h, w):
    """{(row, column): whether a block is changed}, in row order."""
    blocks = [(y, x) for y in range(h) for x in range(w)]
    densities = list(decode_plainly(ans, [(n, 67) for n in range(4)]).values())
    changed = decode_flags(ans, [((y, x), densities[0]) for y, x in blocks if (y + x) % 2 == 0])

    def beside(y, x):
        count = sum(changed.get((y + a, x + b), False) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1)))
        return 0 if count == 0 else 1 if count <= 2 else 2

    changed |= decode_flags(ans, [((y, x), densities[1 + beside(y, x)]) for y, x in blocks if (y + x) % 2])
    return {block: changed[block] for block in blocks}


def decode_added(ans, header, changed, coarser=1, first_table=0):
    """What is added to a picture: {(plane, y, x): value}."""
    some = [block for block in changed if changed[block]]
    lengths = decode_plainly(ans, [((block, p), first_table + 48 + p) for block in some for p in range(3)])
    cosines = {}
    for p in range(3):
        for d in range(15):
            wanted = []
            for block in (b for b in some if lengths[b, p] > d):
                for u in range(max(0, d - 7), min(d, 7) + 1):
                    v = d - u

                    def size(u, v, p=p, block=block, cosines=cosines):
                        return abs(cosines.get((block, p, u, v), 0))

                    around = 2 * size(u - 1, v) + 2 * size(u, v - 1) + size(u - 1, v - 1)
                    around += size(u - 2, v) + size(u, v - 2) + (2 * size(u, v, 0) if p else 0)
                    zone = (0, 1, 1, 2, 2, 2)[d] if d < 6 else 3
                    number = sum(limit < around for limit in (0, 2, 4, 8, 16))
                    wanted.append(((block, p, u, v), first_table + 24 * min(p, 1) + 6 * zone + number))
            cosines |= decode_plainly(ans, wanted)
    steps = 1216, 1030, 872, 738, 625, 529, 448, 379, 321, 272, 272
    quality, tenths = divmod(header["level"] - 10, 10)
    step = coarser * ((steps[quality] * (10 - tenths) + steps[quality + 1] * tenths) // 10)
    sizes = 1448, 2009, 1892, 1703, 1448, 1138, 784, 400, 0

    def cosine(u, x):
        k = (2 * x + 1) * u % 32
        k = min(k, 32 - k)
        return sizes[k] if k <= 8 else -sizes[16 - k]

    added = {}
    for y, x in some:
        for p in range(3):
            known = {(u, v): cosines.get(((y, x), p, u, v), 0) for u in range(8) for v in range(8)}
            known = {at: c for at, c in known.items() if c}
            for a in range(8):
                for b in range(8):
                    total = sum(cosine(u, a) * cosine(v, b) * c * step for (u, v), c in known.items())
                    added[p, 8 * y + a, 8 * x + b] = (total + (1 << 23)) >> 24
    return added


def decode_fields(ans, header):
    """Of a latent frame: {(frame, row, column): (down, right)}, and the same of what is borrowed."""
    _, h, w = latent_size(header)
    rows, columns = -(-h // 2), -(-w // 2)
    places = [(y, x) for y in range(rows) for x in range(columns)]
    flags = decode_plainly(ans, [(part, part) for part in range(3)]) if ans else {0: 0, 1: 0, 2: 0}
    borrows = [version(header) >= 10 and flags[part] & 2 for part in range(3)]
    holds = [flags[part] & 1 if version(header) >= 10 else flags[part] for part in range(3)]
    nothing = dict.fromkeys(places, (0, 0))
    parts = [decode_vectors(ans, rows, columns, 14 if p else 3) if holds[p] else nothing for p in range(3)]
    fields, borrowed = {}, {}
    for at in places:
        a, b, c = (part[at] for part in parts)
        twice = 2 if borrows[2] else 0
        own = (a[0] + twice * c[0], a[1] + twice * c[1]), b, c
        borrowed |= {(frame, *at): own[part] for part, frame in enumerate((1, 3, 0)) if borrows[part]}
        a, b, c = ((0, 0) if borrows[part] else each for part, each in enumerate((a, b, c)))
        fields[1, *at] = a
        fields[3, *at] = b[0] - a[0], b[1] - a[1]
        fields[0, *at] = c[0] + 2 * a[0], c[1] + 2 * a[1]
        fields |= {(frame, *at): (0, 0) for part, frame in enumerate((1, 3, 0)) if borrows[part]}
    return fields, borrowed


def decode_vectors(ans, rows, columns, first_table):
    """{(row, column of a block): (down, right)}"""
    known = {}
    steps = [(0, 0, 16, ())]
    for s in (8, 4, 2, 1):
        steps.append((s, s, 2 * s, ((-s, -s), (-s, s), (s, -s), (s, s))))
        steps.append((s, 0, 2 * s, ((-s, 0), (s, 0), (0, -s), (0, s))))
        steps.append((0, s, 2 * s, ((0, -s), (0, s), (-s, 0), (s, 0))))
    for top, left, stride, neighbours in steps:
        guesses = []
        places = [(y, x) for y in range(top, rows, stride) for x in range(left, columns, stride)]
        for part in (0, 1):
            for y, x in places:
                if not neighbours:
                    guesses.append(((part, y, x), 0, first_table + 10))
                    continue
                near = [known.get((y + a, x + b)) for a, b in neighbours]
                near = [vector or near[0] for vector in near]
                spreads = [max(n[k] for n in near) - min(n[k] for n in near) for k in (0, 1)]
                values = [vector[part] for vector in near]
                middle = (sum(values) - min(values) - max(values)) >> 1
                table = 2 * sum(limit < spreads[part] for limit in (0, 2, 8, 24)) + (spreads[1 - part] != 0)
                guesses.append(((part, y, x), middle, first_table + table))
        found = {}
        coded = {place: ans.symbol(table) for place, _, table in sorted(guesses, key=lambda g: g[2])}
        for place, middle, _ in guesses:
            found[place] = middle + (coded[place] - 127 if coded[place] != 255 else ans.raw() - 65536)
        known |= {(y, x): (found[0, y, x], found[1, y, x]) for y, x in places}
    return known


def expected(header, motion, before, vectors, bits=0, is_aligned=False):
    """A latent frame by the one before, in 2^-bits, and its motion alone, in 1/16."""
    channels, h, w = latent_size(header)
    step, gain = (motion[name][header["level"] - 10] for name in ("step", "gain"))

    def shifted(total, n):
        return (total + (1 << n >> 1)) >> n

    planes = {}  # (plane, row, column): int
    for y in range(h):
        for x in range(w):
            total = [bias << bits for bias in motion["picture_bias"]]
            for number in range(9):
                at = y + number // 3 - 1, x + number % 3 - 1
                if (0, *at) in before:
                    near = [before[c, *at] * step[c] for c in range(channels)]
                    more = product(motion["picture"][number], near)
                    total = [a + b for a, b in zip(total, more, strict=True)]
            pixels = [max(-32767, min(32767, shifted(t, motion["shift"][0] + bits))) for t in total]
            for number, value in enumerate(pixels[:64]):
                planes[0, 8 * y + number // 8, 8 * x + number % 8] = value
            for number, value in enumerate(pixels[64:]):
                planes[1 + number // 16, 4 * y + number % 16 // 4, 4 * x + number % 4] = value
    out = {}
    for y in range(h):
        for x in range(w):
            down, right = vectors[y // 4, x // 4]
            if (down, right) == (0, 0):
                for c in range(channels):
                    out[c, y, x] = max(-32767, min(32767, before[c, y, x] << (4 - bits)))
                continue
            numbers = []
            for kinds, size in (((0,), 8), ((1, 2), 4)):
                for k in (4, 4, 4, 4) if is_aligned else (1, 2, 3, 4):
                    half = 8 // size
                    a, b = ((v * k + 2 * half) // (4 * half) for v in (down, right))
                    for plane in kinds:
                        for j in range(size):
                            for i in range(size):
                                row = max(0, min(size * h - 1, size * y + j - a))
                                column = max(0, min(size * w - 1, size * x + i - b))
                                numbers.append(planes[plane, row, column])
            totals = product(motion["latents"], numbers)
            for c in range(channels):
                z = shifted(totals[c] + motion["latents_bias"][c], motion["shift"][1])
                z = max(-(2**24 - 1), min(2**24 - 1, z))
                out[c, y, x] = max(-32767, min(32767, (z * gain[c] + (1 << 23)) >> 24))
    return out


def decode_passes(ans, header, tables, kind, p, q, fraction, bins, bits=0, moving=(), anchors=None):
    """A frame by the network, with symbols in 2^-bits of a cell, and P finer by 2^-fraction."""
    channels, h, w = latent_size(header)
    level = header["level"]
    frame = {}

    def squeezed(symbol):
        size = tables["compress"][min(abs(symbol), len(tables["compress"]) - 1)]
        return size if symbol >= 0 else -size

    def view(one, finer, other, coarser, y, x):
        """Compressed values of a place, and of their difference to another frame."""
        here = [one.get((c, y, x), 0) << finer for c in range(channels)]
        there = [other.get((c, y, x), 0) << coarser for c in range(channels)]
        return [*map(squeezed, here), *(squeezed(a - b) for a, b in zip(here, there, strict=True))]

    def convolved(weights, source, outside):
        out = {}
        for y in range(h):
            for x in range(w):
                total = [0] * len(weights[0][0])
                for number in range(9):
                    near = source.get((y + number // 3 - 1, x + number % 3 - 1), outside)
                    total = [a + b for a, b in zip(total, product(weights[number], near), strict=True)]
                out[y, x] = total
        return out

    places = [(y, x) for y in range(h) for x in range(w)]
    seen = {(y, x): view(p, 0, q, fraction, y, x) for y, x in places}
    embed = level_row(tables["embed"], kind, level)
    first = convolved(tables["conv1"], seen, [0] * 2 * channels)
    first = {at: active(map(sum, zip(s, embed, strict=True)), tables["shift"][0]) for at, s in first.items()}
    trunk = convolved(tables["conv2"], first, [0] * len(embed))
    bias = tables["bias"]
    trunk = {
        at: active(map(sum, zip(s, bias[0], strict=True)), tables["shift"][1]) for at, s in trunk.items()
    }
    row, column = ((0, -1), (0, 1)), ((-1, 0), (1, 0))
    corners = ((-1, -1), (-1, 1), (1, -1), (1, 1))
    taps = ((), corners, row + column, row + column + corners)
    passes = [(index, index, 1) for index in range(4)]
    if version(header) >= 12 and kind == 0:
        passes = []
        for stride in tables["strides"]:
            for quarter in range(bool(passes), 4):
                passes.append((4 + len(passes), quarter, stride))
    far = {}
    if version(header) >= 13 and kind > 0:
        passes, number = [], len(tables["trunk"]) - len(tables["far"])
        for stride in tables["later"]:
            for quarter in range(bool(passes), 4):
                if passes and stride > 1:
                    far[number] = tables["far"][len(far)]
                    passes.append((number, quarter, stride))
                    number += 1
                else:
                    passes.append((quarter, quarter, stride))
    spreads = {index: level_row([k[index] for k in tables["spread"]], kind, level) for index, *_ in passes}
    cuts = tables["cuts"] if version(header) >= 11 else []
    sums = {}
    for index, quarter, stride in passes:
        top, side = ((0, 0), (1, 1), (0, 1), (1, 0))[quarter]
        for group, first_channel in enumerate([0, *cuts]):
            guesses = []
            for y in range(stride * top, h, 2 * stride):
                for x in range(stride * side, w, 2 * stride):
                    if group:
                        own = view(frame, fraction, p, 0, y, x)
                        own = [v if n % channels < first_channel else 0 for n, v in enumerate(own)]
                        total = product(tables["beside"][index][group - 1], own)
                        total = [a + b for a, b in zip(sums[y, x], total, strict=True)]
                    else:
                        total = product(tables["trunk"][index], trunk[y, x])
                        for number, (dy, dx) in enumerate(taps[quarter]):
                            dy, dx = stride * dy, stride * dx
                            if (0, y + dy, x + dx) in frame:
                                near = view(frame, fraction, p, 0, y + dy, x + dx)
                                more = product(tables["known"][index][number], near)
                                total = [a + b for a, b in zip(total, more, strict=True)]
                        total = [a + b for a, b in zip(total, bias[1 + 2 * index], strict=True)]
                    sums[y, x] = total
                    hidden = product(tables["hidden"][index], active(total, tables["shift"][2 + 2 * index]))
                    hidden = map(sum, zip(hidden, bias[2 + 2 * index], strict=True))
                    hidden = active(hidden, tables["shift"][3 + 2 * index])
                    head = product(tables["head"][index], hidden)
                    head = [a + b for a, b in zip(head, tables["head_bias"][index], strict=True)]
                    shifts = tables["head_shift"][index]
                    for c in range(first_channel, [*cuts, channels][group]):
                        gate, change, spread = head[c], head[channels + c], head[2 * channels + c]
                        n = shifts[c]
                        share = tables["gate"][max(-128, min(127, (gate + (1 << n >> 1)) >> n)) + 128]
                        n = shifts[2 * channels + c]
                        number = (spread + spreads[index][c] + (1 << n >> 1)) >> n
                        features = [p.get((c, y, x), 0), *sums_around(p, c, y, x)]
                        features += [q.get((c, y, x), 0), *sums_around(frame, c, y, x, stride)]
                        beyond = sums_around(p, c, y, x, stride) if index in far else []
                        means = []
                        for k in (0, 1):
                            row = tables["linear"][index][k][c]
                            before = dot(row[:4], features[:4])
                            before += dot(far[index][k][c] if beyond else [], beyond)
                            means.append(
                                ((before >> fraction) + dot(row[4:8], features[4:]) >> bits) + row[8]
                            )
                        one, two = means
                        mean = (share * one + (256 - share) * two) // 256
                        mean += (change << 12) >> shifts[channels + c]
                        guesses.append(((c, y, x), mean, max(0, min(bins - 1, number))))
            guesses.sort(key=lambda g: g[0])  # by channel, row, column
            decode_step(ans, guesses, frame, bits, bins, moving, anchors)
    return frame
