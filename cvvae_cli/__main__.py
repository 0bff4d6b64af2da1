"""`python -m cvvae_cli`, and the console script `cvvae`."""

import sys

from cvvae_cli.cli.app import main


def run() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
