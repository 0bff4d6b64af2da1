"""The same bytes decode to the same symbols whatever the machine's matrix products look like inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cvvae_cli.bitstream.coders import ENTROPY_CODERS

SCRIPT = """
import hashlib, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file
from cvvae_cli.bitstream.coders import ENTROPY_CODERS
from cvvae_cli.bitstream.corrections import CorrectionCoder
from cvvae_cli.bitstream.cosines import Added
from cvvae_cli.bitstream.detail import Change, DetailCoder, Memory, PaintedDetailCoder
OWN = {"prior-11": 16, "prior-12": 17, "prior-13": 18, "prior-14": 19, "prior-15": 19}  # tiny models
task, weights, folder = sys.argv[1], *map(Path, sys.argv[2:])
shape = (3, 4, 45, 61)
scaled = np.random.default_rng(0).laplace(0, 4, shape).astype(np.float32)
scaled[2] = np.roll(scaled[1], 3, 2)  # something moves
for number, (name, kind) in enumerate(ENTROPY_CODERS.items(), 1):  # tiny-1 has the first coder, and so on
    arrays = load_file(weights / f"tiny-{min(number, 8)}.safetensors")
    if name in OWN:
        arrays |= load_file(weights / f"tiny-{OWN[name]}.safetensors")
    coder = kind.of_model(arrays, 85 if number > 1 else None)
    if task == "encode":
        data = coder.pack(coder.choose(scaled, ()))
        (folder / name).write_bytes(data)
    else:
        data = coder.decode((folder / name).read_bytes(), shape, ()).tobytes()
    print(name, hashlib.sha256(data).hexdigest())

rng = np.random.default_rng(1)
coder, memory, still = DetailCoder(63), Memory.empty(22, 31), np.zeros((2, 6, 8), np.int32)
if task == "encode":
    changed = rng.random((3, 22, 31)) < 0.4
    changes = [Change(c, np.rint(rng.laplace(0, 4, (c.sum(), 3, 8, 8))).astype(int), c) for c in changed]
    data, memories = coder.encode(memory, [still, still + 5, still], lambda number, _: changes[number])
    (folder / "detail-1").write_bytes(data)
else:
    memories = coder.decode((folder / "detail-1").read_bytes(), memory, [still, still + 5, still])
    data = b"".join(each.picture.tobytes() + each.shown.tobytes() for each in memories)
print(coder.name, len(data) > 1000, hashlib.sha256(data).hexdigest())

coder, fields = PaintedDetailCoder(63), [still, still + 5, still]
if task == "encode":
    painted = rng.random((3, 22, 31)) < 0.5
    choices = [
        Change(c := each.changed, each.cosines[~own[c]], c, c & own, each.cosines[own[c]])
        for each, own in zip(changes, painted)
    ]
    data, memories = coder.encode(memory, fields, lambda number, _: choices[number])
    (folder / "detail-2").write_bytes(data)
else:
    memories = coder.decode((folder / "detail-2").read_bytes(), memory, fields)
    data = b"".join(each.picture.tobytes() + each.opaque.tobytes() for each in memories)
print(coder.name, len(data) > 1000, hashlib.sha256(data).hexdigest())

coder = CorrectionCoder(63)
if task == "encode":
    (folder / "correction-1").write_bytes(coder.encode(Added(each.changed, each.cosines) for each in changes))
found = coder.decode((folder / "correction-1").read_bytes(), range(3), 22, 31)
data = b"".join(each.changed.tobytes() + each.colours.tobytes() for each in found.values())
print(coder.name, len(data) > 1000, hashlib.sha256(data).hexdigest())
"""
GOLDEN = Path(__file__).parent.parent / "golden"
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


def run(task, folder, **environment):
    """A line for every coder: its name, and the hash of what it gave."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, task, str(GOLDEN), str(folder)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, check=True, text=True)
    return done.stdout.splitlines()


def test_symbols_do_not_depend_on_the_machine(tmp_path):
    written = run("encode", tmp_path / "here")
    assert [line.split()[0] for line in written] == [*ENTROPY_CODERS, "detail-1", "detail-2", "correction-1"]
    found = {machine: run("decode", tmp_path / "here", **change) for machine, change in MACHINES.items()}
    for machine, lines in found.items():
        assert lines == found["one thread"], machine
    for machine, change in MACHINES.items():  # and a writer gives the same bytes
        assert run("encode", tmp_path / "there", **change) == written, machine
