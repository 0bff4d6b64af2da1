import hashlib
import re
from pathlib import Path

import pytest
from tiny import GOLDEN

from cvvae_cli import store
from cvvae_cli.errors import UnknownModelError, WeightsError
from cvvae_cli.models.registry import ALIASES, MODELS, Weights, find_model

CARD = Path(__file__).parent.parent.parent / "weights" / "README.md"


def test_an_alias_names_an_immutable_model():
    for alias, name in ALIASES.items():
        assert find_model(alias).name == name
        assert re.fullmatch(r".+-\d+", name)


def test_an_unknown_model_is_refused_and_the_known_ones_named():
    with pytest.raises(UnknownModelError) as caught:
        find_model("nonsense")
    assert "compact" in caught.value.hint


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_that_ship_are_the_ones_named_in_code_and_card(name):
    spec = MODELS[name]
    data = (CARD.parent / spec.weights_file).read_bytes()
    assert hashlib.sha256(data).hexdigest() == spec.weights_sha256
    assert spec.weights_sha256 in CARD.read_text()
    assert len(data) < 40e6


def test_damaged_and_missing_weights_are_refused(tiny, tmp_path, monkeypatch):
    data = bytearray((tmp_path.parent / "x").name.encode())
    (tmp_path / tiny.weights_file).write_bytes(data)
    monkeypatch.setattr(store, "WEIGHTS_FOLDERS", (tmp_path,))
    with pytest.raises(WeightsError, match="damaged"):
        Weights(tiny)
    (tmp_path / tiny.weights_file).unlink()
    with pytest.raises(WeightsError, match="missing"):
        Weights(tiny)


def test_a_model_with_a_base_has_its_tensors_too_and_needs_both_files(tiny, tmp_path, monkeypatch):
    spec, base = find_model("tiny-9"), find_model("tiny-8")
    weights = Weights(spec)
    own = set(weights.arrays) - set(Weights(base).arrays)
    assert own
    assert all(name.startswith("network.refiner.") for name in own)
    assert weights.build().refiner is not None
    for name in ("tiny-8", "tiny-9"):
        (tmp_path / f"{name}.safetensors").write_bytes((GOLDEN / f"{name}.safetensors").read_bytes())
    monkeypatch.setattr(store, "WEIGHTS_FOLDERS", (tmp_path,))
    assert Weights(find_model("tiny-9")).arrays.keys() == weights.arrays.keys()
    (tmp_path / "tiny-8.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="damaged"):
        Weights(find_model("tiny-9"))
