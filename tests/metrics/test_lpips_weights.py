"""Where the trunks of LPIPS come from: fetched, checked, converted, kept; never executed."""

import hashlib
import http.server
import pickle
import threading
from functools import partial

import pytest
import torch
from lpips_trunks import random_frames, random_trunk

from cvvae_cli.errors import WeightsError
from cvvae_cli.metrics import METRICS, MetricOptions, Pair, available, lpips


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A server with a random trunk, named by its hash as torchvision does."""
    monkeypatch.setenv("CVVAE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(random_trunk("alex") | {"classifier.6.bias": torch.zeros(3)}, folder / "x.pth")
    digest = hashlib.sha256((folder / "x.pth").read_bytes()).hexdigest()
    path = (folder / "x.pth").rename(folder / f"alexnet-{digest[:8]}.pth")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{httpd.server_port}/{path.name}"
        monkeypatch.setitem(lpips.TRUNKS, "alex", address)
        yield path
        httpd.shutdown()


def lpips_of(options=None):
    metric = METRICS["lpips"](options or MetricOptions())
    metric.add(Pair(*random_frames()))
    return metric.value()


def test_a_trunk_is_fetched_once_and_kept_as_safetensors(published):
    value = lpips_of()
    published.unlink()
    assert lpips_of() == value
    kept = lpips.trunk_file("alex")
    assert kept.suffix == ".safetensors"
    assert {p.suffix for p in kept.parent.iterdir()} == {".safetensors", ".sha256"}
    assert len(lpips.trunk_hash("alex")) == 64


def test_a_trunk_that_rotted_in_the_cache_is_fetched_again(published):
    kept = lpips.trunk_file("alex")
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    assert lpips.trunk_file("alex").read_bytes() != bytes(data)


def test_a_trunk_that_is_not_what_its_name_says_is_refused(published):
    published.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="other bytes"):
        lpips.trunk_file("alex")


def test_a_given_file_is_used(published, tmp_path):
    value = lpips_of(MetricOptions(lpips_weights=published))
    assert value == lpips_of()


def test_no_pickle_is_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("CVVAE_CACHE", str(tmp_path / "cache"))

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"features.0.weight": Attack()}))
    with pytest.raises(WeightsError):
        METRICS["lpips"](MetricOptions(lpips_weights=tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02"])
def test_a_given_file_of_another_kind_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setenv("CVVAE_CACHE", str(tmp_path / "cache"))
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError):
            METRICS["lpips"](MetricOptions(lpips_weights=tmp_path / name))


def test_the_wrong_network_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CVVAE_CACHE", str(tmp_path / "cache"))
    torch.save(random_trunk("alex"), tmp_path / "alex.pth")
    with pytest.raises(WeightsError, match="trunk vgg"):
        METRICS["lpips_vgg"](MetricOptions(lpips_weights=tmp_path / "alex.pth"))


def test_offline_the_column_stays_empty_and_one_line_says_why(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CVVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(lpips.TRUNKS, "alex", "http://127.0.0.1:1/alexnet-owt-7be5be79.pth")
    assert available(["psnr_db", "lpips"], MetricOptions()) == ("psnr_db",)
    (record,) = caplog.records
    assert "--lpips-weights" in record.getMessage()
