"""Opaque detail that is shown as its file says, joined or not, and where it has left the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CPU
from tiny import KEEPING, REACHING, decode, drawn_picture, tiny_spec

from cvvae_cli import latents
from cvvae_cli.bitstream import cosine_choice
from cvvae_cli.codec import encode_file
from cvvae_cli.container.reader import open_cvl
from cvvae_cli.engine.base import network_to_pixels
from cvvae_cli.engine.stream import Engine
from cvvae_cli.models.registry import Weights
from cvvae_cli.options import EncodeOptions

WIDTH, HEIGHT = 64, 96
CLIP = drawn_picture(26, WIDTH, HEIGHT)


@pytest.fixture
def chunks(tiny, lossless, monkeypatch, tmp_path):
    """Of tiles that move up and are painted; at a quality without corrections."""
    monkeypatch.setattr(cosine_choice, "LAST_PRICE", 3000.0)
    options = EncodeOptions(model=f"tiny-{KEEPING}", device="cpu", dtype="fp32", quality=4.9)
    encode_file(lossless(CLIP), tmp_path / "a.cvl", options)
    with open_cvl(tmp_path / "a.cvl") as cvl:
        spec, weights = latents.model_of(cvl.header)
        assert spec.keeps_opaque
        return list(latents.read_latents(cvl, weights))


def engine_of(number):
    spec = tiny_spec(number)
    return Engine(spec, Weights(spec).build, CPU)


def unjoined(engine, chunks):
    """Frames before they are joined, and how far they are opaque: (T, H, W, 3) and (T, H, W)."""
    shown = list(engine.unjoined(chunks, (HEIGHT, WIDTH)))
    video = torch.cat([each.video for each in shown], 2)
    masks = [
        torch.zeros(1, 1, *each.video.shape[2:]) if each.opaque is None else each.opaque for each in shown
    ]
    return network_to_pixels(video.clamp(-1, 1), 8), torch.cat(masks, 2)[0, 0].numpy()


def test_what_is_opaque_is_neither_joined_nor_lost(chunks):
    keeping, reaching = engine_of(KEEPING), engine_of(REACHING)
    frames, opaque = unjoined(keeping, chunks)
    assert 0.1 < (opaque == 1).mean() < 0.8
    own, other = (decode(engine, chunks, None, WIDTH, HEIGHT) for engine in (keeping, reaching))
    assert np.array_equal(own[opaque == 1], frames[opaque == 1])
    assert not np.array_equal(other[opaque == 1], frames[opaque == 1])
    assert not unjoined(reaching, chunks)[1].any()


def test_frames_are_nearer_to_what_they_were(chunks):
    """Where they are opaque, and at the edge where tiles leave."""
    _, opaque = unjoined(engine_of(KEEPING), chunks)
    errors = [
        ((decode(engine_of(number), chunks, None, WIDTH, HEIGHT).astype(float) - CLIP) ** 2).mean(3)
        for number in (KEEPING, REACHING)
    ]
    inside = (opaque == 1) & (np.arange(HEIGHT) >= 8)[:, None]
    own, other = (each[inside].mean() for each in errors)
    assert own < 0.95 * other
    first, left = np.arange(len(CLIP)) % 4 == 1, slice(0, WIDTH // 2 - 8)  # two frames before the reference
    own, other = (each[first][4:, :4, left].mean() for each in errors)
    assert own < 0.9 * other
