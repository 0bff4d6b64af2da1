import hashlib
import re
from pathlib import Path

import pytest

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
