"""Our models as the `vae=` of pipelines of the public library, tiny and random."""

import sys

import numpy as np
import pytest
import torch
from tiny import moving_picture

pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    """The paper's network for Stable Diffusion 2.1, narrow, with random weights."""
    from safetensors.torch import save_file

    from cvvae_cli.models.cvvae_sd21 import CvVaeSd21, Sd21Config
    from cvvae_cli.models.imported import import_weights

    monkeypatch.setenv("CVVAE_WEIGHTS", str(tmp_path / "weights"))
    torch.manual_seed(0)
    state = CvVaeSd21(Sd21Config(ch=32, ch_mult=(1, 1, 1, 1))).state_dict()
    save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "narrow.safetensors")
    import_weights(tmp_path / "narrow.safetensors", "narrow", dtype="fp32")
    return "narrow"


def clip_of(frames, width=64, height=48):
    rgb = torch.from_numpy(moving_picture(frames, width, height))
    return rgb.permute(3, 0, 1, 2)[None].float() / 127.5 - 1


@torch.inference_mode()
def test_a_clip_goes_there_and_back_as_our_own_network_does(narrow):
    from cvvae_cli.interchange.diffusers import DiffusersVae

    vae = DiffusersVae.of(narrow)
    assert vae.config.scaling_factor == 0.18215
    assert vae.config.latent_channels == 4
    clip = clip_of(9)
    distribution = vae.encode(clip).latent_dist
    latents = distribution.mode()
    assert torch.allclose(latents, vae.network.encode(clip), atol=1e-5)
    assert latents.shape == (1, 4, 3, 6, 8)
    torch.manual_seed(1)
    assert not torch.equal(distribution.sample(), latents)
    video = vae.decode(latents, num_frames=3).sample
    assert video.shape == clip.shape
    assert torch.allclose(vae.decode_video((latents * 0.18215).transpose(1, 2)), video, atol=1e-5)
    vae.disable_tiling()
    assert torch.allclose(vae.decode(latents).sample, video, atol=1e-5)


@torch.inference_mode()
def test_four_axes_are_pictures(narrow):
    from cvvae_cli.interchange.diffusers import DiffusersVae

    for model, channels in ((narrow, 4), ("compact", 32)):
        vae = DiffusersVae.of(model)
        pictures = clip_of(3)[0].transpose(0, 1)
        latents = vae.encode(pictures).latent_dist.mode()
        assert latents.shape == (3, channels, 6, 8)
        assert torch.allclose(latents[1], vae.encode(pictures[1:2]).latent_dist.mode()[0], atol=1e-5)
        decoded = vae.decode(latents, return_dict=False)[0]
        assert decoded.shape == pictures.shape
    error = (decoded.clamp(-1, 1) - pictures).abs().mean()
    assert error < 0.1  # compact is trained


def video_pipeline(vae):
    from diffusers import (
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=2,
        sample_size=32,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    config = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        intermediate_size=37,
        patch_size=32,
    )
    return StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=CLIPVisionModelWithProjection(config),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            interpolation_type="linear",
            timestep_type="continuous",
            prediction_type="v_prediction",
            use_karras_sigmas=True,
        ),
        feature_extractor=CLIPImageProcessor(),
    )


def test_a_video_pipeline_takes_it_both_ways(narrow):
    from PIL import Image

    from cvvae_cli.interchange.diffusers import DiffusersVae

    vae = DiffusersVae.of(narrow)
    pipeline = video_pipeline(vae)
    pipeline.set_progress_bar_config(disable=True)
    image = Image.fromarray(moving_picture(1, 64, 64)[0])
    options = {
        "num_frames": 3,
        "num_inference_steps": 2,
        "height": 64,
        "width": 64,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 2.5,
    }
    frames = pipeline(image, output_type="np", generator=torch.manual_seed(0), **options).frames
    assert frames.shape == (1, 3, 64, 64, 3)
    assert np.isfinite(frames).all()
    latents = pipeline(image, output_type="latent", generator=torch.manual_seed(0), **options).frames
    assert latents.shape == (1, 3, 4, 8, 8)
    with torch.inference_mode():
        video = vae.decode_video(latents)
    assert video.shape == (1, 3, 9, 64, 64)  # four times the frames, but for the first


def test_without_the_library_the_rest_works_and_the_adapter_says_what_to_do(monkeypatch):
    from cvvae_cli.errors import ConfigError

    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "cvvae_cli.interchange.diffusers", raising=False)
    import cvvae_cli

    assert cvvae_cli.encode_file
    with pytest.raises(ConfigError, match="not installed"):
        import cvvae_cli.interchange.diffusers
