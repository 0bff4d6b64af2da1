"""`task = "refiner"`, on data made on the spot and the tiny model."""

from dataclasses import replace

import pytest
import torch
from safetensors.numpy import load_file

from cvvae_cli.engine.stream import Engine
from cvvae_cli.errors import ConfigError, UnknownModelError
from cvvae_cli.models.registry import Weights, find_model, find_model_or_file
from cvvae_cli.train.config import RefinerSection
from cvvae_cli.train.data import ClipSampler, find_sources
from cvvae_cli.train.export import export
from cvvae_cli.train.loop import train
from cvvae_cli.train.refiner import RefinerTrainee, planes

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny, brief):
    section = RefinerSection(width=8, layers=3, clips=3, frames=21, size=64)
    return replace(brief, task="refiner", start="tiny-8", refiner=section)


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.trainee.parameters()])


def test_training_makes_pictures_better_and_the_file_goes_with_its_base(config, tmp_path):
    config = replace(config, schedule=replace(config.schedule, steps=120))
    log = []
    run = train(config, tmp_path / "run", CPU, on_log=log.append, log_every=40)
    gains = [line["gain_db"] for line in log if "gain_db" in line]
    assert gains[-1] > max(0.0, gains[0])
    held_out = [line["holdout"]["clip.mkv"]["4.0"] for line in log if "holdout" in line]
    assert held_out[-1]["psnr_db"] > held_out[0]["psnr_db"]
    export(run.average, config, tmp_path / "w.safetensors")
    own = load_file(tmp_path / "w.safetensors")
    assert all(name.startswith("network.refiner.") for name in own)
    spec = find_model_or_file(str(tmp_path / "w.safetensors"))
    assert (spec.name, spec.base, spec.coder) == ("test", "tiny-8", "prior-7")
    base = find_model("tiny-8")
    assert set(Weights(spec).arrays) == {*Weights(base).arrays, *own}
    network = Weights(spec).build()
    assert network.refiner is not None
    assert Weights(base).build().refiner is None


def test_a_resumed_run_is_the_uninterrupted_one(config, tmp_path):
    assert_a_run_that_stopped_goes_on(config, tmp_path)


def assert_a_run_that_stopped_goes_on(config, folder):
    """Of 12 steps, to the parameters of one that did not stop."""
    whole = train(config, folder / "whole", CPU, on_log=lambda _: None)
    with pytest.raises(StoppedError):
        train(config, folder / "parts", CPU, on_log=stop_at(7), log_every=1, save_every=3)
    resumed = train(config, folder / "parts", CPU, on_log=lambda _: None)
    assert resumed.step == whole.step == 12
    assert torch.allclose(weights(whole), weights(resumed), atol=1e-6)


def stop_at(step):
    def on_log(line):
        if line["step"] == step:
            raise StoppedError

    return on_log


class StoppedError(Exception):
    pass


def test_samples_are_what_the_coder_of_the_base_gives(config):
    trainee = RefinerTrainee(config, CPU)
    sampler = ClipSampler(find_sources(config.data.folders), config.data, 0)
    decoded = trainee._frozen["decoded"]
    assert isinstance(decoded.engine, Engine)
    video = sampler.batch(0, 1, 21, 64)
    sample = decoded.sample(video, 40)
    assert sample.pictures.shape == (6, 3, 64, 64)
    assert sample.known.tolist() == [[0, 1], [1, 1], [1, 1], [1, 0], [0, 1], [1, 0]]  # chunks of four
    shown = (sample.pictures + sample.wanted)[0].float()
    assert (shown - video[0, :, 0]).abs().max() < 0.02  # the first stands for one frame
    assert not sample.differences[sample.known == 0].any()


def test_across_chunks_the_first_latent_frame_of_each_has_the_one_before_it(config):
    config = replace(config, refiner=replace(config.refiner, across=True))
    trainee = RefinerTrainee(config, CPU)
    sampler = ClipSampler(find_sources(config.data.folders), config.data, 0)
    sample = trainee._frozen["decoded"].sample(sampler.batch(0, 1, 21, 64), 40)
    assert sample.known.tolist() == [[0, 1], [1, 1], [1, 1], [1, 0], [1, 1], [1, 0]]
    assert sample.differences[4, 0].any()


@pytest.mark.parametrize(("start", "layers", "inner"), [("tiny-9", 3, 1), ("tiny-11", 4, 3)])
def test_a_run_goes_on_with_the_refiner_of_its_model(config, tmp_path, start, layers, inner):
    section = replace(config.refiner, layers=layers, inner_width=8, inner_layers=inner, across=True)
    config = replace(config, start=start, refiner=section)
    trainee = RefinerTrainee(config, CPU)
    trainee.start(ClipSampler(find_sources(config.data.folders), config.data, 0))
    own = Weights(find_model(start)).build().refiner
    inputs = torch.rand(1, 3, 16, 16), torch.rand(1, 2, 3, 16, 16), torch.ones(1, 2), torch.tensor([40.0])
    assert torch.allclose(trainee.refiner(*inputs), own(*inputs), atol=1e-6)
    export(trainee, config, tmp_path / "w.safetensors")
    spec = find_model_or_file(str(tmp_path / "w.safetensors"))
    assert spec.base == "tiny-8"  # not the model whose refiner it replaces
    refiner = Weights(spec).build().refiner
    assert refiner.across
    assert torch.allclose(refiner(*inputs), own(*inputs), atol=1e-3)


def test_a_refiner_of_other_widths_cannot_go_on(config):
    config = replace(config, start="tiny-9", refiner=replace(config.refiner, width=16))
    with pytest.raises(ConfigError, match="other widths"):
        RefinerTrainee(config, CPU).start(ClipSampler(find_sources(config.data.folders), config.data, 0))


def test_pieces_depend_on_seed_step_and_place_alone(config):
    sampler = ClipSampler(find_sources(config.data.folders), config.data, 0)
    stage = config.schedule.stages[0]
    one, other = (
        RefinerTrainee(config, CPU).batch(sampler, 5, places, stage) for places in (range(4), range(2, 4))
    )
    assert one.shape == (4, sum(planes(2)), 32, 32)
    assert torch.equal(one[2:], other)
    missing = one[:, 12:14, 0, 0] == 0
    differences = one[:, 3:9].unflatten(1, (2, 3))
    assert not differences[missing].any()
    assert ((one[:, 14] >= 10) & (one[:, 14] <= 100)).all()


@pytest.mark.parametrize("start", [None, "compact-flux2"])
def test_a_model_without_levels_has_nothing_to_refine(config, start):
    with pytest.raises(ConfigError):
        RefinerTrainee(replace(config, start=start), CPU)


def test_a_run_may_start_from_what_another_wrote(config, tmp_path):
    first = RefinerTrainee(config, CPU)
    torch.nn.init.normal_(first.refiner.head.weight)
    path = tmp_path / "first-run.safetensors"
    again = replace(config, start=str(path))
    with pytest.raises(UnknownModelError, match="there is no file") as refused:
        RefinerTrainee(again, CPU)
    assert "--export" in refused.value.hint
    export(first, config, path)
    second = RefinerTrainee(again, CPU)
    second.start(ClipSampler(find_sources(config.data.folders), config.data, config.seed))
    pairs = zip(first.refiner.parameters(), second.refiner.parameters(), strict=True)
    assert all(torch.equal(one.half().float(), other) for one, other in pairs)
