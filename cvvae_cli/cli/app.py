"""The command `cvvae`: one file per command, errors and exit codes here."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from cvvae_cli import __version__
from cvvae_cli.cli import console, interrupt
from cvvae_cli.cli.bench import bench
from cvvae_cli.cli.compare import compare
from cvvae_cli.cli.compat import compat
from cvvae_cli.cli.decode import decode
from cvvae_cli.cli.encode import encode
from cvvae_cli.cli.export import export, import_
from cvvae_cli.cli.info import info
from cvvae_cli.cli.preview import preview
from cvvae_cli.cli.repair import repair
from cvvae_cli.cli.train import train
from cvvae_cli.cli.verify import verify
from cvvae_cli.cli.weights import app as weights
from cvvae_cli.errors import CvvaeError

DONE, FAILED, INTERRUPTED = 0, 1, 130

app = typer.Typer(
    name="cvvae",
    help="Neural video compression: videos to latents in .cvl files, and back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (encode, decode, info, verify, repair, preview, export, bench, compare, compat, train):
    app.command()(command)
app.command("import")(import_)
app.add_typer(weights, name="weights")


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cvvae {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Neural video compression: videos to latents in .cvl files, and back."""


def main() -> int:
    """Run the command line; return the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    console.show_notes()
    with interrupt.noticed():
        try:
            return int(app(standalone_mode=False) or DONE)
        except (KeyboardInterrupt, typer.Abort):
            return interrupted()
        except BaseException as error:
            if interrupt.was_noticed():  # a library made an error of it, or a panic, which is no Exception
                return interrupted()
            if isinstance(error, Exception):
                return failed(error)
            raise


def interrupted() -> int:
    console.err.print("interrupted")
    return INTERRUPTED


def failed(error: Exception) -> int:
    """Show an error as a sentence and a hint; raise again what nobody expected."""
    if isinstance(error, MemoryError):
        error = CvvaeError("out of memory", hint="pass a smaller --tile")
    elif isinstance(error, OSError) and not isinstance(error, CvvaeError):
        error = explain(error)
    if isinstance(error, CvvaeError):
        console.print_error(error)
        return FAILED
    if not hasattr(error, "exit_code"):  # ours: let the traceback show it
        raise error
    return usage_error(error)


def usage_error(error: Exception) -> int:
    """Show an error of the command line itself; typer keeps their classes to itself."""
    if hasattr(error, "show"):
        error.show()
    return int(getattr(error, "exit_code", FAILED))


def explain(error: OSError) -> CvvaeError:
    """An error of the operating system as a sentence."""
    hints = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.EACCES: "check permissions",
    }
    where = f"{error.filename}: " if error.filename else ""
    return CvvaeError(f"{where}{error.strerror or error}", hint=hints.get(error.errno or 0))


if __name__ == "__main__":
    sys.exit(main())
