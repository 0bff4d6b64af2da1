import torch

from cvvae_cli.models.refiner import DISTRUST, Refiner


def inputs(size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(1, 3, size, size, generator=generator) * 2 - 1
    differences = torch.randn(1, 2, 3, size, size, generator=generator) * 0.1
    return picture, differences, torch.ones(1, 2), torch.tensor([50.0])


def trained():
    torch.manual_seed(0)
    refiner = Refiner(8, 4)
    torch.nn.init.normal_(refiner.head.weight, std=0.1)
    return refiner.requires_grad_(False)


def test_before_training_it_follows_both_neighbours_alike_and_adds_nothing_else():
    picture, differences, known, level = inputs()
    more = Refiner(8, 4)(picture, differences, known, level)
    share = torch.sigmoid(torch.tensor(-DISTRUST))
    assert torch.allclose(more, share * differences.sum(1), atol=1e-6)


def test_a_neighbour_that_is_missing_is_not_followed_and_its_lack_is_known():
    refiner = trained()
    picture, differences, known, level = inputs()
    alone = differences * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1)
    without = refiner(picture, alone, torch.tensor([[1.0, 0.0]]), level)
    assert not torch.allclose(without, refiner(picture, alone, known, level))
    nothing = torch.zeros_like(differences)
    assert torch.isfinite(refiner(picture, nothing, torch.zeros(1, 2), level)).all()


def test_the_halo_is_as_far_as_it_sees():
    refiner = trained()
    picture, differences, known, level = inputs(64)
    whole = refiner(picture, differences, known, level)
    edge = 40
    part = refiner(picture[..., :edge], differences[..., :edge], known, level)
    clear = edge - refiner.halo
    assert torch.allclose(part[..., :clear], whole[..., :clear], atol=1e-6)
    assert not torch.allclose(part[..., :edge], whole[..., :edge], atol=1e-6)


def test_half_precision_changes_little():
    refiner = trained()
    exact = refiner(*inputs())
    rough = refiner.to(torch.bfloat16)(*inputs())
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.02 * exact.abs().max() + 1e-3
