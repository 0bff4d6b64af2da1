"""A training recipe: one TOML file that says everything a run depends on, saved beside its weights."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cvvae_cli.errors import ConfigError


@dataclass(frozen=True)
class ModelSection:
    """Widths and depths of `compact` (models/compact.py)."""

    latent_channels: int = 32
    fine_channels: int = 96
    coarse_channels: int = 192
    encoder_blocks: tuple[int, int] = (2, 3)
    decoder_blocks: tuple[int, int] = (3, 3)
    time_taps: int = 3


@dataclass(frozen=True)
class DataSection:
    """Where pictures come from and how they become batches."""

    folders: tuple[str, ...] = ()  # searched for videos, frame folders and photos
    holdout: str | None = None  # evaluated on, never trained on
    exclude: tuple[str, ...] = ()  # file name patterns to leave out
    short_side: int = 480  # clips are decoded at most this large
    max_clip_frames: int = 96
    max_photo_side: int = 1600
    cache_gib: float = 8.0  # decoded clips and photos kept in memory
    video_share: float = 0.65  # of the samples; the rest are photos in slow camera moves
    image_share: float = 0.0  # of the batches hold single pictures alone; the others clips alone
    time_strides: tuple[int, ...] = (1, 1, 1, 2)
    cut_share: float = 0.04  # of the samples change to another scene in the middle
    max_zoom: float = 2.2  # a crop is up to this many times the training size, then scaled down
    altered_share: float = 0.0  # of the samples get other light and colours, are enlarged, lie on their side


@dataclass(frozen=True)
class Stage:
    """Part of a run with one batch shape. `until` is the share of all steps at which it ends."""

    until: float
    batch: int  # of every process; the gradient is the mean over all processes and `accumulate` batches
    frames: int
    size: int


@dataclass(frozen=True)
class ScheduleSection:
    """Steps, learning rates and batch shapes."""

    steps: int = 5000
    accumulate: int = 1  # batches of a step
    warmup_steps: int = 200
    learning_rate: float = 4e-4
    linear_learning_rate: float = 1e-4
    prior_learning_rate: float = 2e-3
    level_learning_rate: float = 1e-3  # of gains and steps
    scale_learning_rate: float = 1e-2  # of the log-variances that weigh the terms of a loss
    discriminator_learning_rate: float = 1e-4
    final_share: float = 0.02  # of the learning rate, at the end of the cosine
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    stages: tuple[Stage, ...] = (Stage(0.8, 4, 17, 128), Stage(1.0, 2, 33, 128))


@dataclass(frozen=True)
class ObjectiveSection:
    """loss = lambda * 255^2 * MSE of pixels in [0, 1] + bits per pixel, at a random quality level per sample.

    lambda grows geometrically with the level; a sample weighs by one over its square root, or the high levels
    would rule the gradient. With "log" the logarithm of that enters: a tenth less counts as much in a smooth
    clip of few bits as in a rough one of many, as it does in a mean of BD-rates.
    """

    lowest_lambda: float = 0.000125
    highest_lambda: float = 0.003
    highest_quality: float = 1.0  # the trained level that becomes quality 10; quality 1 is level 0
    samples: Literal["mean", "log"] = "mean"  # what is averaged: losses, or their logarithms
    plain_share: float = 0.0  # of samples whose frames are not moved onto each other, as for exact latents
    clip_frames: int = 48  # between two fresh starts of the coder: what the first frame's share is taken from
    initial_step: float = 0.9  # quantiser step of the principal components at the start, pixels in [-1, 1]


@dataclass(frozen=True)
class LatentsSection:
    """The objective of `task = "latents"`, the paper's: reconstruction, alignment, KL, a critic.

    Each error e enters as e * exp(-s) + s with a log-variance s of its own that is learned. With "log_l2"
    each sample's mean square has the s that is best for it, so that log e enters: a mean of PSNRs, in which
    smooth pictures count as much as rough ones.
    """

    distortion: Literal["l1", "l2", "log_l2"] = "l1"
    lpips_weight: float = 0.0  # of LPIPS (VGG) beside the distortion; its trunk is fetched on first use
    trains: Literal["all", "decoder"] = "all"  # "decoder": the latents stay what they are, and only it learns
    samples_latents: bool = True  # decode a sample of the posterior; else its mean
    first_log_variance: float = -8.0  # of the posterior of a model that has none of its own
    kl_weight: float = 1e-6
    image_vae: str | None = None  # a file or folder; see load_image_vae
    fit_clips: int = (
        40  # by which the latents that a run starts with are turned towards the image VAE's; 0: not
    )
    fit_size: int = 192
    turn_steps: int = 0  # of a last linear map of the latents at export, by whole pictures: train/turn.py
    turn_share: float = 1.0  # of the way to it; the rest keeps their distribution nearer to the image VAE's
    inflate: bool = False  # begin with the image VAE's own weights; for the paper's networks
    regularize: Literal["decoder", "encoder", "both", "none"] = "none"
    mapping: Literal["random", "average", "slice", "first"] = "random"
    alignment_weight: float = 1.0
    alignment_frames: int = 0  # latent frames of a sample that are aligned in a step; 0: all
    moments_weight: float = 0.0  # of mean and covariance like the image VAE's latents; not in the paper
    latent_weight: float = 0.0  # of the image VAE's latents themselves; not in the paper
    critic_weight: float = 0.0  # of a 3D PatchGAN, times the adaptive weight; 0.5 in the paper
    critic_from: int = 0  # the step at which it begins


@dataclass(frozen=True)
class SharpenSection:
    """The last stage: the prior alone, on rounded symbols (train/sharpen.py)."""

    steps: int = 1000
    clips: int = 400
    batch: int = 6
    frames: int = 33
    size: int = 192
    learning_rate: float = 1e-3
    jitter: float = 0.2  # of a symbol's cell
    period: int = 12  # latent frames between fresh starts: weighs the first


@dataclass(frozen=True)
class JoinerSection:
    """Of `task = "joiner"`: the network (models/refiner.py), and the samples it learns from."""

    width: int = 32
    layers: int = 6
    inner_width: int = 0
    inner_layers: int = 0
    clips: int = 400
    frames: int = 25
    size: int = 256


@dataclass(frozen=True)
class RefinerSection(JoinerSection):
    """The same of `task = "refiner"`."""

    across: bool = False  # the first latent frame of a chunk learns from the one before it


@dataclass(frozen=True)
class PriorSection:
    """Of `task = "prior"`: the samples it learns from, and how positions are coded."""

    cuts: tuple[int, ...] = ()  # the channel that each group but the first begins with; none: all together
    strides: tuple[int, ...] = ()  # of the passes that first frames have of their own, as 4, 2, 1
    later: tuple[int, ...] = ()  # of those of other frames, as 2, 1; none: all are of stride 1
    reach: int = 0  # pixels: the largest vector, 127 to 4095; 0: 127, as files of older coders
    clips: int = 400
    frames: int = 25
    size: int = 256
    first_weight: float = 0.15  # of the logarithm of a first latent frame's bits, beside that of all
    kept: float = 0.0  # share of what the run began with in what is exported: less is known by heart


@dataclass(frozen=True)
class TrainConfig:
    """The whole recipe. `task` is "codec" (train/coder.py), "latents" (train/latents.py), "refiner"
    (train/refiner.py), "joiner" (train/joiner.py) or "prior" (train/symbols.py)."""

    name: str = "compact"
    task: Literal["codec", "latents", "refiner", "joiner", "prior"] = "codec"
    architecture: str = "compact"  # or one of the paper's networks, with `network` as its configuration
    network: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    start: str | None = None  # a model, or an exported file, to begin with; None: principal components
    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    objective: ObjectiveSection = field(default_factory=ObjectiveSection)
    latents: LatentsSection = field(default_factory=LatentsSection)
    sharpen: SharpenSection = field(default_factory=SharpenSection)
    refiner: RefinerSection = field(default_factory=RefinerSection)
    joiner: JoinerSection = field(default_factory=JoinerSection)
    prior: PriorSection = field(default_factory=PriorSection)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_config(path: Path) -> TrainConfig:
    """Read a recipe. Raises ConfigError on an unknown key or a value of the wrong kind."""
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the recipe {path}: {error}") from None
    return config_from_dict(values)


def config_from_dict(values: dict[str, Any]) -> TrainConfig:
    """Build a recipe from plain values, as TOML or JSON give them."""
    sections = {
        "model": ModelSection,
        "data": DataSection,
        "schedule": ScheduleSection,
        "objective": ObjectiveSection,
        "latents": LatentsSection,
        "sharpen": SharpenSection,
        "refiner": RefinerSection,
        "joiner": JoinerSection,
        "prior": PriorSection,
    }
    built = {
        name: build_section(sections[name], value, name) if name in sections else value
        for name, value in values.items()
    }
    return build_section(TrainConfig, built, "recipe")


def build_section(kind: Any, values: dict[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"unknown key {unknown[0]!r} in [{where}]", hint=f"known keys: {', '.join(sorted(known))}"
        )
    frozen = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    for key, choice in get_type_hints(kind).items():
        if get_origin(choice) is Literal and key in frozen and frozen[key] not in get_args(choice):
            allowed = ", ".join(get_args(choice))
            raise ConfigError(f"{key} in [{where}] is {frozen[key]!r}", hint=f"use one of {allowed}")
    if "stages" in frozen:
        frozen["stages"] = tuple(build_section(Stage, dict(s), "stages") for s in frozen["stages"])
    return kind(**frozen)
