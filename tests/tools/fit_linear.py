"""`python tests/tools/fit_linear.py DATA OUT`: made weights/linear-1.safetensors from DATA/train."""

import sys
from dataclasses import replace
from pathlib import Path

from cvvae_cli.cli.train import find_recipe
from cvvae_cli.train.linear import fit_linear

if __name__ == "__main__":
    config = find_recipe("compact-2")
    folders = (str(Path(sys.argv[1]) / "train"),)
    fit_linear(replace(config, data=replace(config.data, folders=folders)), Path(sys.argv[2]))
