"""The layout holds: imports point downward, and what should be light stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cvvae_cli

RUN = "from cvvae_cli.cli.app import main; code = main()\n"
ROOT = Path(cvvae_cli.__file__).parent
LEAVES = {"types", "errors"}
ALLOWED = {
    "types": set(),
    "errors": set(),
    "output": LEAVES,
    "container": LEAVES,
    "video": LEAVES,
    "store": set(),
    "download": LEAVES,
    "checkpoint": LEAVES,
    "metrics": LEAVES | {"store", "download", "checkpoint"},
    "models": LEAVES | {"store", "download", "checkpoint"},
    "flow": LEAVES,
    "bitstream": LEAVES | {"flow"},
    "engine": LEAVES | {"models", "store", "flow"},
    "options": LEAVES | {"video"},
    "latents": LEAVES | {"models", "bitstream", "container"},
    "targets": LEAVES | {"models", "bitstream", "engine", "metrics", "options", "video"},
    "interchange": LEAVES | {"models", "bitstream", "container", "output", "latents", "video", "engine"},
    "access": LEAVES | {"latents"} | {"video", "models", "engine", "bitstream", "container", "options"},
    "resume": LEAVES | {"container"},
    "preview": LEAVES
    | {"access", "checkpoint", "container", "engine", "latents", "models", "output", "video"},
    "codec": LEAVES
    | {"video", "models", "engine", "bitstream", "container"}
    | {"output", "options", "access", "latents", "resume", "targets"},
    "bench": LEAVES
    | {
        "codec",
        "access",
        "options",
        "metrics",
        "preview",
        "video",
        "models",
        "engine",
        "container",
        "store",
        "__init__",
    },
    "train": LEAVES | {"models", "metrics", "video", "bitstream", "engine", "flow"},
    "cli": LEAVES
    | {
        "codec",
        "access",
        "latents",
        "interchange",
        "options",
        "container",
        "train",
        "engine",
        "bench",
        "metrics",
        "preview",
        "store",
    }
    | {"models", "output", "video", "cli", "__init__"},
    "__main__": {"cli"},
    "__init__": set(),
}


def rooms_imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [node.module] if node.module != "cvvae_cli" else [f"cvvae_cli.{a.name}" for a in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "cvvae_cli" and len(parts) > 1:
                yield "__init__" if parts[1].startswith("__") else parts[1]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert set(rooms_imported(path)) <= ALLOWED[room] | {room}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_opens_with_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert path.stem not in ("utils", "common", "helpers")


def test_the_container_needs_the_standard_library_alone():
    code = "import sys\nfrom cvvae_cli.container import fingerprint, reader, writer\n"
    code += "print(sorted({'numpy', 'torch', 'av', 'rich', 'typer'} & set(sys.modules)))"
    assert run_python(code) == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["train", "--help"], ["--version"]])
def test_help_does_not_load_torch(arguments):
    code = f"import sys; sys.argv = ['cvvae', *{arguments}]\n"
    code += RUN + "print(code, 'torch' in sys.modules, 'av' in sys.modules)"
    assert run_python(code).splitlines()[-1] == "0 False False"


def test_info_does_not_load_torch():
    golden = next((Path(__file__).parent / "golden").glob("*.cvl"))
    code = f"import sys; sys.argv = ['cvvae', 'info', {str(golden)!r}]\n"
    code += RUN + "print(code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    assert run_python(code).splitlines()[-1] == "0 False False"


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
