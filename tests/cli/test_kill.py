"""A killed encode goes on: three real kills here, twenty with `make kill`."""

from __future__ import annotations

import random

from tools.kill import encode, kill_and_resume, run_quietly
from tools.make_clip import make_clip


def test_a_killed_encode_resumes_to_the_same_bytes(tmp_path):
    source, whole = tmp_path / "source.mp4", tmp_path / "whole.cvl"
    make_clip(source, width=96, height=64, frames=120)
    seconds = run_quietly(encode(source, whole))
    rng = random.Random(4)
    for _ in range(3):
        data, _ = kill_and_resume(source, tmp_path, rng.uniform(0.3 * seconds, seconds))
        assert data == whole.read_bytes()
