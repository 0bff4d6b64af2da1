"""The header of a .cvl file as a value: every field checked once, when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cvvae_cli.errors import CorruptFileError
from cvvae_cli.types import LatentGeometry, SideStream

MIN_SIDE, MAX_SIDE = 16, 65_536
MAX_PIXELS = 2**28
MAX_TEXT = 200
MAX_SIDE_STREAMS = 64
DEFAULTS: dict[str, Any] = {
    "aspect": [1, 1],
    "chapters": 0,
    "depth": 8,
    "level": None,
    "rotation": 0,
    "side": [],
    "window": None,
}  # keys that are left out while they have this value


@dataclass(frozen=True)
class Header:
    """What HEAD holds; FORMAT.md explains each key."""

    model: str
    weights: str  # sha256, hex
    size: tuple[int, int]  # width, height
    latent: tuple[int, int, int]  # channels, frames, pixels
    chunk: int
    context: tuple[int, int]  # of encoding, of decoding
    coder: str
    period: int
    level: int | None
    time_base: tuple[int, int]
    rate: tuple[int, int]
    color: tuple[int, int, int, int | None]
    rotation: int
    depth: int
    aspect: tuple[int, int]
    side: tuple[SideStream, ...]
    chapters: int
    computed: str
    source: str | None
    window: tuple[int, int, int, int] | None = None  # see WindowGeometry

    @property
    def geometry(self) -> LatentGeometry:
        return LatentGeometry(*self.latent)

    def to_json(self) -> dict[str, Any]:
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}
        values["side"] = [{k: v for k, v in vars(s).items() if v is not None} for s in self.side]
        return {k: v for k, v in values.items() if k not in DEFAULTS or v != DEFAULTS[k]}


def parse_header(values: dict[str, Any]) -> Header:
    """Check the types and limits of a header. Raises CorruptFileError."""
    values = DEFAULTS | values

    def text(key: str) -> str:
        value = values.get(key)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
            raise CorruptFileError(f"the header's {key!r} is not a text")
        return value

    def number(value: object, key: str, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            raise CorruptFileError(f"the header's {key!r} is not a number from {low} to {high}")
        return value

    def numbers(key: str, count: int, low: int, high: int) -> list[int]:
        value = values.get(key)
        if not isinstance(value, list) or len(value) != count:
            raise CorruptFileError(f"the header's {key!r} is not a list of {count} numbers")
        return [number(v, key, low, high) for v in value]

    width, height = numbers("size", 2, MIN_SIDE, MAX_SIDE)
    if width * height > MAX_PIXELS:
        raise CorruptFileError(f"the header claims {width}x{height} pixels")
    channels, frames, pixels = numbers("latent", 3, 1, 512)
    chunk = number(values.get("chunk"), "chunk", 1, 256)
    period = number(values.get("period"), "period", 1, 2**20)
    if period % chunk:
        raise CorruptFileError("the header's 'period' is no multiple of its 'chunk'")
    color = values.get("color")
    if not isinstance(color, list) or len(color) != 4 or color[3] not in (0, 1, None):
        raise CorruptFileError("the header's 'color' is not four code points")
    primaries, transfer, matrix = (number(v, "color", 0, 255) for v in color[:3])
    encode_context, decode_context = numbers("context", 2, 0, 2**16)
    time_base, rate, aspect = (numbers(key, 2, 1, 2**31) for key in ("time_base", "rate", "aspect"))
    level, source = values.get("level"), values.get("source")
    rotation = number(values.get("rotation"), "rotation", 0, 270)
    if rotation % 90:
        raise CorruptFileError("the header's 'rotation' is no quarter turn")
    return Header(
        model=text("model"),
        weights=text("weights"),
        size=(width, height),
        latent=(channels, frames, pixels),
        chunk=chunk,
        context=(encode_context, decode_context),
        coder=text("coder"),
        period=period,
        level=None if level is None else number(level, "level", 0, 1000),
        time_base=(time_base[0], time_base[1]),
        rate=(rate[0], rate[1]),
        color=(primaries, transfer, matrix, color[3]),
        rotation=rotation,
        depth=number(values.get("depth"), "depth", 1, 32),
        aspect=(aspect[0], aspect[1]),
        side=parse_side(values.get("side")),
        chapters=number(values.get("chapters"), "chapters", 0, 2**31),
        computed=text("computed"),
        source=None if source is None else text("source"),
        window=parse_window(values.get("window")),
    )


def parse_window(value: object) -> tuple[int, int, int, int] | None:
    """[frames, overlap, tile, stride] of windows and tiles. Raises CorruptFileError."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or any(type(n) is not int for n in value):
        raise CorruptFileError("the header's 'window' is not four numbers")
    frames, overlap, tile, stride = value
    if not (0 <= overlap < frames <= 256 and 0 < stride <= tile <= 2 * stride <= 2**16):
        raise CorruptFileError("the header's 'window' makes no sense")
    return frames, overlap, tile, stride


def parse_side(values: object) -> tuple[SideStream, ...]:
    """The list of side streams. Raises CorruptFileError."""
    if not isinstance(values, list) or len(values) > MAX_SIDE_STREAMS:
        raise CorruptFileError("the header's 'side' is no list of streams")
    return tuple(map(parse_side_stream, values))


def parse_side_stream(value: object) -> SideStream:
    known = ("kind", "codec", "language", "title")
    if not isinstance(value, dict) or not {"kind", "codec"} <= value.keys():
        raise CorruptFileError("the header's 'side' holds something else than a stream")
    texts = [value.get(key) for key in known]
    if any(text is not None and not (isinstance(text, str) and len(text) <= MAX_TEXT) for text in texts):
        raise CorruptFileError("the header's 'side' holds something else than texts")
    return SideStream(*texts)  # type: ignore[arg-type]
