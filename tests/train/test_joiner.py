"""`task = "joiner"`, on data made on the spot and the tiny model."""

from dataclasses import replace

import pytest
import torch
from safetensors.numpy import load_file
from tiny import ACROSS, GOLDEN

from cvvae_cli.errors import ConfigError
from cvvae_cli.models.registry import Weights, find_model_or_file
from cvvae_cli.train.config import JoinerSection
from cvvae_cli.train.data import ClipSampler, find_sources
from cvvae_cli.train.export import export
from cvvae_cli.train.joiner import JoinerTrainee
from cvvae_cli.train.loop import train
from cvvae_cli.train.refiner import planes

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny, brief):
    section = JoinerSection(width=8, layers=3, clips=3, frames=21, size=64)
    return replace(brief, task="joiner", start=f"tiny-{ACROSS}", joiner=section)


def sampler_of(config):
    return ClipSampler(find_sources(config.data.folders), config.data, 0)


def test_training_makes_frames_better_and_the_file_holds_the_refiner_too(config, tmp_path):
    config = replace(config, schedule=replace(config.schedule, steps=120))
    log = []
    run = train(config, tmp_path / "run", CPU, on_log=log.append, log_every=40)
    gains = [line["gain_db"] for line in log if "gain_db" in line]
    assert gains[-1] > max(0.0, gains[0])
    export(run.average, config, tmp_path / "w.safetensors")
    own, before = load_file(tmp_path / "w.safetensors"), load_file(GOLDEN / f"tiny-{ACROSS}.safetensors")
    assert {name for name in own if ".joiner." not in name} == set(before)
    assert all((own[name] == before[name]).all() for name in before)
    spec = find_model_or_file(str(tmp_path / "w.safetensors"))
    assert (spec.name, spec.base, spec.coder) == ("test", "tiny-8", "prior-10")
    network = Weights(spec).build()
    assert network.refiner.across
    trained = run.average.refiner.state_dict()
    assert all(torch.allclose(trained[n], t, atol=1e-3) for n, t in network.joiner.state_dict().items())


def test_samples_are_the_frames_where_groups_meet(config):
    trainee = JoinerTrainee(config, CPU)
    video = sampler_of(config).batch(0, 1, 21, 64)
    sample = trainee._frozen["decoded"].sample(video, 40)
    assert sample.pictures.shape == sample.wanted.shape == (10, 3, 64, 64)
    assert sample.differences.shape == (10, 1, 3, 64, 64)
    assert sample.known.tolist() == [[1]] * 10
    shown = (sample.pictures + sample.wanted).float()
    ends = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17]
    assert (shown - video[0, :, ends].transpose(0, 1)).abs().max() < 0.02


def test_samples_show_what_a_reader_of_a_file_would(config, monkeypatch):
    """Detail is in them: without it other pictures lie there."""
    decoded = JoinerTrainee(config, CPU)._frozen["decoded"]
    video = sampler_of(config).batch(0, 1, 21, 64)
    with_detail = decoded.sample(video, 90)
    monkeypatch.setattr("cvvae_cli.train.joiner.detail_of", lambda memories: None)
    assert not torch.equal(decoded.sample(video, 90).pictures, with_detail.pictures)


def test_pieces_hold_one_neighbour_and_nothing_is_left_out(config):
    one = JoinerTrainee(config, CPU).batch(sampler_of(config), 5, range(4), config.schedule.stages[0])
    assert one.shape == (4, sum(planes(1)), 32, 32)
    assert (one[:, 9] == 1).all()
    assert ((one[:, 10] >= 10) & (one[:, 10] <= 100)).all()


@pytest.mark.parametrize(
    ("start", "message"),
    [(None, "belongs to a model"), ("compact-flux2", "no quality levels"), ("tiny-8", "no refiner")],
)
def test_only_a_refined_model_can_be_joined(config, start, message):
    with pytest.raises(ConfigError, match=message):
        JoinerTrainee(replace(config, start=start), CPU)
