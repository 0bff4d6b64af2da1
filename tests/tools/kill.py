"""`make kill`: kill -9 an encode at random moments, resume it, and compare with an uninterrupted one."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tools.make_clip import make_clip


def encode(source: Path, output: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "cvvae_cli",
        "encode",
        str(source),
        str(output),
        "--device",
        "cpu",
        *options,
    ]


def run_quietly(command: list[str]) -> float:
    """Run a command that must succeed; how long it took in seconds."""
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def kill_and_resume(source: Path, folder: Path, seconds: float) -> tuple[bytes, int]:
    """Kill an encode after `seconds`; the bytes after resuming it, and those that were there before."""
    output = folder / "killed.cvl"
    output.unlink(missing_ok=True)
    running = subprocess.Popen(encode(source, output), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    running.kill()
    running.wait()
    part = output.with_name("killed.cvl.part")
    kept = part.stat().st_size if part.exists() else 0
    if not output.exists():
        run_quietly(encode(source, output, "--resume"))
    assert not part.exists()
    return output.read_bytes(), kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, whole = folder / "source.mp4", folder / "whole.cvl"
        make_clip(source, width=160, height=96, frames=options.frames)
        run_quietly(encode(source, whole))
        longest = run_quietly(encode(source, whole, "--force"))
        same = partial = 0
        for number in range(options.times):
            seconds = rng.uniform(0.2 * longest, longest)
            data, kept = kill_and_resume(source, folder, seconds)
            same += data == whole.read_bytes()
            partial += 0 < kept < len(data)
            verdict = "same" if same > number else "OTHER"
            print(f"{number + 1}: killed after {seconds:.2f} s at {kept} bytes: {verdict}", flush=True)
    print(f"{same} of {options.times} byte-identical; {partial} were killed in the middle of the file")
    return 0 if same == options.times else 1


if __name__ == "__main__":
    sys.exit(main())
