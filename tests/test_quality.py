"""Quality levels, and the level that reaches a target."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from tiny import batches_of, moving_picture
from video.sources import Kind, write_source

from cvvae_cli.bitstream import cosine_choice
from cvvae_cli.bitstream.chunk import cut
from cvvae_cli.bitstream.flow import worthless
from cvvae_cli.codec import decode_file, encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine.device import choose_placement
from cvvae_cli.engine.load import make_engine
from cvvae_cli.errors import ConfigError
from cvvae_cli.latents import bits_by_channel, latent_coder, model_of
from cvvae_cli.metrics.psnr import psnr
from cvvae_cli.models.registry import Weights, find_model
from cvvae_cli.options import DecodeOptions, EncodeOptions, Target
from cvvae_cli.targets import Trial, bits_of_details, encoded, first_reaching, take_clips
from cvvae_cli.video.reader import open_source
from cvvae_cli.video.writer import OutputOptions

OPTIONS = EncodeOptions(model="compact-2", device="cpu", dtype="fp32", force=True)


@pytest.fixture
def clip(tiny, lossless):
    """Of waves: the tiny models are too random to show quality, the shipped one does."""
    return lossless(moving_picture(60, 64, 48, seed=11))


def encode(clip, tmp_path, **options):
    report = encode_file(clip, tmp_path / "out.cvl", replace(OPTIONS, **options))
    output = OutputOptions(codec="ffv1")
    decode_file(tmp_path / "out.cvl", tmp_path / "out.mkv", DecodeOptions(output=output, force=True))
    with open_source(clip) as a, open_source(tmp_path / "out.mkv") as b:
        quality = psnr(np.concatenate([x.rgb for x in a]), np.concatenate([x.rgb for x in b])).mean()
    return report, quality


def test_more_quality_is_more_bits_and_a_better_picture(clip, tmp_path):
    results = [encode(clip, tmp_path, quality=q) for q in (1, 4, 7, 10)]
    rates = [report.bits_per_pixel for report, _ in results]
    assert rates == sorted(rates)
    assert len(set(rates)) == 4
    qualities = [quality for _, quality in results]
    assert qualities == sorted(qualities)


def test_the_level_is_kept_in_the_file_and_reported(clip, tmp_path):
    report, _ = encode(clip, tmp_path, quality=6.3)
    assert report.quality == 6.3
    with open_cvl(tmp_path / "out.cvl") as cvl:
        assert cvl.header.level == 63
    assert encode(clip, tmp_path)[0].quality == 3.0  # the model's own choice


@pytest.mark.parametrize(("model", "quality"), [("compact-2", 0.5), ("compact-2", 10.1), ("compact-1", 5)])
def test_a_quality_that_is_not_there_is_refused(clip, tmp_path, model, quality):
    with pytest.raises(ConfigError):
        encode_file(clip, tmp_path / "out.cvl", replace(OPTIONS, model=model, quality=quality))
    assert not (tmp_path / "out.cvl").exists()


def test_a_target_of_bits_is_kept_and_used_up(clip, tmp_path):
    low, high = (encode(clip, tmp_path, quality=q)[0].bits_per_pixel for q in (2, 9))
    for wanted in np.linspace(low, high, 3):
        report, _ = encode(clip, tmp_path, target=Target(bits_per_pixel=float(wanted)))
        assert 0.7 * wanted < report.bits_per_pixel < 1.15 * wanted


def test_a_target_of_psnr_is_reached(clip, tmp_path):
    low, high = (encode(clip, tmp_path, quality=q)[1] for q in (2, 9))
    wanted = (low + high) / 2
    _, quality = encode(clip, tmp_path, target=Target(psnr_db=float(wanted)))
    assert abs(quality - wanted) < 0.5


def test_a_target_of_size_counts_the_sound(tiny, tmp_path):
    source = write_source(tmp_path / "sound.mp4", Kind("mp4", "libx264", False, 2, 0, 8))
    free = encode_file(source, tmp_path / "out.cvl", replace(OPTIONS, quality=5)).output_bytes
    report = encode_file(source, tmp_path / "out.cvl", replace(OPTIONS, target=Target(size_bytes=free + 300)))
    assert report.output_bytes <= 1.02 * (free + 300)
    assert report.quality > 4
    with pytest.raises(ConfigError, match="no quality is that small"):
        encode_file(source, tmp_path / "out.cvl", replace(OPTIONS, target=Target(size_bytes=1000)))


def test_a_target_out_of_reach_is_refused(clip, tmp_path):
    for target in (Target(psnr_db=99.0), Target(bits_per_pixel=1e-6)):
        with pytest.raises(ConfigError, match="no quality"):
            encode_file(clip, tmp_path / "out.cvl", replace(OPTIONS, target=target))
    with pytest.raises(ConfigError, match="chooses the quality"):
        encode_file(clip, tmp_path / "out.cvl", replace(OPTIONS, target=Target(psnr_db=30.0), quality=3))


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_is_no_quality_and_no_target(clip, tmp_path, number):
    for asked in (
        {"quality": number},
        {"target": Target(psnr_db=number)},
        {"target": Target(bits_per_pixel=number)},
    ):
        with pytest.raises(ConfigError, match=r"no quality|finite"):
            encode_file(clip, tmp_path / "out.cvl", replace(OPTIONS, **asked))
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("power", [0.2, 0.5, 1, 2, 5])
@pytest.mark.parametrize("slope", [1e-3, 0.05, 20])
@pytest.mark.parametrize(("guess", "within"), [(55, 1), (10, 1), (100, 4), (55, 4)])
def test_the_search_finds_the_border(power, slope, guess, within):
    """Of values that rise straight or not, whatever was believed of how much they do."""
    tried = []

    def margin(level, border):
        tried.append(level)
        return level**power - (border - 0.3) ** power

    for border in (*range(10, 16), 55, *range(96, 101)):
        tried.clear()
        found = first_reaching(range(10, 101), partial(margin, border=border), guess, slope, within)
        assert border <= found < border + within
        assert len(tried) == len(set(tried)) <= 14
    assert first_reaching(range(10, 101), lambda _: -1.0, guess, slope, within) is None
    assert first_reaching(range(10, 101), lambda _: 0.0, guess, slope) == 10


def test_of_values_that_rise_as_expected_few_are_tried():
    tried = []
    found = first_reaching(range(10, 101), lambda n: tried.append(n) or 0.053 * (n - 71.4), 55, 0.05)
    assert found == 72
    assert len(tried) <= 4


def test_the_bits_of_the_channels_are_those_of_the_file(clip, tmp_path):
    encode(clip, tmp_path, quality=7)
    with open_cvl(tmp_path / "out.cvl") as cvl:
        bits = bits_by_channel(cvl, model_of(cvl.header)[1])
        coded, chunks = 8 * cvl.symbol_bytes(), len(cvl.index)
    assert abs(coded - bits.sum()) <= 0.01 * coded + 64 * chunks


def test_periods_encoded_apart_give_the_bytes_of_the_whole(tmp_path, tiny, lossless):
    """Several machines may each take some periods: the coder is fresh there, the network starts before."""
    rgb = moving_picture(130, 64, 48, seed=3)
    spec = find_model("compact-2")
    encode_file(lossless(rgb), tmp_path / "out.cvl", OPTIONS)
    with open_cvl(tmp_path / "out.cvl") as cvl:
        whole = [cvl.read_chunk(number).symbols for number in range(len(cvl.index))]
        header = cvl.header
    per_period, context = spec.period // spec.chunk_latents, -(-spec.encode_context // spec.chunk_latents)
    weights = Weights(spec)
    for start in range(0, len(whole), per_period):
        engine = make_engine(spec, weights.build, choose_placement("cpu", "fp32"))
        first = max(0, start - context)
        frame = spec.geometry.frames_of(range(first * spec.chunk_latents, 10**6)).start
        stop = spec.geometry.frames_of(range((start + per_period) * spec.chunk_latents)).stop
        chunks = engine.encode_stream(batches_of(rgb[frame:stop]), first * spec.chunk_latents)
        coder = latent_coder(header, weights)
        for number, chunk in enumerate(chunks, first):
            if number >= start:
                assert coder.encode(number * spec.chunk_latents, chunk.latents) == whole[number], number


def test_samples_are_spread_over_a_clip_whatever_its_container_tells(tiny, lossless):
    source = lossless(moving_picture(160, 48, 32, seed=12))
    assert source.suffix == ".mkv"
    spec = find_model("tiny-6")
    engine = make_engine(spec, Weights(spec).build, choose_placement("cpu", "fp32"))
    with open_source(source) as video:
        clips, frames = take_clips(video, engine)
    assert frames == 160
    assert [len(clip) for clip in clips] == [45, 45, 45]
    first, second, third = (clip.pts[0] // 40 for clip in clips)
    assert 0 < first < second < third


def test_a_clip_much_shorter_than_its_container_tells_is_sampled_all_the_same(tiny, lossless):
    spec = find_model("tiny-6")
    engine = make_engine(spec, Weights(spec).build, choose_placement("cpu", "fp32"))
    with open_source(lossless(moving_picture(9, 48, 32))) as video:
        video.info = replace(video.info, num_frames=100_000)
        clips, frames = take_clips(video, engine)
    assert frames == 9
    assert [len(clip) for clip in clips] == [9]


def test_what_a_linked_period_takes_is_expected_of_samples(tiny, lossless, monkeypatch):
    """Of a clip whose periods may be linked an estimate is lower than if each began fresh."""
    source = lossless(moving_picture(160, 48, 32, seed=12))
    spec = find_model("tiny-7")
    weights = Weights(spec)
    engine = make_engine(spec, weights.build, choose_placement("cpu", "fp32"))
    with open_source(source) as video:
        clips, frames = take_clips(video, engine)
    samples = [encoded(clip, engine, None) for clip in clips]
    linked, fresh = (Trial(samples, frames, engine, weights) for _ in range(2))
    monkeypatch.setattr(Trial, "_link", lambda *_: (True, 0.0))
    least = linked.bits_per_pixel(50)
    monkeypatch.undo()
    monkeypatch.setattr(type(fresh._coder(50)), "links", False)
    assert least < fresh.bits_per_pixel(50)


def test_what_samples_need_counts_the_vectors_of_aligned_groups(tiny, lossless, tmp_path):
    source = lossless(moving_picture(17, 64, 48, seed=11))
    encode_file(source, tmp_path / "out.cvl", replace(OPTIONS, model="tiny-6"))
    spec = find_model("tiny-6")
    weights = Weights(spec)
    engine = make_engine(spec, weights.build, choose_placement("cpu", "fp32"))
    with open_source(source) as video:
        clips, frames = take_clips(video, engine)
    samples = [encoded(clip, engine, worthless(spec.default_level)) for clip in clips]
    trial = Trial(samples, frames, engine, weights)
    with open_cvl(tmp_path / "out.cvl") as cvl:
        moved = sum(len(cut(cvl.read_chunk(number).symbols)[0]) for number in range(len(cvl.index)))
        assert moved > 0
        assert trial.bits_of_fields * (cvl.num_latents - 1) == pytest.approx(8 * moved)


def test_samples_are_coded_as_the_clip_is(tiny, lossless, tmp_path):
    """Of a clip that is one sample: chunk by chunk, each frame with those that follow it in its chunk."""
    source = lossless(moving_picture(45, 64, 48, seed=11))
    encode_file(source, tmp_path / "out.cvl", replace(OPTIONS, quality=4))
    spec = find_model("compact-2")
    weights = Weights(spec)
    engine = make_engine(spec, weights.build, choose_placement("cpu", "fp32"))
    with open_source(source) as video:
        clips, frames = take_clips(video, engine)
    sample = encoded(clips[0], engine, None)
    trial = Trial([sample], frames, engine, weights)
    coder = trial._coder(40)
    opening = trial._opening(coder, sample, 40)
    plans = [chunk.plan for chunk in trial._coded(coder, sample, 40)]
    with open_cvl(tmp_path / "out.cvl") as cvl:
        chunks = latent_coder(cvl.header, weights).chunks
        for number, plan in enumerate(plans):
            data = cvl.read_chunk(number).symbols
            assert np.array_equal(chunks.decode(4 * number, data, plan.symbols.shape), plan.symbols)
    assert np.array_equal(opening.symbols[0], plans[0].symbols[0])


def test_samples_hold_the_detail_of_the_clip(tiny, lossless, tmp_path, monkeypatch):
    """Of a clip that is one sample: as many bits, and pictures as sharp."""
    monkeypatch.setattr(cosine_choice, "LAST_PRICE", cosine_choice.FIRST_PRICE)
    rgb = moving_picture(45, 64, 48, seed=11)
    source, options = lossless(rgb), replace(OPTIONS, model="tiny-8", quality=7, align=False)
    encode_file(source, tmp_path / "out.cvl", options)
    decode_file(tmp_path / "out.cvl", tmp_path / "out.mkv", DecodeOptions(output=OutputOptions(codec="ffv1")))
    spec = find_model("tiny-8")
    weights = Weights(spec)
    engine = make_engine(spec, weights.build, choose_placement("cpu", "fp32"))
    with open_source(source) as video:
        clips, frames = take_clips(video, engine)
    trial = Trial([encoded(clips[0], engine, None, details=True)], frames, engine, weights)
    with open_cvl(tmp_path / "out.cvl") as cvl:
        details = [len(cut(cut(cvl.read_chunk(n).symbols)[1])[0]) for n in range(len(cvl.index))]
    found = trial._coded(trial._coder(70), trial.samples[0], 70, details=True)
    assert [chunk.detail_bits for chunk in found[:2]] == [8 * size for size in details[:2]]
    assert min(details) > 0
    with open_source(tmp_path / "out.mkv") as video:
        decoded = np.concatenate([batch.rgb for batch in video])
    assert trial.psnr_db(70) == pytest.approx(psnr(rgb, decoded).mean(), abs=0.1)


def test_detail_begins_anew_as_often_as_periods_do():
    samples = [[(100, 4), (10, 4), (20, 4)], [(300, 4), (30, 4)]]
    assert bits_of_details(samples, 1, 4) == 200
    assert bits_of_details(samples, 2, 48) == 2 * 200 + 10 * 20
    assert bits_of_details([[(50, 4)]], 1, 12) == 150


def test_a_chunk_that_is_cut_counts_as_much_as_it_is():
    samples = [[(100, 4), (40, 4), (40, 4)], [(100, 4), (10, 1)]]
    assert bits_of_details(samples, 1, 16) == 100 + 12 * 10


def test_the_highest_level_with_detail_is_found_by_few_decodes():
    """Of a made-up clip: latents take as many bits as the level says, detail more than in proportion."""
    trial = Trial.__new__(Trial)
    trial.levels, decoded = range(10, 101), []
    trial.bits_of_latents = lambda level: level / 1000
    trial.bits_of_detail = lambda level: decoded.append(level) or level**3 / 1e7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "has_details", True)
        for most in np.linspace(0.005, 0.25, 30):
            decoded.clear()
            best = [level for level in trial.levels if level / 1000 + level**3 / 1e7 <= most]
            assert trial.highest_level(most, 55) == (best[-1] if best else None)
            assert len(decoded) == len(set(decoded)) <= 7
