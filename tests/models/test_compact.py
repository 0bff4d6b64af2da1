import numpy as np
import pytest
import torch
from tiny import CONFIG, random_network

from cvvae_cli.models.compact import Compact, CompactConfig
from cvvae_cli.models.layers import fold, unfold
from cvvae_cli.models.registry import MODELS

DEEPER = CompactConfig(
    latent_channels=4,
    fine_channels=8,
    coarse_channels=8,
    encoder_blocks=(2, 2),
    decoder_blocks=(3, 2),
    time_taps=4,
)


@pytest.mark.parametrize(("time", "space"), [(4, 4), (4, 8), (1, 2)])
def test_unfold_undoes_fold(time, space):
    x = torch.randn(2, 3, 8, 16, 24)
    folded = fold(x, time, space)
    assert folded.shape == (2, time * 3 * space * space, 8 // time, 16 // space, 24 // space)
    assert torch.equal(unfold(folded, time, space), x)


def test_shapes_are_one_plus_four_n():
    network = random_network()
    for frames in (1, 5, 17):
        latents = network.encode(torch.randn(1, 3, frames, 32, 40))
        assert latents.shape == (1, 4, 1 + (frames - 1) // 4, 4, 5)
        assert network.decode(latents).shape == (1, 3, frames, 32, 40)


@pytest.mark.parametrize("config", [CONFIG, DEEPER])
def test_pieces_with_a_memory_equal_the_whole(config):
    network = random_network(config)
    groups = torch.randn(1, 3, 32, 16, 16)
    memory = {}
    pieces = [network.encode_groups(p, memory) for p in groups.split([4, 12, 16], dim=2)]
    whole = network.encode_groups(groups)
    assert torch.allclose(torch.cat(pieces, 2), whole, atol=1e-5)
    memory = {}
    pieces = [network.decode_groups(p, memory) for p in whole.split([3, 1, 4], dim=2)]
    assert torch.allclose(torch.cat(pieces, 2), network.decode_groups(whole), atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, DEEPER])
def test_nothing_depends_on_the_future(config):
    network = random_network(config)
    groups = torch.randn(1, 3, 32, 16, 16)
    changed = groups.clone()
    changed[:, :, 16:] += 1
    a, b = network.encode_groups(groups), network.encode_groups(changed)
    assert torch.equal(a[:, :, :4], b[:, :, :4])
    assert not torch.equal(a[:, :, 4], b[:, :, 4])


def reach(function, x, place):
    """How far a change at one place is seen: the farthest (t, row or column) from it, in output units."""
    changed = x.clone()
    changed[place] += 10
    difference = (function(changed) - function(x)).abs().amax(dim=(0, 1)) > 0
    return torch.nonzero(difference)


@pytest.mark.parametrize("config", [CONFIG, DEEPER])
def test_contexts_and_halos_are_exactly_the_reach_of_the_network(config):
    network = random_network(config).double().compute_in(torch.float64)
    size = 2 * config.decode_halo + 5
    middle = size // 2
    groups = torch.zeros(1, 3, 4 * 12, 8 * size, 8 * size, dtype=torch.float64)
    for offset in (0, 7):  # the first and the last pixel of a latent position
        pixel = 8 * middle + offset
        seen = reach(network.encode_groups, groups, (0, 0, 8, pixel, pixel))
        assert seen[:, 0].max() - 2 <= config.encode_context
        assert (seen[:, 1:] - middle).abs().max() <= config.encode_halo
    assert seen[:, 0].max() - 2 == config.encode_context
    latents = torch.zeros(1, 4, 12, size, size, dtype=torch.float64)
    seen = reach(network.decode_groups, latents, (0, 0, 2, middle, middle))
    assert seen[:, 0].max() // 4 - 2 == config.decode_context
    assert (torch.div(seen[:, 1:], 8, rounding_mode="floor") - middle).abs().max() == config.decode_halo


def test_it_starts_as_the_transform_codec_of_its_components():
    network = Compact(CONFIG)
    basis, _ = torch.linalg.qr(torch.randn(768, 4))
    mean = torch.rand(768)
    network.start_from_principal_components(mean, basis, 0.5)
    coefficients = torch.randn(1, 4, 1, 2, 2)
    patches = torch.einsum("kc,bcthw->bkthw", basis * 0.5, coefficients) + mean.view(1, -1, 1, 1, 1)
    video = unfold(patches, 4, 8)
    assert torch.allclose(network.encode_groups(video), coefficients, atol=1e-4)
    assert torch.allclose(network.decode_groups(coefficients), video, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("compact")])
def test_the_registry_knows_the_reach_of_each_model(name):
    from cvvae_cli.models.registry import Weights

    spec = MODELS[name]
    network = Weights(spec).build()
    config = network.config
    assert (spec.encode_context, spec.decode_context) == (config.encode_context, config.decode_context)
    assert (spec.encode_halo, spec.decode_halo) == (config.encode_halo, config.decode_halo)
    assert spec.geometry.channels == config.latent_channels
    assert spec.period % spec.chunk_latents == 0


def test_an_image_is_one_latent_frame_and_the_first_of_a_clip():
    network = random_network()
    clip = torch.randn(1, 3, 9, 32, 32)
    assert np.allclose(network.encode(clip)[:, :, :1], network.encode(clip[:, :, :1]), atol=1e-5)
