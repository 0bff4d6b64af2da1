"""Fixtures: clips made on the spot, the tiny model, and the command as a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from command import run_command
from tiny import GOLDEN, KEEPING, REFINED, moving_picture, tiny_spec, write_lossless

from cvvae_cli import store
from cvvae_cli.engine.device import Placement
from cvvae_cli.engine.stream import Engine, EngineOptions
from cvvae_cli.models import registry
from cvvae_cli.models.registry import Weights
from cvvae_cli.train.config import DataSection, ScheduleSection, Stage, TrainConfig

CPU = Placement(torch.device("cpu"), torch.float32)
Run = Callable[..., CompletedProcess[str]]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if os.environ.get("CVVAE_REQUIRE_GPU") == "1":
            pytest.fail("CVVAE_REQUIRE_GPU=1, but there is no GPU")
        pytest.skip("needs a GPU")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> registry.ModelSpec:
    """The tiny model, registered as `tiny-1`; beside it others, with levels and priors."""
    spec = tiny_spec()
    for number in range(1, KEEPING + 1):
        monkeypatch.setitem(registry.MODELS, f"tiny-{number}", tiny_spec(number))
    monkeypatch.setattr(store, "WEIGHTS_FOLDERS", (*store.WEIGHTS_FOLDERS, GOLDEN))
    return spec


@pytest.fixture
def engine(tiny: registry.ModelSpec) -> Engine:
    return Engine(tiny, Weights(tiny).build, CPU, EngineOptions())


@pytest.fixture
def refined(tiny: registry.ModelSpec) -> Engine:
    """The tiny model whose pictures are refined."""
    spec = tiny_spec(REFINED)
    return Engine(spec, Weights(spec).build, CPU)


@pytest.fixture
def cvvae(tmp_path: Path) -> Run:
    """Run the command in an empty folder; stdout and stderr apart, no terminal."""

    def run(*arguments: object, stdin: bytes = b"") -> CompletedProcess[str]:
        return run_command([*map(str, arguments)], tmp_path, stdin)

    return run


@pytest.fixture
def lossless(tmp_path: Path) -> Callable[..., Path]:
    """Write RGB frames to a lossless file, exactly."""

    def write(rgb: np.ndarray, name: str = "source.mkv", pts: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        write_lossless(path, rgb, pts)
        return path

    return write


@pytest.fixture
def brief(tmp_path: Path, lossless: Callable[..., Path]) -> TrainConfig:
    """A recipe of few and small steps on data made on the spot, of no task yet."""
    (tmp_path / "data").mkdir()
    lossless(moving_picture(24, 96, 80), "data/clip.mkv")
    folder = str(tmp_path / "data")
    return TrainConfig(
        name="test",
        data=DataSection(folders=(folder,), holdout=folder, cache_gib=0.1, video_share=1.0),
        schedule=ScheduleSection(
            steps=12, warmup_steps=2, learning_rate=3e-3, stages=(Stage(1.0, 4, 1, 32),), ema_decay=0.9
        ),
    )


@pytest.fixture
def clip(lossless: Callable[..., Path]) -> Path:
    """A lossless clip of 9 frames of 64x48."""
    return lossless(moving_picture(9, 64, 48))
