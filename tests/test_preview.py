"""`cvvae preview`: a picture for every latent frame, by a fitted map or a tiny image decoder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import moving_picture

from cvvae_cli.models.image_vae import TinyImageDecoder, TinyImageVae, tiny_image_vae
from cvvae_cli.video.reader import open_source

IMAGE_VAE = Path(__file__).parents[2] / "shared" / "image_vae"


def read(path):
    with open_source(path) as video:
        batches = list(video)
        return np.concatenate([b.rgb for b in batches]), np.concatenate([b.pts for b in batches]), video.info


def test_a_linear_preview_looks_like_the_video(cvvae, lossless, tmp_path):
    source = moving_picture(30, 160, 96)
    lossless(source)
    assert cvvae("encode", "source.mkv", "a.cvl", "-q", "8").returncode == 0
    done = cvvae("preview", "a.cvl", "preview.mkv")
    assert done.returncode == 0, done.stderr
    frames, pts, _ = read(tmp_path / "preview.mkv")
    assert frames.shape == (9, 24, 40, 3)  # 1 + ceil(29 / 4) pictures at a quarter of the size
    assert pts.tolist() == [40 * n for n in (0, 1, 5, 9, 13, 17, 21, 25, 29)]
    for number, frame in ((0, 0), (5, 18)):
        small = source[frame].reshape(24, 4, 40, 4, 3).mean(axis=(1, 3))
        assert np.abs(frames[number] - small).mean() < 20
        assert np.corrcoef(frames[number].ravel(), small.ravel())[0, 1] > 0.8
    assert cvvae("preview", "a.cvl", "preview.mkv").returncode == 1


def test_a_tiny_image_decoder_paints_at_full_size(cvvae, lossless, tmp_path):
    lossless(moving_picture(6, 51, 37))
    assert cvvae("encode", "source.mkv", "a.cvl").returncode == 0
    for channels in (32, 16):
        state = TinyImageDecoder(channels, False).decoder.state_dict()
        torch.save(state, tmp_path / f"decoder{channels}.pth")
    done = cvvae("preview", "a.cvl", "p.mkv", "--decoder", "decoder32.pth")
    assert done.returncode == 0, done.stderr
    frames, _, _ = read(tmp_path / "p.mkv")
    assert frames.shape == (3, 36, 50, 3)
    done = cvvae("preview", "a.cvl", "q.mkv", "--decoder", "decoder16.pth")
    assert done.returncode == 1
    assert "16 latent channels" in done.stderr


@pytest.mark.skipif(not IMAGE_VAE.is_dir(), reason="../shared/image_vae is not at hand")
@torch.inference_mode()
def test_the_flux2_pair_reconstructs_pictures():
    import skimage.data

    from cvvae_cli.checkpoint import read_checkpoint

    parts = (read_checkpoint(IMAGE_VAE / f"taef2_{part}.pth") for part in ("encoder", "decoder"))
    network = tiny_image_vae(*parts)
    assert network.latent_channels == 32
    picture = torch.from_numpy(skimage.data.astronaut()[:256, :256]).permute(2, 0, 1)[None] / 127.5 - 1
    latents = network.encode(picture)
    assert latents.shape == (1, 32, 32, 32)
    error = (network.decode(latents).clamp(-1, 1) - picture).square().mean()
    assert 10 * torch.log10(4 / error) > 30


@torch.inference_mode()
def test_every_width_of_the_family_has_the_right_shapes():
    for channels, has_pool in ((4, False), (16, False), (32, True)):
        network = TinyImageVae(channels, has_pool)
        frames = torch.rand(2, 3, 32, 48) * 2 - 1
        assert network.encode(frames).shape == (2, channels, 4, 6)
        assert network.decode(network.encode(frames)).shape == frames.shape
