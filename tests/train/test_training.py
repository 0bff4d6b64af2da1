"""Short runs on data made on the spot."""

import json
import random
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny import moving_picture

from cvvae_cli.bitstream.anchors import AlignedCoder
from cvvae_cli.bitstream.flow import FlowCoder
from cvvae_cli.bitstream.prior import as_plane
from cvvae_cli.bitstream.residuals import Beside
from cvvae_cli.errors import ConfigError
from cvvae_cli.models.registry import find_model_or_file
from cvvae_cli.train.coder import Coder
from cvvae_cli.train.config import (
    DataSection,
    ModelSection,
    ObjectiveSection,
    ScheduleSection,
    SharpenSection,
    Stage,
    TrainConfig,
    config_from_dict,
    load_config,
)
from cvvae_cli.train.data import NEAREST, ClipSampler, MemoryCache, altered, find_sources
from cvvae_cli.train.export import export_coder, scale_to_highest_level, with_levels_up_to
from cvvae_cli.train.loop import learning_rate_factor, load_holdout, stage_at, train
from cvvae_cli.train.losses import lambda_of, mean_of_samples, rate_distortion, through
from cvvae_cli.train.motion import rounded_motion
from cvvae_cli.train.prior import (
    CodedClip,
    LatentPrior,
    Levels,
    Rounder,
    fit_frequencies,
    logistic_bits,
    quantized,
)
from cvvae_cli.train.restore import restore_prior

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path, lossless):
    """A video, a frame folder and two photos."""
    folder = tmp_path / "data"
    (folder / "frames").mkdir(parents=True)
    lossless(moving_picture(24, 96, 80), "data/clip.mkv")
    for number, picture in enumerate(moving_picture(12, 80, 72, seed=1)):
        av.VideoFrame.from_ndarray(picture, format="rgb24").save(folder / "frames" / f"{number:05}.png")
    for name in ("one", "two"):
        picture = moving_picture(1, 120, 100, seed=len(name))[0]
        av.VideoFrame.from_ndarray(picture, format="rgb24").save(folder / f"{name}.png")
    return folder


@pytest.fixture
def config(data):
    return TrainConfig(
        name="test",
        model=ModelSection(4, 8, 8, (1, 1), (1, 1)),
        data=DataSection(folders=(str(data),), holdout=str(data), cache_gib=0.1),
        schedule=ScheduleSection(
            steps=12, warmup_steps=2, stages=(Stage(0.5, 2, 9, 32), Stage(1.0, 1, 13, 32))
        ),
        objective=ObjectiveSection(lowest_lambda=0.001, highest_lambda=0.01),
        sharpen=SharpenSection(steps=3, clips=2, batch=2, frames=9, size=32),
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.trainee.parameters()])


def test_training_lowers_the_loss_and_logs_it(config, tmp_path):
    schedule = replace(config.schedule, steps=60, learning_rate=2e-3)
    train(replace(config, schedule=schedule), tmp_path / "run", CPU, on_log=lambda _: None, log_every=20)
    log = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in log] == [20, 40, 60]
    assert log[-1]["loss"] < log[0]["loss"]
    assert {"psnr_db", "bits_per_pixel", "gradient_norm", "learning_rate", "seconds"} <= set(log[0])
    held_out = [line for line in lines(tmp_path / "run") if "holdout" in line]
    assert [line["step"] for line in held_out] == [0, 60]
    assert set(held_out[0]["holdout"]) == {"clip.mkv", "frames"}


def test_a_resumed_run_is_the_uninterrupted_one(config, tmp_path):
    whole = train(config, tmp_path / "whole", CPU, on_log=lambda _: None, save_every=6)

    class KilledError(Exception):
        pass

    def kill(line):
        if line["step"] == 8:
            raise KilledError

    with pytest.raises(KilledError):
        train(config, tmp_path / "parts", CPU, on_log=kill, log_every=1, save_every=6)
    resumed = train(config, tmp_path / "parts", CPU, on_log=lambda _: None, save_every=6)
    assert resumed.step == whole.step == 12
    assert torch.allclose(weights(whole), weights(resumed), atol=1e-6)


