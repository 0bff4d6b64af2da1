"""`task = "latents"`: the paper's objective, its parts, and training in several processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import moving_picture

from cvvae_cli.errors import ConfigError
from cvvae_cli.models.alignment import as_clips, as_pictures, matching_frames
from cvvae_cli.models.compact import Compact, CompactConfig
from cvvae_cli.models.image_vae import TinyImageVae
from cvvae_cli.models.registry import Weights, spec_of_file
from cvvae_cli.train import coder
from cvvae_cli.train.config import (
    DataSection,
    LatentsSection,
    ModelSection,
    ScheduleSection,
    Stage,
    TrainConfig,
    config_from_dict,
)
from cvvae_cli.train.critic import PatchCritic, adaptive_weight, hinge
from cvvae_cli.train.data import ClipSampler, SampleNoise, as_model_input, find_sources
from cvvae_cli.train.export import export
from cvvae_cli.train.latents import LatentTrainee, moments_distance, picked, turn_towards
from cvvae_cli.train.loop import start_run, train, train_step
from cvvae_cli.train.turn import training_clips, turned

CPU = torch.device("cpu")
CHANNELS = 4


@pytest.fixture
def image_vae(tmp_path):
    """A random pair of the TAESD family, as files."""
    torch.manual_seed(3)
    pair = TinyImageVae(CHANNELS, has_pool=False)
    with torch.no_grad():  # pictures that differ from each other
        pair.decoder[-1].weight.mul_(30)
        pair.decoder[-1].bias.fill_(0.5)
    folder = tmp_path / "vae"
    folder.mkdir()
    for part in ("encoder", "decoder"):
        save_file(getattr(pair, part).state_dict(), folder / f"tiny_{part}.safetensors")
    return folder


@pytest.fixture
def config(tmp_path, lossless, image_vae):
    (tmp_path / "data").mkdir()
    lossless(moving_picture(24, 96, 80), "data/clip.mkv")
    return TrainConfig(
        name="test",
        task="latents",
        model=ModelSection(CHANNELS, 8, 8, (1, 1), (1, 1)),
        data=DataSection(folders=(str(tmp_path / "data"),), holdout=str(tmp_path / "data"), cache_gib=0.1),
        schedule=ScheduleSection(steps=6, warmup_steps=2, stages=(Stage(1.0, 2, 9, 32),)),
        latents=LatentsSection(image_vae=str(image_vae), regularize="decoder", fit_clips=2, fit_size=32),
    )


def with_latents(config, **changes):
    return replace(config, latents=replace(config.latents, **changes))


def run_all(config, folder, **options):
    return train(config, folder, CPU, on_log=lambda _: None, **options)


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.trainee.parameters()])


def moved_apart(first, second, config):
    """How far two runs are apart, by how far they came. (Adam makes steps of rounding errors, too.)"""
    start = weights(start_run(config, Path("nowhere"), CPU))
    return ((first - second).norm() / (first - start).norm()).item()


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("side", ["decoder", "encoder", "both", "none"])
def test_each_side_has_the_terms_it_is_made_of(config, side):
    trainee = LatentTrainee(with_latents(config, regularize=side), CPU)
    video = torch.rand(2, 3, 9, 32, 32) * 2 - 1
    loss, figures = trainee.loss(video, SampleNoise(0, 0, range(2), CPU), 0)
    loss.backward()
    sides = {f"{s}_side" for s in ("decoder", "encoder") if side in (s, "both")}
    assert {name for name in figures if name.endswith("_side")} == sides
    assert set(trainee.log_scale) == {"reconstruction"} | sides
    assert all(p.grad is not None for p in trainee.parameters())


def test_a_logarithmic_distance_counts_smooth_samples_as_much_as_rough_ones(config):
    """It has no log-variance to learn, and its gradient is the same whatever a sample's error is."""
    trainee = LatentTrainee(with_latents(config, distortion="log_l2"), CPU)
    assert not trainee.log_scale
    target = torch.zeros(2, 3, 1, 8, 8)
    decoded = torch.tensor([0.1, 0.9]).view(2, 1, 1, 1, 1).expand_as(target).clone().requires_grad_()
    distance = trainee.distance(decoded, target)
    distance.backward()
    mean_log = (torch.tensor(0.01).log() + torch.tensor(0.81).log()) / 2
    assert torch.allclose(distance, mean_log, atol=1e-3)
    pull = (decoded.grad * decoded.detach()).flatten(1).sum(1)  # by how much the logarithm falls per e-fold
    assert torch.allclose(pull, torch.ones(2), atol=2e-3)


