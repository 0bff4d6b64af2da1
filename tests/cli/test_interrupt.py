"""An interrupt that a library swallows, or makes an error of, still ends a command with exit code 130."""

import signal
import subprocess
import sys

import pytest

from cvvae_cli.cli import app, console, interrupt
from cvvae_cli.errors import UnreadableSourceError
from cvvae_cli.types import Progress


@pytest.fixture(autouse=True)
def interruptible():
    """Shells start what runs in the background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallow_an_interrupt():
    """As a callback of a library does, out of which no exception comes."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        return
    pytest.fail("no interrupt was raised")


def test_progress_raises_an_interrupt_that_was_swallowed():
    with interrupt.noticed(), console.progress("encode") as on_progress:
        on_progress(Progress(1, 2))
        swallow_an_interrupt()
        with pytest.raises(KeyboardInterrupt):
            on_progress(Progress(2, 2))


class Panic(BaseException):
    """What libraries in Rust raise where they cannot go on: no Exception."""


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        UnreadableSourceError("the source cannot be read"),
        OSError("cut"),
        Panic("no array"),
    ],
)
def test_what_fails_after_an_interrupt_was_interrupted(error, monkeypatch, capsys):
    def command(**_):
        swallow_an_interrupt()
        raise error

    monkeypatch.setattr(app, "app", command)
    assert app.main() == app.INTERRUPTED
    assert "error" not in capsys.readouterr().err


def test_an_interrupt_is_forgotten_with_the_command_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGINT)
    with interrupt.noticed():
        swallow_an_interrupt()
        assert interrupt.was_noticed()
    assert signal.getsignal(signal.SIGINT) is before
    with interrupt.noticed():
        assert not interrupt.was_noticed()


def test_a_panic_without_an_interrupt_is_shown(monkeypatch):
    def command(**_):
        raise Panic("no array")

    monkeypatch.setattr(app, "app", command)
    with pytest.raises(Panic):
        app.main()


CALLS_OF_THE_FIRST_ARRAY = """
import sys
import constriction
import numpy as np
import cvvae_cli.bitstream.residuals
calls, weights = [], np.ones(3)
sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
constriction.stream.model.Categorical(weights, perfect=False, lazy=False)
sys.setprofile(None)
print(calls)
"""


def test_the_entropy_coder_runs_no_python_in_which_an_interrupt_would_be_a_panic():
    done = subprocess.run([sys.executable, "-c", CALLS_OF_THE_FIRST_ARRAY], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
