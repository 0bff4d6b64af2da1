"""Image VAEs: loading, agreement with the public library, and the paper's networks begun with one."""

import pytest
import torch
from safetensors.torch import save_file

from cvvae_cli.errors import WeightsError
from cvvae_cli.models.alignment import as_clips, as_pictures, matching_frames
from cvvae_cli.models.autoencoder_kl import autoencoder_kl
from cvvae_cli.models.cvvae_sd3 import CvVaeSd3, Sd3Config
from cvvae_cli.models.cvvae_sd21 import CvVaeSd21, Sd21Config
from cvvae_cli.models.image_vae import TinyImageVae, load_image_vae, tiny_decoder, tiny_encoder
from cvvae_cli.models.inflate import inflate

WIDTHS = (32, 64, 64, 64)


def diffusers_vae(*, quant=True):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=WIDTHS,
        layers_per_block=2,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    ).eval()


@pytest.mark.parametrize("quant", [True, False])
@torch.no_grad()
def test_an_autoencoder_kl_is_that_of_diffusers(quant):
    """In float64, where the order of sums, which threads decide, does not show."""
    theirs = diffusers_vae(quant=quant).double()
    ours = autoencoder_kl(theirs.state_dict()).double()
    x = torch.rand(2, 3, 40, 24, dtype=torch.float64) * 2 - 1
    z = theirs.encode(x).latent_dist.mode()
    assert torch.allclose(ours.encode(x), z, atol=1e-10)
    assert torch.allclose(ours.decode(z), theirs.decode(z).sample, atol=1e-10)


@torch.no_grad()
def test_old_names_of_attention_are_read(tmp_path):
    theirs = diffusers_vae()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in theirs.state_dict().items():
        for new, before in old.items():
            if f".attentions.0.{new}." in name:
                name = name.replace(new, before)
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        state[name] = tensor.contiguous()
    (tmp_path / "vae").mkdir()
    save_file(state, tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    x = torch.rand(1, 3, 16, 16)
    assert torch.allclose(load_image_vae(tmp_path).encode(x), theirs.encode(x).latent_dist.mode(), atol=1e-5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@torch.no_grad()
def test_a_tiny_pair_is_found_by_its_names(tmp_path, suffix):
    pair = TinyImageVae(16, has_pool=True)
    for part, name in ((pair.encoder, "tae_encoder"), (pair.decoder, "tae_decoder")):
        state = part.state_dict()
        path = tmp_path / (name + suffix)
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    x = torch.rand(1, 3, 16, 24) * 2 - 1
    for where in (tmp_path, tmp_path / f"tae_encoder{suffix}"):
        loaded = load_image_vae(where)
        assert loaded.latent_channels == 16
        assert not any(p.requires_grad for p in loaded.parameters())
        assert torch.allclose(loaded.decode(loaded.encode(x)), pair.decode(pair.encode(x)), atol=1e-5)


def test_what_is_no_image_vae_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no image VAE at"):
        load_image_vae(tmp_path / "nothing")
    with pytest.raises(WeightsError, match="no weights of an image VAE"):
        load_image_vae(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no image VAE that is known"):
        load_image_vae(tmp_path)
    save_file(tiny_encoder(4, has_pool=False).state_dict(), tmp_path / "x_encoder.safetensors")
    save_file(tiny_decoder(8, has_pool=False).state_dict(), tmp_path / "x_decoder.safetensors")
    with pytest.raises(WeightsError, match="do not fit"):
        load_image_vae(tmp_path / "x_encoder.safetensors")


@pytest.mark.parametrize("quant", [True, False])
@torch.no_grad()
def test_the_sd21_network_begins_as_its_image_vae(quant):
    """Pictures have the image VAE's latents, and come back as from a decoder without its attention."""
    theirs = diffusers_vae(quant=quant)
    if quant:
        theirs.post_quant_conv.bias.zero_()  # beyond the edge of the picture it cannot be folded
    image_vae = autoencoder_kl(theirs.state_dict())
    network = CvVaeSd21(Sd21Config(ch=32, ch_mult=(1, 2, 2, 2), z_channels=4)).eval()
    network.load_state_dict(inflate(image_vae, network))
    x = torch.rand(2, 3, 48, 64) * 2 - 1
    z = image_vae.encode(x)
    assert relative(network.encode(x[:, :, None])[:, :, 0], z) < 1e-4
    for parameter in image_vae.decoder.mid_block.attentions[0].to_out.parameters():
        parameter.zero_()
    assert (
        relative(network.decode(z[:, :, None])[:, :, 0], image_vae.decode(z)) < 5e-3
    )  # norms differ in epsilon


@torch.no_grad()
def test_a_still_clip_keeps_the_latents_of_its_picture():
    image_vae = autoencoder_kl(diffusers_vae().state_dict())
    network = CvVaeSd21(Sd21Config(ch=32, ch_mult=(1, 2, 2, 2), z_channels=4)).eval()
    network.load_state_dict(inflate(image_vae, network))
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    latents = network.encode(picture[:, :, None].expand(-1, -1, 9, -1, -1))
    expected = image_vae.encode(picture)
    for frame in latents[0].unbind(1):
        assert relative(frame[None], expected) < 1e-4


@torch.no_grad()
def test_the_sd3_network_begins_near_its_image_vae():
    image_vae = autoencoder_kl(diffusers_vae(quant=False).state_dict())
    network = CvVaeSd3(Sd3Config(out_channels=4, block_out_channels=WIDTHS)).eval()
    network.load_state_dict(inflate(image_vae, network))
    assert torch.isfinite(network.encode(torch.rand(1, 3, 1, 32, 32))).all()


def test_only_a_vae_of_the_right_widths_can_be_inflated():
    image_vae = autoencoder_kl(diffusers_vae().state_dict())
    with pytest.raises(WeightsError, match="does not fit"):
        inflate(image_vae, CvVaeSd21(Sd21Config(ch=64, ch_mult=(1, 2, 2, 2))))
    with pytest.raises(WeightsError, match="AutoencoderKL"):
        inflate(TinyImageVae(4, has_pool=False), CvVaeSd21(Sd21Config(ch=32, ch_mult=(1, 2, 2, 2))))


def test_mappings_take_the_frames_they_name():
    video = torch.arange(9.0)[None, None, :, None, None].expand(2, 3, -1, 8, 8)

    def frames(mapping, picks=None):
        return matching_frames(video, mapping, picks)[:, 0, :, 0, 0].tolist()

    assert frames("slice")[0] == [0, 4, 8]
    assert frames("first")[0] == [0, 1, 5]
    assert frames("average")[0] == [0, 2.5, 6.5]
    assert frames("random", torch.tensor([[0, 3], [2, 1]])) == [[0, 1, 8], [0, 3, 6]]
    assert torch.equal(matching_frames(video[:, :, :1], "average"), video[:, :, :1])
    assert torch.equal(as_clips(as_pictures(video), 2), video)
    with pytest.raises(ValueError, match="no mapping"):
        frames("last")


def relative(x, y):
    return ((x - y).norm() / y.norm()).item()
