import pytest
import torch

from cvvae_cli.models.refiner import DISTRUST, Refiner


def inputs(size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
    differences = torch.randn(1, 2, 3, size, size, generator=generator) * 0.1
    return picture, differences, torch.ones(1, 2), torch.tensor([50.0])


SHAPES = {"flat": (8, 4), "with inner layers": (8, 4, 16, 2), "between an odd number": (8, 5, 16, 2)}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def shape(request):
    return request.param


@pytest.fixture
def trained(shape):
    torch.manual_seed(0)
    refiner = Refiner(*shape)
    for layer in (refiner.head, *([refiner.up] if refiner.inner else [])):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return refiner.requires_grad_(False)


def test_before_training_it_follows_both_neighbours_alike_and_adds_nothing_else(shape):
    picture, differences, known, level = inputs()
    more = Refiner(*shape)(picture, differences, known, level)
    share = torch.sigmoid(torch.tensor(-DISTRUST))
    assert torch.allclose(more, share * differences.sum(1), atol=1e-6)


def test_a_neighbour_that_is_missing_is_not_followed_and_its_lack_is_known(trained):
    picture, differences, known, level = inputs()
    alone = differences * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1)
    without = trained(picture, alone, torch.tensor([[1.0, 0.0]]), level)
    assert not torch.allclose(without, trained(picture, alone, known, level))
    nothing = torch.zeros_like(differences)
    assert torch.isfinite(trained(picture, nothing, torch.zeros(1, 2), level)).all()


@pytest.mark.parametrize("layers", [2, 3, 4, 5])
def test_inner_layers_take_part_whatever_the_number_of_others(layers):
    refiner = Refiner(8, layers, 16, 2)
    torch.nn.init.normal_(refiner.head.weight, std=0.1)
    refiner(*inputs()).sum().backward()
    assert refiner.up.weight.grad is not None


def test_the_halo_is_as_far_as_it_sees(trained):
    picture, differences, known, level = inputs(64)
    whole = trained(picture, differences, known, level)
    edge = 48
    part = trained(picture[..., :edge], differences[..., :edge], known, level)
    clear = edge - trained.halo
    assert torch.allclose(part[..., :clear], whole[..., :clear], atol=1e-6)
    assert not torch.allclose(part[..., :edge], whole[..., :edge], atol=1e-6)


def test_half_precision_changes_little(trained):
    exact = trained(*inputs())
    rough = trained.to(torch.bfloat16)(*inputs())
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.02 * exact.abs().max() + 1e-3
