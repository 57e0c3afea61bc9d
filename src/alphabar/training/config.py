"""Recipes: everything that decides a run, as one frozen value. TOML in, resolved TOML out."""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_type_hints

from alphabar.data.split import HOLDOUT
from alphabar.denoiser.build import ModelRecipe
from alphabar.schedule.density import Density, LogNormal, UniformTime
from alphabar.schedule.vp import KINDS
from alphabar.training.loss import Weighting
from alphabar.training.rates import Policy

# Keys that are younger than the first runs, which must go on as they began: at their usual value they do not count.
YOUNGER = {
    "data": ("range", "alpha", "skip_broken", "axes"),
    "model": ("conditional",),
    "train": ("begin", "gamma", "label_dropout", "augment", "ema_snapshots", "accumulate", "parallel"),
}


@dataclass(frozen=True)
class DataRecipe:
    """Which images, and how they reach the network."""

    set: str = "fashion_mnist"
    """fashion_mnist, cifar10, a path, or hf:owner/name."""
    pad: int = 0
    """Black pixels added on every side in training and cut off after sampling: 2 makes 32x32 of 28x28."""
    holdout: float = HOLDOUT
    """Share of the training images, picked by content, that is never trained on."""
    limit: int = 0
    """Train on this many images only, the first ones; 0 is all of them."""
    range: tuple[float, ...] = ()
    """Two values: the bottom and the top of the scale, as 0 4095 for 12-bit images; none for 0..255, 0..65535, floats 0..1."""
    alpha: str = "refuse"
    """Of transparent images: refuse, keep (one more channel), or the background: white, black, or R,G,B."""
    skip_broken: bool = False
    """Leave damaged images out, and say so, instead of refusing the set."""
    axes: str = ""
    """nhwc or nchw, for arrays whose shape leaves open which axis holds the channels."""

    def reading(self) -> dict[str, Any]:
        """The options of `alphabar.data.sources.load`."""
        return {
            "value_range": self.range or None,
            "alpha": self.alpha,
            "skip_broken": self.skip_broken,
            "axes": self.axes or None,
        }


@dataclass(frozen=True)
class ScheduleRecipe:
    """The noise schedule."""

    kind: Literal["linear", "cosine", "log_sigma", "flow"] = "cosine"
    """linear (DDPM), cosine, log_sigma (EDM's coordinate), or flow (the straight path; with --model.prediction flow)."""
    beta_min: float = 1e-4
    """linear: beta of the first timestep."""
    beta_max: float = 0.02
    """linear: beta of the last timestep; 0.02 is DDPM's, 0.01 keeps some signal to the end."""
    steps: int = 1000
    """linear: number of timesteps."""
    s: float = 0.008
    """cosine: offset near t = 0."""
    low: float = 0.004
    """log_sigma: lowest level, in units of the network's range."""
    high: float = 160.0
    """log_sigma: highest level."""

    def spec(self) -> dict[str, Any]:
        """Plain data of the keys that this kind uses."""
        known = KINDS[self.kind].__dataclass_fields__
        return {"kind": self.kind, **{k: v for k, v in asdict(self).items() if k in known}}


@dataclass(frozen=True)
class TrainRecipe:
    """How a model is trained. Amounts are in images seen, so that they mean the same at every batch size."""

    images: int = 1_600_000
    """Budget: images seen in all."""
    batch: int = 64
    """Images an optimiser step, over all processes together."""
    seed: int = 0
    """Of the weights, the order of images, their flips, levels and noise."""
    begin: str = ""
    """Begin with the averaged weights of this run, file, diffusers:PATH or bundled, in place of new ones (fine-tuning)."""
    optimizer: Literal["adam", "adamw", "muon"] = "adamw"
    """All from torch; muon takes the matrices and leaves the rest to adamw."""
    lr: float = 2e-3
    """Highest learning rate."""
    policy: Policy = "cosine"
    """Learning rate over the budget: constant, cosine (both after a warm-up) or one_cycle."""
    warmup: int = 12_800
    """Images over which the rate rises from 0 (not for one_cycle)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of the optimiser; one_cycle sets the first one itself."""
    eps: float = 1e-8
    """Of the optimiser."""
    weight_decay: float = 0.01
    """Of the optimiser."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 clips nothing."""
    weighting: Weighting = "plain"
    """Of the loss: plain, min_snr or soft_min_snr."""
    gamma: float = 5.0
    """Of min_snr and soft_min_snr: the signal-to-noise ratio above which an error of x0 weighs no more."""
    density: Literal["time", "log_normal"] = "time"
    """Which levels training sees: uniform in the schedule's time, or log sigma normal."""
    density_mean: float = -1.2
    """Mean of log sigma, for log_normal."""
    density_std: float = 1.2
    """Standard deviation of log sigma, for log_normal."""
    stratified: bool = True
    """Spread the levels of a batch evenly over the density."""
    label_dropout: float = 0.1
    """Share of images whose class is hidden from a conditional model, which guidance needs (Ho & Salimans 2022)."""
    augment: float = 0.0
    """Probability of each of mirrors, scaling, rotation, stretching, shift; the network is told, so samples are not moved. EDM:
    0.12."""
    flip: bool = False
    """Mirror every second image. Mirrored images are learnt too: every shoe of Fashion-MNIST points left."""
    ema_half_life: float = 100_000.0
    """Half-life of the weights' moving average, in images."""
    ema_ramp: float = 0.05
    """The half-life is at most this share of the images seen."""
    ema_snapshots: int = 0
    """Snapshots over the budget, from which an average of any length is made afterwards (alphabar ema); 0 keeps none."""
    heldout_every: int = 50_000
    """Images between two looks at the held-out loss."""
    checkpoint_every: int = 50_000
    """Images between two checkpoints."""
    log_every: int = 6_400
    """Images between two lines of the log."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Of several processes: ddp gives each all weights; fsdp a part of weights, gradients, moments and averages."""
    accumulate: int = 1
    """Parts that a process's share of a batch is cut into, one after another, where it does not fit into memory at once."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision, through accelerate. Noise and loss stay in float32."""
    compile: bool = False
    """Compile the network with torch.compile; goes on without, with a warning, where no compiler is found."""
    channels_last: bool = True
    """Memory layout of the convolutions; faster on most CPUs and GPUs."""

    def density_value(self) -> Density:
        return LogNormal(self.density_mean, self.density_std) if self.density == "log_normal" else UniformTime()


