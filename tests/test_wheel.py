"""The installed wheel, not the checkout: weights inside, command works from anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)],
        check=True,
        cwd=folder,
    )
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def test_the_wheel_encodes_and_decodes(installed, clip, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def run(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("-c", "import cvvae_cli.store as r; print(r.__file__, r.WEIGHTS_FOLDERS[0].is_dir())")
    assert where.startswith(str(installed))
    assert where.endswith("False\n")  # the weights of the checkout are out of reach
    run("-m", "cvvae_cli", "encode", str(clip), "out.cvl")
    run("-m", "cvvae_cli", "decode", "out.cvl", "back.mp4")
    assert (installed / "bin" / "cvvae").exists()
