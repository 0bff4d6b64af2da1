"""Downloads from a local server that breaks off, refuses, or sends something else."""

import hashlib
import http.server
import socket
import threading
from typing import ClassVar

import numpy as np
import pytest

from cvvae_cli import download as fetching
from cvvae_cli.download import download
from cvvae_cli.errors import DownloadError

DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves DATA; /cut breaks off after 100,000 bytes each time, /always before the first."""

    requests: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self):
        asked = self.headers.get("Range")
        self.requests.append((self.path, asked))
        if self.path == "/missing":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(DATA):
            self.send_error(416)
            return
        body = DATA[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        most = {"/cut": 100_000, "/always": 0}.get(self.path, len(body))
        self.wfile.write(body[:most])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_file_is_fetched_and_checked(server, tmp_path):
    seen = []
    target = tmp_path / "deep" / "file"
    assert download(f"{server}/file", target, sha256=SHA256, on_bytes=lambda *b: seen.append(b)) == SHA256
    assert target.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert list(target.parent.iterdir()) == [target]


def test_a_broken_connection_is_continued(server, tmp_path):
    download(f"{server}/cut", tmp_path / "file", sha256=SHA256, pause_seconds=0)
    assert (tmp_path / "file").read_bytes() == DATA
    assert [asked for _, asked in Server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_what_an_earlier_attempt_left_is_continued(server, tmp_path):
    (tmp_path / "file.part").write_bytes(DATA[:1234])
    download(f"{server}/file", tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == DATA
    assert Server.requests == [("/file", "bytes=1234-")]


def test_a_part_that_is_whole_already_is_taken(server, tmp_path):
    (tmp_path / "file.part").write_bytes(DATA)
    assert download(f"{server}/file", tmp_path / "file", sha256=SHA256) == SHA256


def test_a_server_that_sends_nothing_is_given_up(server, tmp_path):
    with pytest.raises(DownloadError, match="broke off"):
        download(f"{server}/always", tmp_path / "file", pause_seconds=0)
    assert len(Server.requests) == 3


def test_other_bytes_than_expected_are_not_kept(server, tmp_path):
    for expected in ({"sha256": "0" * 64}, {"sha256_prefix": "0123"}):
        with pytest.raises(DownloadError, match="other bytes"):
            download(f"{server}/file", tmp_path / "file", **expected)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_said_at_once(server, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        download(f"{server}/missing", tmp_path / "file")
    assert len(Server.requests) == 1


def test_a_refused_connection_is_one_sentence(tmp_path):
    with pytest.raises(DownloadError, match="refused"):
        download("http://127.0.0.1:1/file", tmp_path / "file")


def test_a_server_that_does_not_answer_is_given_up_within_five_seconds(tmp_path, monkeypatch):
    assert fetching.CONNECT_SECONDS < 5
    monkeypatch.setattr(fetching, "CONNECT_SECONDS", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DownloadError, match="no answer"):
            download(f"http://127.0.0.1:{silent.getsockname()[1]}/file", tmp_path / "file")
