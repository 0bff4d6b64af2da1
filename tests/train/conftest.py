"""What every test of training shares."""

import pytest


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """A run starts from few samples: how good its start is matters to none of these tests."""
    monkeypatch.setattr("cvvae_cli.train.coder.PATCH_BATCHES", 6)
    monkeypatch.setattr("cvvae_cli.train.motion.FIT_CLIPS", 6)
