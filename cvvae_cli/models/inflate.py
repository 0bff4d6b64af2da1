"""The paper's networks begun with an image VAE: 2D kernels in one temporal slot, so pictures come out alike.

The causal convolutions get them in their last slot (the present frame), the others in the middle one; the
convolutions that double frames repeat their output channels. What has no twin in 2D (attention over time)
starts at zero, and with it the attention that it closes. Source: CV-VAE, section 3.3.

`cvvae-sd21` gives the image encoder's latents exactly. `cvvae-sd3` pads otherwise (edges replicated,
strides from the left), so that it starts near its image VAE, not at it.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from cvvae_cli.errors import WeightsError
from cvvae_cli.models.autoencoder import VideoAutoencoder
from cvvae_cli.models.autoencoder_kl import AutoencoderKL
from cvvae_cli.models.half3d import Conv3d, UpsamplingConv
from cvvae_cli.models.image_vae import ImageVae

CLOSING = "proj_out_t."  # the last layer of attention over time


def inflate(image_vae: ImageVae, network: VideoAutoencoder) -> dict[str, Tensor]:
    """The state dict with which `network` treats pictures as `image_vae` does. Raises WeightsError."""
    if not isinstance(image_vae, AutoencoderKL):
        raise WeightsError("only an AutoencoderKL can be inflated", hint="pass that of Stable Diffusion")
    source = folded_quant(image_vae)
    state = {}
    for name, own in network.state_dict().items():
        if "_t." in name:
            state[name] = torch.zeros_like(own) if CLOSING in name else own
            continue
        twin = source.get(diffusers_name(name, levels_of(image_vae)))
        module = network.get_submodule(name.rsplit(".", 1)[0])
        if twin is None:
            raise WeightsError(f"the image VAE has nothing for {name}")
        state[name] = grown(twin, own, module)
        if state[name].shape != own.shape:
            shapes = f"{list(state[name].shape)}, not {list(own.shape)}"
            raise WeightsError(f"the image VAE does not fit: {name} would be {shapes}")
    return state


def grown(twin: Tensor, own: Tensor, module: nn.Module) -> Tensor:
    """A 2D weight or a bias as the 3D module needs it."""
    repeats = module.repeats if isinstance(module, UpsamplingConv) else 1
    twin = torch.cat([twin] * repeats)
    if own.ndim == twin.ndim:
        return twin.clone()
    if own.ndim == 4 and twin.ndim == 2:  # a matrix that stands as a 1x1 convolution
        return twin[:, :, None, None].clone()
    slots = torch.zeros(*twin.shape[:2], own.shape[2], *twin.shape[2:])
    is_centered = isinstance(module, Conv3d) and module.edges.back == 1
    slots[:, :, 1 if is_centered else -1] = twin
    return slots


def folded_quant(image_vae: AutoencoderKL) -> dict[str, Tensor]:
    """Its tensors, with the 1x1 convolutions around the latents folded into their neighbours."""
    state = dict(image_vae.state_dict())
    if image_vae.quant_conv is not None:
        weight, bias = (state[f"quant_conv.{n}"] for n in ("weight", "bias"))
        state["encoder.conv_out.weight"] = torch.einsum(
            "ij,jkyx->ikyx", weight[:, :, 0, 0], state["encoder.conv_out.weight"]
        )
        state["encoder.conv_out.bias"] = weight[:, :, 0, 0] @ state["encoder.conv_out.bias"] + bias
    if image_vae.post_quant_conv is not None:
        weight, bias = (state[f"post_quant_conv.{n}"] for n in ("weight", "bias"))
        kernel = state["decoder.conv_in.weight"]
        state["decoder.conv_in.bias"] = state["decoder.conv_in.bias"] + kernel.sum((2, 3)) @ bias
        state["decoder.conv_in.weight"] = torch.einsum("ijyx,jk->ikyx", kernel, weight[:, :, 0, 0])
    return state


def levels_of(image_vae: AutoencoderKL) -> int:
    return len(image_vae.encoder.down_blocks)


def diffusers_name(name: str, levels: int) -> str:
    """A parameter's name in CompVis' LDM naming as diffusers has it; names that are diffusers' stay."""
    part, _, rest = name.partition(".")
    rest = rest.replace("nin_shortcut", "conv_shortcut").replace("norm_out.", "conv_norm_out.", 1)
    rest = rest.replace("conv_conv_norm_out", "conv_norm_out")
    match = re.fullmatch(r"(down|up)\.(\d+)\.block\.(\d+)\.(.*)", rest)
    if match:
        level = int(match[2]) if match[1] == "down" else levels - 1 - int(match[2])
        return f"{part}.{match[1]}_blocks.{level}.resnets.{match[3]}.{match[4]}"
    match = re.fullmatch(r"(down|up)\.(\d+)\.(down|up)sample\.conv\.(.*)", rest)
    if match:
        level = int(match[2]) if match[1] == "down" else levels - 1 - int(match[2])
        return f"{part}.{match[1]}_blocks.{level}.{match[3]}samplers.0.conv.{match[4]}"
    match = re.fullmatch(r"mid\.block_(\d)\.(.*)", rest)
    if match:
        return f"{part}.mid_block.resnets.{int(match[1]) - 1}.{match[2]}"
    match = re.fullmatch(r"mid\.attn_1\.(\w+)\.(.*)", rest)
    if match:
        names = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
        return f"{part}.mid_block.attentions.0.{names[match[1]]}.{match[2]}"
    return f"{part}.{rest}"