def test_what_an_exported_file_begins_is_not_turned_again(config, tmp_path):
    run = run_all(config, tmp_path / "run")
    file = tmp_path / "first.safetensors"
    export(run.average, config, file)
    again = with_latents(replace(config, start=str(file)), fit_clips=0)
    trainee = LatentTrainee(again, CPU)
    trainee.start(ClipSampler(find_sources(config.data.folders), config.data, 0))
    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    before, after = (t.autoencoder.encode(video) for t in (run.average, trainee))
    assert torch.allclose(before, after, atol=2e-3)  # the file holds fp16


@pytest.mark.parametrize("mapping", ["random", "average", "slice", "first"])
def test_alignment_is_learned(config, tmp_path, mapping):
    """The image decoder comes nearer to the frames while the latents are trained; it stays as it was."""
    schedule = replace(config.schedule, steps=40, learning_rate=3e-3, linear_learning_rate=3e-3)
    changed = replace(with_latents(config, mapping=mapping, alignment_frames=2), schedule=schedule)
    run = run_all(changed, tmp_path / "run", log_every=20)
    log = [line["decoder_side"] for line in log_of(tmp_path / "run") if "decoder_side" in line]
    assert log[-1] < log[0]
    fresh = LatentTrainee(changed, CPU)
    for trained, before in zip(run.trainee.image_vae.parameters(), fresh.image_vae.parameters(), strict=True):
        assert torch.equal(trained, before)