def test_the_exported_file_holds_all_that_a_codec_needs(config, tmp_path):
    run = train(config, tmp_path / "run", CPU, on_log=lambda _: None)
    export_coder(run.average, config, tmp_path / "w.safetensors", clips=3)
    arrays = load_file(tmp_path / "w.safetensors")
    scaled = np.random.default_rng(0).normal(0, 100, (2, 4, 5, 6)).astype(np.float32)
    coder = AlignedCoder.of_model(arrays, 55)
    plan = coder.choose(scaled, ())
    assert np.array_equal(coder.decode(coder.pack(plan), scaled.shape, ()), plan.symbols)
    assert find_model_or_file(str(tmp_path / "w.safetensors")).coder == "prior-7"
    fields = np.random.default_rng(1).integers(-9, 9, (4, 3, 2, 3, 3)).astype(np.int16)
    flow = FlowCoder.of_model(arrays)
    assert np.array_equal(flow.decode_fields(flow.encode_fields(fields), (4, 3, 3)), fields)
    assert arrays["quantizer.log_gain"].shape == arrays["quantizer.log_step"].shape == (4, 4)
    assert all(a.dtype == np.float16 for n, a in arrays.items() if n.startswith("network."))
    assert str(tmp_path).encode() not in (tmp_path / "w.safetensors").read_bytes()  # no path of this machine


def test_sources_are_told_apart_and_patterns_left_out(data):
    sources = find_sources((str(data),))
    assert [p.name for p in sources.videos] == ["clip.mkv", "frames"]
    assert [p.name for p in sources.photos] == ["one.png", "two.png"]
    assert [p.name for p in find_sources((str(data),), ("*one*",)).photos] == ["two.png"]
    with pytest.raises(ConfigError):
        find_sources((str(data / "nothing"),))


def test_a_file_that_cannot_be_read_is_named_once_and_left_out(data, caplog):
    (data / "broken.mp4").write_text("no video")
    section = DataSection(folders=(str(data),), video_share=1.0)
    sampler = ClipSampler(find_sources(section.folders), section, 1)
    for step in range(4):
        sampler.batch(step, 4, 5, 32)
    assert [r.getMessage().count("broken.mp4") >= 1 for r in caplog.records] == [True]
    for path in data.rglob("*.*"):
        path.write_text("no video either")
    with pytest.raises(ConfigError, match="cannot be read"):
        ClipSampler(find_sources(section.folders), section, 1).batch(0, 1, 5, 32)


def test_a_held_out_clip_that_cannot_be_read_is_named(data):
    (data / "broken.mp4").write_text("no video")
    config = TrainConfig(name="test", data=DataSection(folders=(str(data),), holdout=str(data)))
    with pytest.raises(ConfigError, match=r"broken\.mp4 cannot be read"):
        list(load_holdout(config))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_samples_depend_on_seed_and_step_alone(data, share):
    section = DataSection(folders=(str(data),), video_share=share, cut_share=0.5)
    sources = find_sources(section.folders)
    batch = ClipSampler(sources, section, 1).batch(5, 3, 9, 32)
    assert batch.shape == (3, 3, 9, 32, 32)
    assert -1 <= batch.min() < batch.max() <= 1
    again = ClipSampler(sources, section, 1)
    again.batch(4, 3, 9, 32)
    assert torch.equal(again.batch(5, 3, 9, 32), batch)
    assert not torch.equal(again.batch(6, 3, 9, 32), batch)