@dataclass(frozen=True)
class WatchRecipe:
    """What is looked at while training runs. It changes no weight."""

    preview_every: int = 100_000
    """Images between two sheets of samples from the same seeds; 0 is never."""
    preview_n: int = 64
    """Samples on a sheet."""
    preview_steps: int = 25
    """Calls of a preview, and of a score during training (DDIM)."""
    score_every: int = 400_000
    """Images between two scores (FID and KID); 0 is never."""
    score_n: int = 1024
    """Samples of a score during training; more than the extractor has features."""
    extractor: str = "auto"
    """A path, bundled, none, or auto: the bundled one for fashion_mnist, none for other sets."""


@dataclass(frozen=True)
class Recipe:
    """A run, whole."""

    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    watch: WatchRecipe = field(default_factory=WatchRecipe)
    track: tuple[str, ...] = ()
    """Trackers that are told of the run: wandb, tensorboard, mlflow, trackio, or module:Class of your own."""

    def toml(self) -> str:
        """The resolved recipe; `resolve` reads it back to an equal value."""
        import tomli_w

        return tomli_w.dumps(_plain(asdict(self)))

    def fingerprint(self, images: str) -> str:
        """Sixteen hex digits over all that decides the weights: this recipe less `watch` and `track`, and the images'
        fingerprint."""
        decided = {k: v for k, v in asdict(self).items() if k not in ("watch", "track")}
        usual = asdict(Recipe())
        for section, keys in YOUNGER.items():
            for key in keys:
                if decided[section][key] == usual[section][key] or key in ("parallel", "accumulate"):  # which decide no weight
                    del decided[section][key]
        return hashlib.sha256(json.dumps([decided, images], sort_keys=True).encode()).hexdigest()[:16]


def shipped() -> dict[str, Path]:
    """The recipes that come with alphabar, by name."""
    folder = resources.files("alphabar") / "recipes"
    return {Path(str(f)).stem: Path(str(f)) for f in sorted(folder.iterdir(), key=str) if str(f).endswith(".toml")}


def resolve(name_or_file: str | Path = "garments", tokens: Sequence[str] = ()) -> Recipe:
    """A recipe by name (garments, ddpm_v2, ddpm_v3) or TOML file, with overrides as they are typed: ["--train.lr", "1e-3"].

    Raises ValueError for an unknown recipe, key or value, naming the nearest that exists.
    """
    path = Path(name_or_file)
    if str(name_or_file) in shipped():
        path = shipped()[str(name_or_file)]
    elif not path.is_file():
        raise ValueError(f"recipe {name_or_file} is neither a file nor one of {', '.join(shipped())}")
    try:
        layers = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{path} is no TOML file: {e}") from e
    check_keys(layers, Recipe, str(path))
    return parse(layers, tokens, str(path))


def parse(layers: dict[str, Any], tokens: Sequence[str], source: str) -> Recipe:
    """A recipe from plain data and typed overrides. Raises ValueError with cyclopts' words for what does not fit."""
    import cyclopts
    from cyclopts import App, Parameter
    from cyclopts.config import Dict

    app = App(
        name="recipe",
        default_parameter=Parameter(consume_multiple=True),
        help_flags=[],
        version_flags=[],
        config=Dict(layers, source=source, use_commands_as_keys=False),
    )

    def collect(recipe: Recipe = Recipe()) -> Recipe:
        return recipe

    collect.__annotations__["recipe"] = _flattened()
    app.default(collect)
    try:
        found = app(list(tokens), exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as e:
        raise ValueError(f"{source}: {e}") from e
    if not isinstance(found, Recipe):
        raise ValueError(f"{source}: no recipe could be made of it")
    return found


def _flattened() -> Any:
    from typing import Annotated

    from cyclopts import Parameter

    return Annotated[Recipe, Parameter(name="*")]


def check_keys(layers: dict[str, Any], kind: type, source: str, prefix: str = "") -> None:
    """Raises ValueError for a key that `kind` does not have, with its nearest neighbour."""
    known = {f.name: get_type_hints(kind)[f.name] for f in fields(kind)}
    for key, value in layers.items():
        if key not in known:
            near = get_close_matches(key, known, 1, 0.4)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{source}: unknown key {prefix}{key}; {hint}")
        if is_dataclass(known[key]):
            if not isinstance(value, dict):
                raise ValueError(f"{source}: {prefix}{key} is a section: write [{prefix}{key}]")
            check_keys(value, known[key], source, f"{prefix}{key}.")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
