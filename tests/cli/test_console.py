"""What is shown of a job while it runs."""

import io

import pytest
from rich.console import Console

from cvvae_cli.cli import console
from cvvae_cli.types import Progress


@pytest.fixture(params=[False, True])
def shown(request, monkeypatch):
    """What goes to stderr: lines, or a terminal."""
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, force_terminal=request.param, width=100))
    monkeypatch.setattr(console, "LOG_EVERY_SECONDS", 0)
    return text


@pytest.mark.parametrize(("total", "after"), [(60, "45/60"), (None, "45"), (1, "45")])
def test_a_number_of_frames_that_was_wrong_is_shown_no_longer(shown, total, after):
    assert Progress(45, total).believed_total == (total if after == "45/60" else None)
    with console.progress("encode") as listen:
        listen(Progress(1, total))
        listen(Progress(45, total))
    assert after in shown.getvalue()
    assert "45/1 " not in shown.getvalue()
