"""The paper's networks: against the authors' tensors where they are at hand, and against the facts."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import parity
import plain_sd21

from cvvae_cli.models.cvvae_sd3 import CvVaeSd3, Sd3Config
from cvvae_cli.models.cvvae_sd21 import CvVaeSd21, Sd21Config

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"
SMALL = {
    "sd21": lambda: CvVaeSd21(Sd21Config(ch=32, ch_mult=(1, 1, 2, 2))),
    "sd3": lambda: CvVaeSd3(Sd3Config(block_out_channels=(32, 32, 64, 64))),
}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="../shared/fixtures is not at hand")
@pytest.mark.parametrize("name", parity.names_in(FIXTURES) if FIXTURES.is_dir() else ["none"])
def test_networks_match_the_authors_tensors(name):
    found = dict(parity.errors(FIXTURES, name))
    assert len(found) >= 8
    assert max(found.values()) < parity.LIMIT, found


def test_parity_sees_a_difference(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "names_in", lambda folder: ["x"])
    monkeypatch.setattr(parity, "errors", lambda folder, name: iter([("a", 1e-6), ("b", 3e-4)]))
    assert parity.main(tmp_path) == 1
    monkeypatch.setattr(parity, "errors", lambda folder, name: iter([("a", float("nan"))]))
    assert parity.main(tmp_path) == 1
    monkeypatch.setattr(parity, "errors", lambda folder, name: iter([("a", 1e-6)]))
    assert parity.main(tmp_path) == 0


@torch.inference_mode()
def test_the_fast_network_is_the_plain_one():
    torch.manual_seed(0)
    network = CvVaeSd21(Sd21Config(ch=32, ch_mult=(1, 1, 2, 2))).eval()
    state = network.state_dict()
    x = torch.randn(1, 3, 9, 24, 40)
    moments = plain_sd21.encode_moments(state, x)
    assert parity.relative_error(network.encode_moments(x), moments) < 1e-5
    z = moments[:, :4]
    assert parity.relative_error(network.decode(z), plain_sd21.decode(state, z)) < 1e-5


def test_full_size_networks_have_the_papers_parameters():
    with torch.device("meta"):
        network = CvVaeSd21()
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (network.encoder, network.decoder)]
    assert counts == [pytest.approx(68.7, abs=0.05), pytest.approx(113.7, abs=0.05)]


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_an_image_and_a_clip_have_the_shapes_of_the_paper(name):
    network = SMALL[name]().eval()
    for frames in (1, 5, 9):
        moments = network.encode_moments(torch.randn(1, 3, frames, 32, 48))
        assert moments.shape[2:] == (1 + (frames - 1) // 4, 4, 6)
        latents = network.encode(torch.randn(1, 3, frames, 32, 48))
        assert latents.shape[1] * 2 == moments.shape[1]
        assert network.decode(latents).shape == (1, 3, frames, 32, 48)


@pytest.mark.parametrize("name", SMALL)
def test_training_and_inference_compute_the_same(name):
    torch.manual_seed(0)
    network = SMALL[name]().eval()
    x = torch.randn(1, 3, 5, 16, 24)
    trained = network.decode(network.encode(x))
    with torch.inference_mode():
        assert torch.allclose(network.decode(network.encode(x)), trained, atol=1e-4)
    trained.mean().backward()
    assert all(p.grad is not None for p in network.decoder.parameters())


@torch.inference_mode()
def test_the_encoder_is_causal_but_for_its_norms():
    """With norms that see one frame only, later frames would not reach back; the convolutions must not."""
    network = SMALL["sd21"]().eval()
    conv = network.encoder.conv_in
    x = torch.randn(1, 3, 9, 16, 16)
    y = x.clone()
    y[:, :, 5:] += 1
    assert torch.equal(conv(x)[:, :, :5], conv(y)[:, :, :5])
    assert not torch.equal(conv(x)[:, :, 5:], conv(y)[:, :, 5:])