def test_what_is_altered_shows_the_same_in_other_light():
    """Waves along the columns of a grey clip at rest: brighter places stay brighter, but some lie on their
    side; what rests goes on resting."""
    ramp = torch.linspace(0.1, 0.9, 32)
    clip = ramp.view(1, 1, 1, 32).expand(5, 3, 32, 32)
    found = [altered(random.Random(seed), clip) for seed in range(60)]
    sideways = 0
    for each in found:
        assert each.shape == clip.shape
        assert 0 <= each.min() < each.max() <= 1
        assert torch.equal(each, each[:1].expand_as(each))
        luma = each[0].mean(0)
        turns = bool(luma[0].std() < 1e-4)
        sideways += turns
        rising = (luma.T if turns else luma)[0].diff()
        assert (rising >= -1e-6).all() or (turns and (rising <= 1e-6).all())
    assert 8 < sideways < 30
    means = torch.stack([each.mean() for each in found])
    assert means.std() > 0.04


def test_a_share_of_the_samples_is_altered(data, monkeypatch):
    section = DataSection(folders=(str(data),), video_share=1.0, cut_share=0.0)
    sources = find_sources(section.folders)

    def altered_of(share):
        seen = []
        monkeypatch.setattr("cvvae_cli.train.data.altered", lambda rng, clip: seen.append(1) or clip)
        sampler = ClipSampler(sources, replace(section, altered_share=share), 1)
        sampler.batch(0, 40, 2, 32)
        return len(seen)

    counts = [altered_of(share) for share in (0.0, 0.5, 1.0)]
    assert counts[0] == 0
    assert 10 < counts[1] < 30
    assert counts[2] == 40
    sides = [ClipSampler(sources, section, 1).crop_side(random.Random(n), 64, 80, NEAREST) for n in range(50)]
    assert 64 * NEAREST - 1 < min(sides) < 45
    assert 72 < max(sides) <= 80


def test_the_cache_stays_within_its_bound(tmp_path):
    loads = []

    def load(path):
        loads.append(path)
        return torch.zeros(100, dtype=torch.uint8)

    cache = MemoryCache(load, 250)
    for name in "abacab":
        cache[tmp_path / name]
        assert cache.bytes <= 250
    assert [p.name for p in loads] == ["a", "b", "c", "b"]


def test_a_recipe_that_ships_is_read_whole():
    from cvvae_cli.cli.train import find_recipe

    recipe = find_recipe("compact-2")
    assert recipe.name == "compact-2"
    assert config_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    with pytest.raises(ConfigError, match="no recipe"):
        find_recipe("nonsense")


def test_a_wrong_recipe_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    for text in ("[model]\nnonsense = 1", "nonsense", "[schedule]\nstages = [{ until = 1, sise = 3 }]"):
        path.write_text(text)
        with pytest.raises(ConfigError):
            load_config(path)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    schedule = ScheduleSection(steps=100, warmup_steps=10, final_share=0.1)
    factors = [learning_rate_factor(step, schedule) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.1)
    assert stage_at(0, schedule).frames == 17
    assert stage_at(100, schedule).frames == 33