def test_a_decoder_may_learn_alone_while_the_latents_stay(config, tmp_path):
    def trained(run):
        return {name: p.detach().clone() for name, p in run.trainee.autoencoder.named_parameters()}

    alone = with_latents(config, trains="decoder", regularize="none", fit_clips=0)
    before = trained(run_all(replace(alone, schedule=replace(alone.schedule, steps=1)), tmp_path / "run"))
    after = trained(run_all(alone, tmp_path / "run"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"decoder", "linear_decode"}
    assert changed == {name for name in before if "decode" in name}


def test_a_resumed_run_is_the_uninterrupted_one(config, tmp_path):
    changed = with_latents(config, critic_weight=0.5, critic_from=2, moments_weight=1.0, latent_weight=1.0)
    whole = run_all(changed, tmp_path / "whole", save_every=3, log_every=1)

    class KilledError(Exception):
        pass

    def kill(line):
        if line["step"] == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train(changed, tmp_path / "parts", CPU, on_log=kill, log_every=1, save_every=3)
    resumed = run_all(changed, tmp_path / "parts", save_every=3, log_every=1)
    assert torch.allclose(weights(whole), weights(resumed), atol=1e-6)
    losses = [{x["step"]: x["loss"] for x in log_of(tmp_path / n) if "loss" in x} for n in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_gradients_of_several_batches_are_those_of_one(config, tmp_path):
    """Two batches of two are one of four; so are two processes, see below."""
    big = replace(config, schedule=replace(config.schedule, stages=(Stage(1.0, 4, 9, 32),)))
    parts = replace(config, schedule=replace(config.schedule, accumulate=2))
    runs = [run_all(c, tmp_path / name) for name, c in (("big", big), ("parts", parts))]
    assert moved_apart(*(weights(run) for run in runs), config) < 1e-2


def test_two_processes_are_one_with_the_doubled_batch(config, tmp_path):
    values = config.to_dict()
    script = (
        "import json, sys, torch\n"
        "from pathlib import Path\n"
        "from cvvae_cli.train.config import config_from_dict\n"
        "from cvvae_cli.train.loop import train\n"
        "from cvvae_cli.train import coder\n"
        f"coder.PATCH_BATCHES = {coder.PATCH_BATCHES}\n"
        "torch.set_num_threads(1)\n"
        "config = config_from_dict(json.loads(Path(sys.argv[1]).read_text()))\n"
        "train(config, Path(sys.argv[2]), torch.device('cpu'), on_log=lambda line: None)\n"
        "tasks = Path('/proc/self/task').glob('*/comm')\n"
        "assert not [name for name in (t.read_text() for t in tasks) if 'gloo' in name]\n"
    )
    (tmp_path / "go.py").write_text(script)
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, tmp_path / "go.py", tmp_path / "recipe.json", tmp_path / "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(p) for p in command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    doubled = replace(config, schedule=replace(config.schedule, stages=(Stage(1.0, 4, 9, 32),)))
    one = run_all(doubled, tmp_path / "one")
    two = start_run(config, tmp_path / "two", CPU)
    assert two.step == one.step == 6
    assert moved_apart(weights(one), weights(two), config) < 1e-2
    lines = [[x["loss"] for x in log_of(tmp_path / n) if "loss" in x] for n in ("one", "two")]
    assert lines[0] == pytest.approx(lines[1], rel=1e-4)


def test_the_turn_keeps_reconstructions_and_has_their_moments(config):
    torch.manual_seed(0)
    trainee = LatentTrainee(config, CPU)
    network, vae = trainee.autoencoder, trainee.image_vae
    sampler = ClipSampler(find_sources(config.data.folders), config.data, 0)
    trainee.config = replace(config, latents=replace(config.latents, regularize="none"))
    trainee.start(sampler)
    video = sampler.batch(7, 1, 9, 112)
    with torch.no_grad():
        before, latents = network.decode(network.encode(video)), network.encode(video)
        theirs = as_clips(vae.encode(as_pictures(matching_frames(video, "average"))), 1)
        turn_towards(network, vae, sampler, 8, 64)
        turned = network.encode(video)
        inside = (network.decode(turned) - before)[..., 48:-48, 48:-48]
    assert inside.abs().max() < 1e-3  # beyond the edge the decoder sees zeros, which the map moves
    assert moments_distance(turned, theirs) < 0.5 * moments_distance(latents, theirs)


def test_the_export_is_a_model(config, tmp_path):
    run = run_all(config, tmp_path / "run")
    export(run.average, config, tmp_path / "w.safetensors")
    spec = spec_of_file(tmp_path / "w.safetensors")
    assert spec.name == "test"
    assert (spec.coder, spec.levels, spec.geometry.channels) == ("exact-bf16", None, CHANNELS)
    network = Weights(spec).build()
    video = torch.rand(1, 3, 5, 32, 32)
    expected = run.average.autoencoder.encode(video)
    assert torch.allclose(network.encode(video), expected, atol=0.02)
    assert str(tmp_path).encode() not in (tmp_path / "w.safetensors").read_bytes()  # no path of this machine


def test_a_last_map_brings_the_image_decoders_pictures_nearer_and_is_undone(config, tmp_path):
    """Of whole frames; latents that are off by a constant are mended, and the decoder still gets its own."""
    torch.manual_seed(0)
    config = with_latents(config, turn_steps=60)
    run = start_run(config, tmp_path / "run", CPU)
    network, image_vae = run.trainee.autoencoder, run.trainee.image_vae
    video = as_model_input(next(training_clips(config)))
    frames = as_pictures(matching_frames(video, "average"))

    def error(model):
        return float((image_vae.decode(as_pictures(model.encode(video))) - frames).square().mean())

    with torch.no_grad():
        network.linear_encode.weight.normal_(0, 0.1)
        network.linear_encode.bias.fill_(0.5)
    after = turned(network, image_vae, config)
    with torch.no_grad():
        assert error(after) < 0.95 * error(network)
        inside = (..., slice(24, -24), slice(24, -24))
        ours, theirs = (model.decode(model.encode(video))[inside] for model in (network, after))
        assert torch.allclose(ours, theirs, atol=1e-3)
    export(run.trainee, config, tmp_path / "out.safetensors")
    exported = Weights(spec_of_file(tmp_path / "out.safetensors")).build()
    assert exported.encode(video).shape == network.encode(video).shape


@pytest.mark.parametrize("architecture", ["cvvae-sd21", "cvvae-sd3"])
def test_the_papers_networks_are_trained_and_imported_again(config, tmp_path, architecture, monkeypatch):
    from cvvae_cli.models.imported import import_weights

    monkeypatch.setenv("CVVAE_WEIGHTS", str(tmp_path / "weights"))
    network = {
        "cvvae-sd21": {"ch": 32, "ch_mult": [1, 1, 1, 1], "z_channels": CHANNELS},
        "cvvae-sd3": {"block_out_channels": [32, 32, 32, 32], "out_channels": CHANNELS},
    }[architecture]
    changed = replace(config, architecture=architecture, network=network)
    changed = replace(changed, schedule=replace(config.schedule, steps=2))
    run = run_all(changed, tmp_path / "run")
    export(run.average, changed, tmp_path / "w.safetensors")
    assert import_weights(tmp_path / "w.safetensors", "mine").architecture == architecture


def test_a_paper_network_may_begin_as_an_image_vae(config, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[32] * 4,
        layers_per_block=2,
    )
    vae.save_pretrained(tmp_path / "sd")
    network = {"ch": 32, "ch_mult": [1, 1, 1, 1], "z_channels": 4}
    changed = replace(config, architecture="cvvae-sd21", network=network)
    changed = with_latents(changed, image_vae=str(tmp_path / "sd"), inflate=True)
    trainee = LatentTrainee(changed, CPU)
    trainee.start(ClipSampler(find_sources(config.data.folders), config.data, 0))
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        ours = trainee.autoencoder.encode(picture[:, :, None])[:, :, 0]
        assert torch.allclose(ours, vae.eval().encode(picture).latent_dist.mode(), atol=1e-4)


def test_image_batches_hold_pictures_alone(config):
    section = replace(config.data, image_share=0.5)
    sampler = ClipSampler(find_sources(section.folders), section, 0)
    lengths = [sampler.batch(step, 2, 9, 32).shape[2] for step in range(30)]
    assert set(lengths) == {1, 9}
    assert 5 < lengths.count(1) < 25


def test_noise_belongs_to_its_sample():
    """A process that has places 2 and 3 draws what one with all four draws for them."""
    whole, part = (SampleNoise(1, 5, places, CPU) for places in (range(4), range(2, 4)))
    for draw in (
        lambda n: n.uniform(3),
        lambda n: n.normal(2, 2),
        lambda n: n.integers(4, 5),
        lambda n: n.choices(2, 5),
    ):
        assert torch.equal(draw(whole)[2:], draw(part))


def test_the_critic_learns_to_tell_clips_apart(config, tmp_path):
    torch.manual_seed(0)
    critic = PatchCritic((8, 8, 8))
    real, decoded = torch.rand(2, 3, 5, 32, 32), torch.rand(2, 3, 5, 32, 32) * 0.3
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = hinge(critic(real), critic(decoded))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    changed = with_latents(config, critic_weight=0.5, critic_from=3)
    run = start_run(changed, tmp_path / "run", CPU)
    before = [p.clone() for p in run.trainee.critic.parameters()]
    sampler = ClipSampler(find_sources(config.data.folders), config.data, 0)
    shown = [train_step(run, sampler, CPU) for _ in range(4)]
    assert ["critic" in figures for figures in shown] == [False, False, False, True]
    assert any(not torch.equal(p, q) for p, q in zip(run.trainee.critic.parameters(), before, strict=True))


def test_the_adaptive_weight_balances_the_pull_on_the_last_layer():
    layer = torch.ones(3, requires_grad=True)
    weight = adaptive_weight((4 * layer).sum(), (2 * layer).sum(), layer)
    assert weight.item() == pytest.approx(2, rel=1e-3)


def test_moments_are_those_of_positions():
    torch.manual_seed(0)
    z = torch.randn(2, 3, 4, 16, 16)
    assert moments_distance(z, z.flip(2, 3)) == pytest.approx(0, abs=1e-8)
    assert moments_distance(z + 1, z).item() == pytest.approx(3, rel=1e-4)
    assert moments_distance(2 * z, z).item() == pytest.approx(9, rel=0.1)
    chosen = torch.tensor([[2, 0], [1, 3]])
    assert torch.equal(picked(z, chosen)[1, :, 1], z[1, :, 3])


def test_wrong_settings_are_refused(config):
    with pytest.raises(ConfigError, match="needs an image VAE"):
        LatentTrainee(with_latents(config, image_vae=None), CPU)
    with pytest.raises(ConfigError, match="no architecture"):
        LatentTrainee(replace(config, architecture="nonsense"), CPU)
    with pytest.raises(ConfigError, match="whose encoder then rests"):
        LatentTrainee(with_latents(config, trains="decoder"), CPU)
    for key in ("regularize", "mapping", "distortion"):
        values = config.to_dict()
        values["latents"][key] = "sideways"
        with pytest.raises(ConfigError, match=key):
            config_from_dict(values)


def test_a_turn_is_undone_by_the_decoder():
    torch.manual_seed(0)
    network = Compact(CompactConfig(4, 8, 8, (1, 1), (1, 1)))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    matrix, offset = torch.randn(4, 4).double() + 2 * torch.eye(4), torch.randn(4).double()
    video = torch.rand(1, 3, 5, 112, 112)
    with torch.no_grad():
        z, x = network.encode(video), network.decode(network.encode(video))
        network.turn_latents(matrix, offset)
        expected = torch.einsum("ij,bjthw->bithw", matrix.float(), z) + offset.float()[:, None, None, None]
        assert torch.allclose(network.encode(video), expected.reshape(z.shape), atol=1e-4)
        inside = (network.decode(network.encode(video)) - x)[..., 48:-48, 48:-48]
    assert inside.abs().max() < 1e-3


def test_the_command_line_changes_the_recipe():
    from cvvae_cli.cli.train import find_recipe, with_changes

    recipe = find_recipe("compact-flux2-1")
    assert (recipe.task, recipe.latents.regularize, recipe.latents.mapping) == (
        "latents",
        "decoder",
        "random",
    )
    given = {"image_vae": "here", "regularize": "both", "mapping": None}
    changed = with_changes(recipe, given, steps=7, seed=None)
    assert (changed.latents.image_vae, changed.latents.regularize, changed.latents.mapping) == (
        "here",
        "both",
        "random",
    )
    assert (changed.schedule.steps, changed.seed) == (7, recipe.seed)
    with pytest.raises(ConfigError, match="regularize"):
        with_changes(recipe, {"regularize": "sideways"}, steps=None, seed=None)
    with pytest.raises(ConfigError, match="trains a codec"):
        with_changes(find_recipe("compact-3"), given, steps=None, seed=None)
    assert with_changes(find_recipe("compact-3"), {"mapping": None}, steps=None, seed=3).seed == 3


def test_the_papers_recipe_is_that_of_its_network():
    from cvvae_cli.cli.train import find_recipe

    recipe = find_recipe("cvvae-sd21")
    assert recipe.architecture == "cvvae-sd21"
    assert recipe.data.image_share == 0.5
    assert recipe.latents.inflate
