"""Every hostile file is refused with a sentence, quickly and within bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from container.fuzzing import LONGEST_SECONDS, measured
from container.seeds import coders

from cvvae_cli.codec import decode_file
from cvvae_cli.errors import CvvaeError

FOLDER = Path(__file__).parent.parent / "hostile"
FILES = sorted(FOLDER.glob("*.cvl"))
SOUND = {"coder", "model"}  # well-formed, but nothing here can decode them


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_hostile_file_is_refused(path):
    data = path.read_bytes()
    outcome, seconds, peak = measured(data, coders())
    assert outcome != "read" or path.stem in SOUND
    assert peak <= 2 * len(data) + 2**21
    assert seconds < LONGEST_SECONDS


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_decode_refuses_it_and_leaves_nothing(tiny, tmp_path, path):
    with pytest.raises(CvvaeError):
        decode_file(path, tmp_path / "out.mkv")
    assert not list(tmp_path.iterdir())


def test_each_file_says_what_it_tries():
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{path.name}`" in text for path in FILES)
    assert len(FILES) >= 20
