"""`--compile`: the paper's networks with their layers fused."""

import shutil

import numpy as np
import pytest
import torch
from conftest import CPU

from cvvae_cli.cli.app import main
from cvvae_cli.engine.compiled import compiled, require_compiler
from cvvae_cli.engine.load import make_engine
from cvvae_cli.errors import ConfigError
from cvvae_cli.models.cvvae_sd21 import CvVaeSd21, Sd21Config
from cvvae_cli.models.registry import Weights, find_model

SMALL = Sd21Config(ch=32, ch_mult=(1, 1), z_channels=4, num_res_blocks=1)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@torch.inference_mode()
def test_a_compiled_network_gives_the_same_numbers(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    network = CvVaeSd21(SMALL).eval()
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    latents = network.encode(video)
    fused = compiled(network)
    difference = fused.encode(video) - latents
    assert difference.norm() / latents.norm() < 1e-5


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        require_compiler(torch.device("cpu"))
    require_compiler(torch.device("cuda"))


def test_a_model_that_gains_nothing_refuses_it(monkeypatch, capsys, tmp_path, lossless):
    from cvvae_cli.engine.base import EngineOptions

    spec = find_model("compact")
    with pytest.raises(ConfigError, match="gains nothing"):
        make_engine(spec, Weights(spec).build, CPU, EngineOptions(is_compiled=True))
    source = lossless(np.zeros((2, 32, 32, 3), np.uint8), "clip.mkv")
    monkeypatch.setattr("sys.argv", ["cvvae", "encode", str(source), str(tmp_path / "x.cvl"), "--compile"])
    assert main() == 1
    assert "leave --compile out" in capsys.readouterr().err
    assert not (tmp_path / "x.cvl").exists()
