"""`cvvae bench` and `cvvae compare` as a user runs them, and the page they make."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from tiny import moving_picture

from cvvae_cli.bench.compare import Alignment, compare
from cvvae_cli.bench.contenders import Contender, ModelContender, PeerContender
from cvvae_cli.bench.dataset import Clip, Protocol, Source
from cvvae_cli.bench.run import Job, run
from cvvae_cli.engine.device import choose_placement
from cvvae_cli.errors import CvvaeError, MismatchError
from cvvae_cli.metrics import METRICS, MetricOptions
from cvvae_cli.video.reader import open_source

QUICK = ("--metrics", "psnr_db,psnr_db_pooled,ssim,flicker,seam", "--dtype", "fp32")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ROW_KEYS = {
    *[
        "clip",
        "model",
        "quality",
        "frames",
        "width",
        "height",
        "bits_per_pixel",
        "payload_bits_per_pixel",
        "psnr_db",
    ],
    *["psnr_db_pooled", "ssim", "flicker", "encode_fps", "decode_fps", "peak_memory_bytes"],
}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CVVAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def dataset(tmp_path, lossless):
    (tmp_path / "set").mkdir()
    lossless(moving_picture(21, 96, 64), "set/waves.mkv")
    lossless(moving_picture(5, 64, 64, seed=2), "set/more.mkv")
    return tmp_path / "set"


def test_a_bench_prints_one_line_of_json_with_protocol_rows_and_summary(cvvae, dataset):
    done = cvvae(
        "bench", "--dataset", dataset, "-q", "2,9", "--baseline", "x264:medium:20,30,40", *QUICK, "--json"
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    rows = found["rows"]
    assert [(r["clip"], r["model"], r["quality"]) for r in rows[:5]] == [
        ("more.mkv", "compact-18", 2),
        ("more.mkv", "compact-18", 9),
        *(("more.mkv", "x264:medium", crf) for crf in (20, 30, 40)),
    ]
    assert all(set(row) >= ROW_KEYS for row in rows)
    waves = [row for row in rows if row["clip"] == "waves.mkv"]
    assert waves[0]["psnr_db"] < waves[1]["psnr_db"]
    assert waves[0]["bits_per_pixel"] < waves[1]["bits_per_pixel"]
    assert waves[2]["psnr_db"] > waves[3]["psnr_db"] > waves[4]["psnr_db"] > 20
    for row in rows:
        assert row["bits_per_pixel"] * row["frames"] * row["width"] * row["height"] == pytest.approx(
            row["file_bytes"] * 8, rel=1e-4
        )
        assert 0 < row["payload_bits_per_pixel"] < row["bits_per_pixel"]
        assert row["psnr_db_pooled"] <= row["psnr_db"] + 1e-6
    protocol = found["protocol"]
    assert protocol["versions"]["cvvae"]
    assert protocol["metric_versions"]["psnr_db"] == 1
    assert found["summary"]["reference"] == "x264:medium"
    assert found["summary"]["bd"][0]["bd_rate"] is not None
    means = {(row["model"], row["quality"]): row["psnr_db"] for row in found["summary"]["means"]}
    assert means["compact-18", 9] == pytest.approx(np.mean([r["psnr_db"] for r in rows if r["quality"] == 9]))


def test_figures_are_those_of_encode_and_decode(cvvae, dataset):
    row = json.loads(cvvae("bench", "--dataset", dataset / "waves.mkv", "-q", "5", *QUICK, "--ndjson").stdout)
    cvvae("encode", dataset / "waves.mkv", "x.cvl", "-q", "5", "--dtype", "fp32")
    cvvae("decode", "x.cvl", "x.mkv", "--codec", "ffv1", "--dtype", "fp32")
    compared = json.loads(cvvae("compare", dataset / "waves.mkv", "x.mkv", "--json").stdout)
    assert compared["psnr_db"] == pytest.approx(row["psnr_db"], abs=1e-4)
    assert compared["ssim"] == pytest.approx(row["ssim"], abs=1e-5)


def test_what_was_measured_is_not_measured_again(dataset, tmp_path, monkeypatch):
    from cvvae_cli.bench.cache import RowCache

    placement = choose_placement("cpu", "fp32")
    measured = []
    encode = PeerContender.encode
    monkeypatch.setattr(
        PeerContender,
        "encode",
        lambda self, clip, path, setting: (measured.append(setting), encode(self, clip, path, setting))[1],
    )

    def bench(crfs, metrics=("psnr_db",), frames=None):
        peers = [PeerContender("x264", "medium", crfs)]
        sources = [Source(path, path.name) for path in sorted(dataset.iterdir())]
        job = Job(
            sources, Protocol(frames=frames), peers, metrics, MetricOptions(), {}, RowCache(tmp_path / "rows")
        )
        measured.clear()
        results = run(job, on_clip=lambda name: None)
        return results, len(measured)

    first, count = bench([30.0])
    assert (count, first.measured) == (2, 2)
    again, count = bench([30.0])
    assert (count, again.measured) == (0, 0)
    assert again.rows == first.rows
    assert again.entries[0].pictures == first.entries[0].pictures
    assert bench([30.0, 35.0])[1] == 2  # only what is missing
    assert bench([30.0], metrics=("psnr_db", "ssim"))[1] == 2
    assert bench([30.0], frames=3)[1] == 2
    monkeypatch.setattr(METRICS["psnr_db"], "version", 2)
    assert bench([30.0])[1] == 2
    (dataset / "waves.mkv").rename(dataset / "renamed.mkv")  # the pixels decide, not the name
    renamed, count = bench([30.0])
    assert count == 0
    assert {row["clip"] for row in renamed.rows} == {"more.mkv", "renamed.mkv"}
    for path in (tmp_path / "rows").glob("*.json"):
        path.write_text("{")
    assert bench([30.0])[1] == 2  # damaged entries are made anew
    assert placement.device.type == "cpu"


def test_an_unreadable_clip_is_skipped_counted_and_fails_the_command(cvvae, dataset):
    (dataset / "broken.mp4").write_bytes(b"nothing")
    command = ("bench", "--dataset", dataset, "--baseline", "x264:medium:30", *QUICK, "--json")
    done = cvvae(*command)
    assert done.returncode == 1
    assert "broken.mp4" in done.stderr
    found = json.loads(done.stdout)
    assert len(found["rows"]) == 4
    assert [failure["clip"] for failure in found["failures"]] == ["broken.mp4"]
    assert cvvae(*command, "--keep-going").returncode == 0


def test_fail_under_sets_the_exit_code(cvvae, dataset):
    command = ("bench", "--dataset", dataset / "more.mkv", *QUICK)
    assert cvvae(*command, "--fail-under", "psnr=5", "--fail-under", "bpp=50").returncode == 0
    for limit, word in (("psnr=99", "below"), ("flicker=0", "above"), ("lpips=0.5", "not known")):
        done = cvvae(*command, "--fail-under", limit)
        assert done.returncode == 1
        assert word in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--baseline", "h267"), "no baseline"),
        (("--baseline", "x264:warp"), "no preset"),
        (("--baseline", "x264:medium:a,b"), "no list of numbers"),
        (("--reference", "x264"), "not measured"),
        (("--metrics", "beauty"), "no metric"),
        (("--protocol", "imagenet"), "no protocol"),
        (("--quality", "11"), "no quality"),
        (("--quality", "nan"), "no quality"),
        (("--resize", "9" * 12), "too large"),
        (("--fail-under", "beauty=3"), "no figure"),
        (("--model", "nonsense"), "no model"),
        (("--json", "--ndjson"), "exclude"),
    ],
)
def test_wrong_options_are_one_sentence(cvvae, dataset, options, message):
    done = cvvae("bench", "--dataset", dataset, *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_existing_report_is_not_overwritten(cvvae, dataset, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("mine")
    done = cvvae("bench", "--dataset", dataset, "--report", "out")
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert (tmp_path / "out" / "index.html").read_text() == "mine"


@pytest.fixture
def page(cvvae, dataset, tmp_path):
    done = cvvae(
        *("bench", "--dataset", dataset, "-q", "2,5,9", "--baseline", "x264:medium:20,30,40", *QUICK),
        *("--report", "out", "--csv", "rows.csv"),
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "out" / "index.html"


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name.rpartition(":")[2] in ("src", "href", "srcset", "data", "action", "poster") and value:
                self.found.append(value)


def test_the_page_is_whole_in_itself(page):
    text = page.read_text()
    links = Links()
    links.feed(text)
    assert len(links.found) > 6
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links.found)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))
    assert not re.search(r"@import|fetch\(|XMLHttpRequest|import\(|<link|<script[^>]+src", text)
    assert text.count("<svg") == 4  # two clips, a curve and frames each
    assert r"\begin{tabular}" in text
    assert "| compact-18 | 5 |" in text
    assert {p.name for p in page.parent.iterdir()} == {"index.html", "results.json", "results.csv"}
    assert len(json.loads((page.parent / "results.json").read_text())["per_frame"]) == 12
    assert len((page.parent.parent / "rows.csv").read_text().splitlines()) == 13


PROBE = """<pre id="probe"></pre><script>
addEventListener('load', () => document.getElementById('probe').textContent = JSON.stringify({
  requests: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')),
  pictures: [...document.images].map(image => image.naturalWidth),
  plots: [...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().width),
  overflow: document.documentElement.scrollWidth - innerWidth,
  slider: (() => { const s = document.querySelector('.slider'), i = s.querySelector('input');
    i.value = 10; i.dispatchEvent(new Event('input')); return s.style.getPropertyValue('--at'); })(),
}));
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_pictures_and_plots_and_asks_the_network_for_nothing(page, tmp_path, width):
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path / 'chromium'}", f"--window-size={width},2000"),
            *("--virtual-time-budget=5000", "--dump-dom", probed.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    assert found["requests"] == []
    assert len(found["pictures"]) == 2 * (3 + 2)
    assert min(found["pictures"]) >= 64
    assert len(found["plots"]) == 4
    assert min(found["plots"]) > 200
    assert found["overflow"] <= 0
    assert found["slider"] == "10%"


def test_every_contender_gives_back_all_frames_of_an_odd_size(tmp_path, lossless):
    clip = Clip(Source(lossless(moving_picture(6, 51, 37)), "odd"), Protocol())
    placement = choose_placement("cpu", "fp32")
    contenders: list[Contender] = [
        *(
            PeerContender(kind, preset, None)
            for kind, preset in (("x264", "fast"), ("x265", "fast"), ("vp9", "5"))
        ),
        ModelContender("compact", None, placement),
        ModelContender("linear-1", (10,), placement),
    ]
    for contender in contenders:
        path = tmp_path / f"clip{contender.suffix}"
        contender.load()
        contender.encode(clip, path, contender.settings[0])
        decoded = np.concatenate([batch.rgb for batch in contender.decode(path)])
        assert decoded.shape == (6, 37, 51, 3), contender.name
        assert np.abs(decoded.astype(int) - moving_picture(6, 51, 37)).mean() < 25, contender.name


def test_equal_videos_compare_as_perfect(cvvae, clip):
    found = json.loads(cvvae("compare", clip, clip, "--json").stdout)
    assert (found["psnr_db"], found["ssim"], found["flicker"], found["shift_frames"]) == (None, 1, 0, 0)
    assert "inf" in cvvae("compare", clip, clip).stdout


@pytest.mark.parametrize("shift", [-3, -1, 1, 2])
def test_a_shifted_clip_is_caught(cvvae, lossless, shift):
    frames = moving_picture(24, 64, 48)
    start, stop = max(0, shift), min(0, shift) or None
    late = lossless(frames[: len(frames) - abs(shift)], "late.mkv")
    early = lossless(frames[abs(shift) :], "early.mkv")
    first, second = (early, late) if shift > 0 else (late, early)
    done = cvvae("compare", first, second, "--json")
    assert json.loads(done.stdout)["shift_frames"] == shift
    assert f"{abs(shift)} frames {'late' if shift > 0 else 'early'}" in done.stderr
    assert (start, stop) is not None


def test_a_still_clip_has_no_shift():
    alignment = Alignment()
    for _ in range(8):
        alignment.add(np.full((48, 64, 3), 100, np.uint8), np.full((48, 64, 3), 101, np.uint8))
    assert alignment.best_shift() == 0


def test_sizes_and_lengths_that_differ_are_said_with_the_numbers(cvvae, clip, lossless):
    other = lossless(moving_picture(9, 64, 64), "other.mkv")
    longer = lossless(moving_picture(12, 64, 48), "longer.mkv")
    done = cvvae("compare", clip, other)
    assert (done.returncode, done.stdout) == (1, "")
    assert "64x48 and 64x64" in done.stderr
    done = cvvae("compare", clip, longer)
    assert done.returncode == 1
    assert "the second video has 12 frames, the other 9: 3 fewer" in done.stderr
    with pytest.raises(MismatchError):
        compare(longer, clip, ["psnr_db"], MetricOptions())


def test_frames_are_counted_not_guessed_from_a_duration(cvvae, lossless):
    frames = moving_picture(9, 64, 48)
    steady = lossless(frames, "steady.mkv")
    slow = lossless(frames, "slow.mkv", np.arange(9) ** 2 * 20)
    with open_source(slow) as video:
        assert video.info.num_frames != 9, "Matroska says how long it lasts, not how many frames it has"
    done = cvvae("compare", slow, steady, "--json")
    assert (done.returncode, json.loads(done.stdout)["frames"]) == (0, 9)


def test_a_comparison_has_a_page_too(cvvae, clip, tmp_path, lossless):
    worse = lossless((moving_picture(9, 64, 48) // 32 * 32).astype(np.uint8), "worse.mkv")
    assert cvvae("compare", clip, worse, "--report", "page").returncode == 0
    text = (tmp_path / "page" / "index.html").read_text()
    assert "<svg" in text
    assert text.count("data:image/jpeg") == 3
    assert cvvae("compare", clip, worse, "--report", "page").returncode == 1


def test_errors_of_a_bench_are_of_the_family():
    assert issubclass(MismatchError, CvvaeError)
