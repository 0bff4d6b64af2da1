"""Text subtitles between the two forms that containers ask for: SRT (Matroska) and mov_text (MP4)."""

from __future__ import annotations

MOV_TEXT = "mov_text"
SRT = "subrip"
SRT_NAMES = {"subrip", "srt", "text"}
MAX_TEXT_BYTES = 2**16 - 1


def srt_of_mov_text(sample: bytes) -> bytes:
    """The text of a mov_text sample (ISO/IEC 14496-17: length, text, then boxes of style); empty: a gap.

    >>> srt_of_mov_text(bytes([0, 2]) + b"hi" + b"style")
    b'hi'
    """
    length = int.from_bytes(sample[:2], "big")
    text = sample[2 : 2 + length]
    if text[:2] in (b"\xfe\xff", b"\xff\xfe"):  # UTF-16 with a byte order mark is allowed there
        text = text.decode("utf-16", "replace").encode()
    return text


def mov_text_of_srt(text: bytes) -> bytes:
    """A mov_text sample without style.

    >>> mov_text_of_srt(b"hi")
    b'\\x00\\x02hi'
    """
    text = text[:MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()
    return len(text).to_bytes(2, "big") + text