def test_bits_are_those_of_a_logistic_distribution():
    mean, log_scale = torch.tensor([0.3]), torch.tensor([-0.4])
    values = torch.arange(-30, 31).double()
    probability = 2 ** -logistic_bits(values, mean, log_scale)
    assert probability.sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("cuts", "strides", "later"),
    [((), (), ()), ((1, 3), (), ()), ((1, 3), (2, 1), ()), ((), (4, 2, 1), ()), ((1, 3), (2, 1), (4, 2, 1))],
    ids=[
        "together",
        "in groups",
        "in groups, from coarse to fine",
        "together, from coarse to fine",
        "all frames from coarse to fine",
    ],
)
def test_integers_cost_hardly_more_than_the_floats_they_come_from(cuts, strides, later):
    """A prior fitted to symbols that move and drift: its integer twin needs the same bits within 1 %."""
    torch.manual_seed(0)
    content = 6 * torch.randn(12, 4, 12, 12) + 3 * torch.randn(12, 4, 1, 1)
    content = torch.stack([content.roll(t // 2, 3) for t in range(9)], 2)  # every second frame moves
    walk = content + 0.7 * torch.randn(12, 4, 9, 12, 12).cumsum(2)
    anchors = torch.zeros(4, 4)
    levels = Levels.at(torch.linspace(0, 1, 12), anchors, anchors)
    prior = LatentPrior(4, 16, cuts, strides, later)
    vectors, aligned = prior.motion.vectors(walk), torch.rand(12, 8) < 0.5
    optimizer = torch.optim.Adam(prior.groups(5e-3))
    for _ in range(60):
        estimate = prior(prior.decoded(walk, vectors, aligned, levels), vectors, aligned, levels)
        logistic_bits(prior.quantized(walk, *estimate, vectors), *estimate).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    prior.requires_grad_(False)
    rounder = Rounder(prior)
    rounder.measure(walk[::2], aligned[::2], Levels.at(levels.place[::2], anchors, anchors))
    motion = rounded_motion(prior.motion, *torch.ones(2, 91, 4))
    clips = [
        CodedClip(s.permute(1, 0, 2, 3).numpy(), np.append(False, each), 10 + round(90 * place))
        for s, each, place in zip(walk, aligned.numpy(), levels.place.tolist(), strict=True)
    ]
    tables = fit_frequencies(rounder.tables(), motion, clips, period=9)
    integer, chosen, decoded = 0.0, [], []
    for clip in clips:
        coder = AlignedCoder(tables, motion, clip.level)
        plan = coder.choose(clip.scaled, (), clip.aligned)
        planes = [as_plane(frame, torch.device("cpu")) for frame in plan.symbols]
        wanted = [as_plane(frame, torch.device("cpu")) for frame in clip.scaled]
        pairs = zip(planes, wanted[1:], strict=False)
        chosen.append([coder.search(coder.motion.picture(a), b) for a, b in pairs])
        decoded.append((plan.symbols / 16).transpose(1, 0, 2, 3).astype(np.float32))
        integer += sum(
            coder.bits_of(*step[1:]).sum() for step in plan.steps if not isinstance(step[0], Beside)
        )
    fields, values = torch.from_numpy(np.array(chosen)).long(), torch.from_numpy(np.array(decoded))
    assert 0.05 < (fields == 0).all(2).float().mean() < 0.95  # some blocks move, some do not
    exact = logistic_bits(values, *prior(values, fields, aligned, levels)).sum().item()
    assert integer < 1.01 * exact
    restored = LatentPrior(4, 16, cuts, strides, later)
    restore_prior(restored, tables, motion, np.ones(4))
    again = logistic_bits(values, *restored(values, fields, aligned, levels)).sum().item()
    assert again == pytest.approx(exact, rel=0.005)


def test_lambda_grows_geometrically_with_the_level():
    objective = ObjectiveSection(lowest_lambda=0.001, highest_lambda=0.016)
    levels = torch.tensor([0, 0.25, 0.5, 1.0])
    assert lambda_of(levels, objective).tolist() == pytest.approx([0.001, 0.002, 0.004, 0.016])


def test_the_highest_quality_may_lie_below_the_highest_level_trained(config):
    coder = Coder(config)
    torch.nn.init.normal_(coder.log_gain)
    half = with_levels_up_to(0.5, coder)
    assert torch.allclose(half.levels(torch.ones(1)).gain, coder.levels(torch.tensor([0.5])).gain)
    assert torch.equal(half.levels(torch.zeros(1)).gain, coder.levels(torch.zeros(1)).gain)


def test_unrounded_latents_are_scaled_as_those_of_the_highest_level(config):
    torch.manual_seed(0)
    coder = Coder(config)
    for parameter in (coder.log_gain, coder.log_step, coder.autoencoder.encoder.head.weight):
        parameter.data += 0.3 * torch.randn(parameter.shape)
    video, place = torch.rand(1, 3, 9, 48, 48) * 2 - 1, torch.tensor([0.7])
    aligned = torch.tensor([[False, True]])

    def seen():
        latents, levels = coder.autoencoder.encode(video), coder.levels(place)
        symbols, vectors = (latents * levels.gain).round(), torch.full((1, 2, 2, 2, 2), 3)
        return symbols, symbols * levels.step, coder.prior.expected(symbols, vectors, aligned, levels)

    with torch.inference_mode():
        before = seen()
        scale_to_highest_level(coder)
        for found, wanted in zip(seen(), before, strict=True):
            assert torch.allclose(found, wanted, atol=1e-4)
        highest = coder.levels(torch.ones(1))
        assert torch.allclose(highest.gain * highest.step, torch.ones(1))


def test_a_run_may_start_from_another_model(config, tmp_path):
    from cvvae_cli.models.registry import Weights as ModelWeights
    from cvvae_cli.models.registry import find_model
    from cvvae_cli.train.loop import initialize, start_run

    sections = replace(config.model, latent_channels=32, fine_channels=96, coarse_channels=192)
    sections = replace(sections, encoder_blocks=(2, 3), decoder_blocks=(3, 3))
    run = start_run(replace(config, model=sections, start="compact-1"), tmp_path / "run", CPU)
    initialize(run, ClipSampler(find_sources(config.data.folders), config.data, 1))
    expected = ModelWeights(find_model("compact-1")).build().state_dict()
    for coder in (run.trainee, run.average):
        assert all(torch.equal(p, expected[n]) for n, p in coder.autoencoder.state_dict().items())


def test_rounding_passes_its_gradient_through():
    x = torch.tensor([0.2, 1.7], requires_grad=True)
    y = through(x, x.round())
    y.sum().backward()
    assert y.tolist() == [0, 2]
    assert x.grad.tolist() == [1, 1]


def test_residuals_count_from_the_mean_where_something_moves(monkeypatch):
    scaled, mean = torch.tensor([0.9, 0.9, 3.3, -1.2]), torch.tensor([0.4, 0.4, 0.4, 0.4])
    moves, log_scale = torch.tensor([True, False, True, False]), torch.zeros(4)
    found = quantized(scaled, mean, log_scale, moves)
    assert found.tolist() == pytest.approx([0.4, 1.0, 3.4, -1.0])
    monkeypatch.setattr("cvvae_cli.train.prior.PRICE", 1.0)
    dear = quantized(scaled, mean, log_scale - 2, moves)
    assert dear.tolist() == pytest.approx([0.4, 0.0, 2.4, 0.0])  # one nearer to what is expected


def test_a_tenth_less_counts_the_same_in_smooth_clips_and_in_rough_ones():
    objective = ObjectiveSection(samples="log")
    level, mse = torch.tensor([0.0, 0.5]), torch.tensor([0.004, 0.02])
    rate = torch.tensor([0.3, 1.2])
    losses = [
        mean_of_samples(rate * torch.tensor(share), mse * torch.tensor(share), level, objective).item()
        for share in ((1.0, 1.0), (0.9, 1.0), (1.0, 0.9))
    ]
    assert losses[1] == pytest.approx(losses[2], abs=0.003)
    assert losses[0] - losses[1] == pytest.approx(0.0527, abs=0.003)  # half of the logarithm of 0.9
    plain = mean_of_samples(rate[:1], mse[:1], level[:1], ObjectiveSection())
    weight = lambda_of(level[:1], objective)
    expected = (weight * 255**2 * mse[0] + rate[0]) * (objective.highest_lambda / weight).sqrt()
    assert plain.item() == pytest.approx(expected.item())


def test_the_first_frame_has_the_share_it_has_in_a_real_clip():
    video = torch.zeros(1, 3, 9, 16, 16)
    decoded, bits = video.clone(), torch.zeros(1, 2, 3, 2, 2)
    decoded[:, :, 0] = 0.2  # an error of 0.1 where pixels are in [0, 1]
    bits[:, :, 0] = 1
    rate, mse = rate_distortion(video, decoded, bits, ObjectiveSection(clip_frames=100))
    assert mse.tolist() == pytest.approx([0.01 / 100])
    assert rate.tolist() == pytest.approx([8 / 256 / 100])  # eight bits on 256 pixels of one of 100 frames
