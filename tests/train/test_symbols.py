"""`task = "prior"`, on data made on the spot and the tiny models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny import COARSE_TO_FINE, GROUPED, JOINED, LATER_STRIDES, PYRAMID, REACH, REACHING, STRIDES
from train.test_refiner import assert_a_run_that_stopped_goes_on

from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.errors import ConfigError
from cvvae_cli.models import registry
from cvvae_cli.models.registry import Weights, coder_of_prior, find_model, find_model_or_file
from cvvae_cli.options import EncodeOptions
from cvvae_cli.train.coder import Coder
from cvvae_cli.train.config import ModelSection, PriorSection
from cvvae_cli.train.data import ClipSampler, find_sources
from cvvae_cli.train.export import export
from cvvae_cli.train.loop import train
from cvvae_cli.train.symbols import PriorTrainee

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny, brief):
    section = PriorSection(cuts=(1, 3), clips=3, frames=21, size=64)
    schedule = replace(brief.schedule, prior_learning_rate=3e-3)
    return replace(brief, task="prior", start=f"tiny-{JOINED}", prior=section, schedule=schedule)


def sampler_of(config):
    return ClipSampler(find_sources(config.data.folders), config.data, 0)


@pytest.mark.parametrize(
    ("section", "coder", "share"),
    [
        ({}, "prior-11", 0.98),
        ({"strides": STRIDES}, "prior-12", 0.99),
        ({"strides": STRIDES, "later": (2, 1)}, "prior-13", 0.99),
        ({"strides": STRIDES, "later": (2, 1), "reach": 500}, "prior-15", 0.99),
    ],
)
def test_training_saves_bits_and_the_file_writes_smaller_ones(
    config, section, coder, share, tmp_path, monkeypatch
):
    section = replace(config.prior, clips=12, **section)
    config = replace(config, prior=section, schedule=replace(config.schedule, steps=150))
    log = []
    run = train(config, tmp_path / "run", CPU, on_log=log.append, log_every=50)
    held_out = [line["holdout"]["clip.mkv"]["4.0"]["bits_per_pixel"] for line in log if "holdout" in line]
    assert held_out[-1] < 0.95 * held_out[0]
    path = tmp_path / "w.safetensors"
    export(run.average, config, path)
    own = load_file(path)
    assert {name.split(".")[0] for name in own} == {
        "network",
        "prior",
    }  # what it began with, and the integers
    spec = find_model_or_file(str(path))
    assert (spec.name, spec.base, spec.coder) == ("test", "tiny-8", coder)
    assert Weights(spec).build().joiner is not None
    sizes = []
    for model in (replace(spec, name="trained"), replace(find_model(f"tiny-{JOINED}"), coder="prior-10")):
        monkeypatch.setitem(registry.MODELS, model.name, model)
        options = EncodeOptions(model=model.name, device="cpu", dtype="fp32", quality=5)
        encode_file(tmp_path / "data/clip.mkv", tmp_path / f"{model.name}.cvl", options)
        with open_cvl(tmp_path / f"{model.name}.cvl") as cvl:
            sizes.append(sum(len(cvl.read_chunk(n).symbols) for n in range(len(cvl.index))))
    assert sizes[0] < share * sizes[1], sizes


def test_a_resumed_run_is_the_uninterrupted_one(config, tmp_path):
    assert_a_run_that_stopped_goes_on(config, tmp_path)


def test_samples_are_what_the_encoder_of_the_model_writes(config):
    trainee = PriorTrainee(config, CPU)
    trainee.start(sampler_of(config))
    sample = trainee.coded(sampler_of(config).batch(0, 1, 21, 64), 40)
    assert sample.symbols.shape == sample.scaled.shape == sample.expected.shape == (4, 6, 8, 8)
    assert (sample.symbols / 16 - sample.scaled).abs().max() < 2.5
    assert not sample.expected[:, 0].any()
    assert sample.moves.any()
    still = sampler_of(config).batch(0, 1, 21, 64)[:, :, :1].expand(-1, -1, 21, -1, -1)
    sample = trainee.coded(still, 40)
    resting = ~sample.moves[:, 1:].expand(4, -1, -1, -1)
    assert resting.any()
    assert torch.equal(sample.expected[:, 1:][resting].float(), (sample.symbols[:, :-1] / 16)[resting])


def test_a_run_begins_with_the_prior_of_its_model_which_new_groups_do_not_change(config):
    sample_of = {}
    for cuts in ((), (1, 3)):
        trainee = PriorTrainee(replace(config, prior=replace(config.prior, cuts=cuts)), CPU)
        trainee.start(sampler_of(config))
        sample = trainee.coded(sampler_of(config).batch(0, 1, 21, 64), 70)
        sample_of[cuts] = trainee.bits([sample])
    assert torch.allclose(*sample_of.values(), rtol=1e-3)


def test_a_run_goes_on_with_groups_that_are_there(config):
    config = replace(config, start=f"tiny-{GROUPED}")
    trainee = PriorTrainee(config, CPU)
    trainee.start(sampler_of(config))
    own = Weights(find_model(f"tiny-{GROUPED}")).arrays["prior.beside"]
    beside = [layer.weight for head in trainee.prior.heads for layer in head.beside]
    assert all(weight.abs().max() > 0 for weight in beside)
    assert own.any()
    sample = trainee.coded(sampler_of(config).batch(0, 1, 21, 64), 70)
    before = trainee.bits([sample])
    torch.nn.init.zeros_(beside[0])
    assert not torch.allclose(before, trainee.bits([sample]), rtol=1e-3)


def test_coarse_passes_that_are_new_begin_as_the_others_and_change_first_frames_alone(config):
    trainees = []
    for strides in ((), STRIDES):
        section = replace(config.prior, strides=strides)
        trainee = PriorTrainee(replace(config, start=f"tiny-{GROUPED}", prior=section), CPU)
        trainee.start(sampler_of(config))
        trainees.append(trainee)
    usual, coarse = (trainee.prior for trainee in trainees)
    of_quarters = [each.quarter for each in coarse.passes]
    assert torch.equal(coarse.linear, usual.linear[of_quarters])
    for head, quarter in zip(coarse.heads, of_quarters, strict=True):
        assert torch.equal(head.known.weight, usual.heads[quarter].known.weight)
    sample = trainees[0].coded(sampler_of(config).batch(0, 1, 21, 64), 70)
    one, other = (trainee.bits([sample])[0] for trainee in trainees)
    assert torch.allclose(one[1:], other[1:], rtol=1e-2)
    assert not torch.allclose(one[:1], other[:1], rtol=1e-2)


def test_passes_of_later_frames_that_are_new_change_nothing_before_they_are_trained(config):
    bits, sample = [], None
    for later in ((), LATER_STRIDES):
        section = replace(config.prior, strides=STRIDES, later=later)
        trainee = PriorTrainee(replace(config, start=f"tiny-{PYRAMID}", prior=section), CPU)
        trainee.start(sampler_of(config))
        sample = sample or trainee.coded(sampler_of(config).batch(0, 1, 21, 64), 70)
        bits.append(trainee.bits([sample])[0])
    assert torch.allclose(*bits, rtol=1e-3)


def test_a_run_goes_on_with_passes_of_later_frames_that_are_there(config):
    section = replace(config.prior, strides=STRIDES, later=LATER_STRIDES)
    trainee = PriorTrainee(replace(config, start=f"tiny-{COARSE_TO_FINE}", prior=section), CPU)
    trainee.start(sampler_of(config))
    own = Weights(find_model(f"tiny-{COARSE_TO_FINE}")).arrays["prior.far"]
    assert own.any()
    assert np.allclose(trainee.prior.far.detach().numpy(), own / 4096, atol=1e-6)
    sample = trainee.coded(sampler_of(config).batch(0, 1, 21, 64), 70)
    before = trainee.bits([sample])[0]
    torch.nn.init.zeros_(trainee.prior.far)
    after = trainee.bits([sample])[0]
    assert torch.allclose(before[:1], after[:1])
    assert not torch.allclose(before[1:], after[1:], rtol=1e-3)


def test_what_is_exported_keeps_a_share_of_what_the_run_began_with(config):
    begun = PriorTrainee(config, CPU)
    begun.start(sampler_of(config))
    for kept in (0.0, 0.25, 1.0):
        trainee = PriorTrainee(replace(config, prior=replace(config.prior, kept=kept)), CPU)
        trainee.start(sampler_of(config))
        torch.nn.init.normal_(trainee.prior.conv2.weight)
        found, first, own = (p.conv2.weight for p in (trainee.settled(), begun.prior, trainee.prior))
        assert torch.allclose(found, kept * first + (1 - kept) * own, atol=1e-6)


def test_a_run_goes_on_with_coarse_passes_that_are_there(config):
    section = replace(config.prior, strides=STRIDES)
    trainee = PriorTrainee(replace(config, start=f"tiny-{PYRAMID}", prior=section), CPU)
    trainee.start(sampler_of(config))
    heads = trainee.prior.heads
    assert not any(torch.equal(heads[4].head.weight, head.head.weight) for head in heads[:4])
    sample = trainee.coded(sampler_of(config).batch(0, 1, 21, 64), 70)
    before = trainee.bits([sample])[0]
    torch.nn.init.zeros_(heads[4].head.weight)
    after = trainee.bits([sample])[0]
    assert torch.allclose(before[1:], after[1:])
    assert not torch.allclose(before[:1], after[:1], rtol=1e-3)


def test_the_integers_say_how_far_vectors_reach(config):
    """As the recipe asks, which cannot ask a model that says so for another reach."""
    section = replace(config.prior, strides=STRIDES, later=LATER_STRIDES, reach=REACH)
    for start, reach in ((COARSE_TO_FINE, 0), (COARSE_TO_FINE, 127), (REACHING, REACH)):
        trainee = PriorTrainee(
            replace(config, start=f"tiny-{start}", prior=replace(section, reach=reach)), CPU
        )
        trainee.start(sampler_of(config))
        arrays = trainee.tables(sampler_of(config), 1).to_tensors()
        assert ("prior.reach" in arrays) == bool(reach)
        assert coder_of_prior(arrays) == ("prior-15" if reach else "prior-13")
        assert not reach or arrays["prior.reach"] == [reach]
    with pytest.raises(ConfigError, match="other reach of vectors") as caught:
        PriorTrainee(replace(config, start=f"tiny-{REACHING}", prior=replace(section, reach=200)), CPU)
    assert f"reach = {REACH} " in caught.value.hint
    for wrong in ({"reach": 126}, {"reach": 4096}, {"reach": 200, "later": ()}):
        with pytest.raises(ConfigError, match=r"reach = \d+ in"):
            PriorTrainee(replace(config, start=f"tiny-{PYRAMID}", prior=replace(section, **wrong)), CPU)


def test_what_cannot_go_on_is_refused(config):
    with pytest.raises(ConfigError, match="belongs to a model"):
        PriorTrainee(replace(config, start=None), CPU)
    with pytest.raises(ConfigError, match="no prior that this could"):
        PriorTrainee(replace(config, start="tiny-1"), CPU)
    with pytest.raises(ConfigError, match="with a joiner"):
        PriorTrainee(replace(config, start="tiny-8"), CPU)
    with pytest.raises(ConfigError, match="halve"):
        PriorTrainee(replace(config, prior=replace(config.prior, strides=(4, 2))), CPU)
    with pytest.raises(ConfigError, match=r"later = .* halve"):
        PriorTrainee(replace(config, prior=replace(config.prior, strides=STRIDES, later=(2,))), CPU)
    with pytest.raises(ConfigError, match="first frames have coarse passes"):
        PriorTrainee(replace(config, prior=replace(config.prior, later=(2, 1))), CPU)
    with pytest.raises(ConfigError, match="other coarse passes"):
        PriorTrainee(
            replace(config, start=f"tiny-{PYRAMID}", prior=replace(config.prior, strides=(2, 1))), CPU
        )
    codec = replace(config, task="codec", start=f"tiny-{GROUPED}")
    codec = replace(codec, model=ModelSection(4, 8, 8, (1, 1), (1, 1)))
    with pytest.raises(ConfigError, match="does not train"):
        Coder(codec).start(sampler_of(config))
    assert PriorTrainee(
        replace(config, start="tiny-8", prior=replace(config.prior, cuts=())), CPU
    ).section.clips


def test_motion_stays_what_it_is(config, tmp_path):
    run = train(config, tmp_path / "run", CPU, on_log=lambda _: None)
    fresh = PriorTrainee(config, CPU)
    fresh.start(sampler_of(config))
    pairs = zip(run.trainee.prior.motion.parameters(), fresh.prior.motion.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    export(run.average, config, tmp_path / "w.safetensors")
    assert not any(name.startswith("motion") for name in load_file(tmp_path / "w.safetensors"))
    assert np.array_equal(load_file(tmp_path / "w.safetensors")["prior.cuts"], [1, 3])
