"""The same bytes decode to the same symbols whatever the machine's matrix products look like inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import hashlib, sys
import numpy as np
from safetensors.numpy import load_file
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
name, weights, level, path = sys.argv[1:]
coder = ENTROPY_CODERS[name].of_model(load_file(weights), int(level) or None)
shape = (3, 4, 45, 61)
if path == "-":  # write the bytes
    scaled = np.random.default_rng(0).laplace(0, 4, shape).astype(np.float32)
    scaled[2] = np.roll(scaled[1], 3, 2)  # something moves
    sys.stdout.buffer.write(coder.pack(coder.choose(scaled, ())))
else:
    symbols = coder.decode(open(path, "rb").read(), shape, ())
    print(hashlib.sha256(symbols.tobytes()).hexdigest())
"""
GOLDEN = Path(__file__).parent.parent / "golden"
CODERS = {
    "context-1": ("tiny-1", 0),
    "prior-1": ("tiny-2", 85),
    "prior-2": ("tiny-3", 85),
    "prior-3": ("tiny-4", 85),
}
MACHINES = {
    "one thread": {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    "two threads": {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    "no AVX-512": {
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX",
    },
    "no AVX": {
        "OPENBLAS_CORETYPE": "Nehalem",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}


def run(name, path, **environment):
    weights, level = CODERS[name]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, name]
    command += [str(GOLDEN / f"{weights}.safetensors"), str(level), str(path)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, check=True)
    return done.stdout


@pytest.mark.parametrize("name", CODERS)
def test_symbols_do_not_depend_on_the_machine(tmp_path, name):
    path = tmp_path / "chunk"
    path.write_bytes(run(name, "-"))
    found = {machine: run(name, path, **environment) for machine, environment in MACHINES.items()}
    assert len(set(found.values())) == 1, found
    written = {run(name, "-", **environment) for environment in MACHINES.values()}
    assert written == {path.read_bytes()}  # and a writer gives the same bytes
