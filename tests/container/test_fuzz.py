"""A few thousand mutants; `make fuzz` tries many more."""

from __future__ import annotations

import pytest
from container.fuzzing import fuzz
from container.seeds import coders, seeds


@pytest.mark.parametrize("seed", range(4))
def test_no_mutant_crashes_hangs_swells_or_goes_unnoticed(seed):
    outcomes = fuzz(seeds(), coders(), 750, seed)
    assert outcomes["CorruptFileError"] > 300
    assert outcomes["read"] > 0  # some attacks make a sound file: a record left out and the index mended
