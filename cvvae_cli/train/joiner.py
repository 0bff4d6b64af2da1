"""What `task = "joiner"` trains: the small network that joins groups of frames (engine/joints.py).

Its samples are frames as a finished model shows them, detail included, where its groups meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from cvvae_cli.bitstream.detail import detail_of
from cvvae_cli.bitstream.flow import worthless
from cvvae_cli.engine.base import network_to_pixels
from cvvae_cli.engine.joints import seen_together
from cvvae_cli.engine.mirror import Mirror
from cvvae_cli.errors import ConfigError
from cvvae_cli.models.refiner import JOINER_SHAPE
from cvvae_cli.models.registry import ModelSpec, Weights
from cvvae_cli.train.refiner import Decoded, RefinerTrainee, Sample
from cvvae_cli.types import FrameBatch, LatentChunk


class DecodedEnds(Decoded):
    """Samples of the frames at the ends of groups."""

    @torch.inference_mode()
    def sample(self, video: Tensor, level: int) -> Sample:
        """Of a clip (1, 3, 1 + 4n, H, W) in [-1, 1], H and W multiples of 8."""
        rgb = network_to_pixels(video, 8)
        groups = self.engine.unjoined(self._read_back(rgb, level), rgb.shape[1:3])
        parts = []
        for group, following in pairwise(list(groups)):
            last, first = group.part(group.frames[-1:]), following.part(following.frames[:1])
            pictures, differences = seen_together(last.video, first.video)
            at = [last.frames.start, first.frames.start]
            wanted = video[0, :, at].transpose(0, 1).to(pictures.device) - pictures
            parts.append((pictures, differences[:, None], wanted))
        pictures, differences, wanted = (torch.cat(each).half().cpu() for each in zip(*parts, strict=True))
        return Sample(pictures, differences, wanted, torch.ones(len(pictures), 1), level)

    def _read_back(self, rgb: np.ndarray, level: int) -> Iterator[LatentChunk]:
        """Chunks of frames as the reader of a file gives them."""
        encoder, decoder = self._coder(level), self._coder(level)
        mirror = Mirror(self.engine, level)
        batch = FrameBatch(rgb, np.arange(len(rgb)))
        first_latent = 0
        for chunk in self.engine.encode_stream([batch], worthless=worthless(level), keeps_means=True):
            shape = chunk.latents.shape
            data = encoder.encode(first_latent, chunk.latents, chunk.fields, mirror.of(chunk))
            fields = decoder.decode_fields(data, shape)
            values = decoder.decode(first_latent, data, shape, fields)
            memories = decoder.decode_detail(first_latent, data, shape)
            detail = None if memories is None else detail_of(memories)
            yield LatentChunk(values, chunk.frames, chunk.pts, fields, detail=detail, level=level)
            first_latent += shape[1]


class JoinerTrainee(RefinerTrainee):
    """The joiner of the model that the recipe starts with."""

    part: ClassVar[str] = "joiner"
    shape: ClassVar[tuple[str, ...]] = JOINER_SHAPE
    neighbours: ClassVar[int] = 1

    def _decoded(self, spec: ModelSpec, device: torch.device) -> DecodedEnds:
        weights = Weights(spec)
        if not weights.config.get("refiner_width"):
            raise ConfigError(
                f"{spec.name} has no refiner, and groups are joined after it",
                hint='set start = "compact" in the recipe',
            )
        return DecodedEnds(spec, weights, device)
