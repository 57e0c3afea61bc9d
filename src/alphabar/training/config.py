"""Recipes: everything that decides a run, as one frozen value that is read from TOML and written as TOML."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from alphabar.core.bounds import Batch, Bounds, Checked, Count, CountOrZero, NotNegative, Positive, Seed, Share, Steps, exact
from alphabar.core.messages import as_path
from alphabar.core.places import with_places, without_places
from alphabar.core.run import flat
from alphabar.core.stored_names import RECIPE, renamed
from alphabar.core.stored_values import read_toml
from alphabar.core.suggest import did_you_mean
from alphabar.data.split import HOLDOUT
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.schedule.density import Density, LogNormal, UniformTime
from alphabar.schedule.kinds import KINDS

# Keys that were added after the first runs. At its default such a key does not count in the fingerprint, so that older runs
# keep theirs and can be resumed.
ADDED_LATER = {
    "data": ("range", "alpha", "skip_broken", "axes", "size", "fit"),
    "model": ("conditional",),
    "train": (
        "init_from", "gamma", "label_dropout", "augment", "ema_snapshots", "consistency", "drawn_like", "earlier_lengths",
        "stable_targets",
    ),
}  # fmt: skip
NO_EFFECT_ON_WEIGHTS = ("parallel", "accumulate", "recompute", "early_stop")  # keys of [train]

Beta = Annotated[float, Bounds(0, 1, above=True, below=True)]
Sigma = Annotated[float, Bounds(0, 1e6, above=True)]
Policy = Literal["constant", "cosine", "one_cycle"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class DataRecipe(Checked):
    """Which images are trained on, and how they reach the network."""

    section = "data."

    set: str = "fashion_mnist"
    """fashion_mnist, cifar10, a path, or hf:owner/name."""
    pad: Annotated[int, Bounds(0, 1024)] = 0
    """Black pixels added on every side in training and cut off after sampling: 2 makes 32x32 of 28x28."""
    holdout: Annotated[float, Bounds(0, 1, below=True)] = HOLDOUT
    """Share of the training images, chosen by their content, that is never trained on (the validation images)."""
    limit: CountOrZero = 0
    """Train on so many images only, drawn from the set, the same at every run; 0 is all of them."""
    range: Annotated[tuple[float, ...], Bounds(-1e9, 1e9)] = ()
    """Bottom and top of the scale, as 0 4095 for 12-bit images; none: 0..255, 0..65535, or 0..1 for floats."""
    alpha: str = "refuse"
    """What to do with transparent images: refuse, keep (one more channel), or a background: white, black, or R,G,B."""
    skip_broken: bool = False
    """Leave out damaged images and list them, instead of refusing the set."""
    axes: str = ""
    """nhwc or nchw, for arrays whose shape does not say which axis holds the channels."""
    size: str = ""
    """One size for images of several: a side, or HEIGHTxWIDTH; none: they must have one."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """The way to that size: crop keeps the middle, pad adds a background, stretch keeps no ratio."""

    def reading(self) -> dict[str, Any]:
        """The options of `alphabar.data.image_set.load`."""
        fit = self.fit if self.size or self.fit != "crop" else None
        return {
            "value_range": self.range or None, "alpha": self.alpha, "skip_broken": self.skip_broken, "axes": self.axes or None,
            "size": self.size or None, "fit": fit,
        }  # fmt: skip


@dataclass(frozen=True)
class ScheduleRecipe(Checked):
    """The noise schedule."""

    section = "schedule."

    kind: Literal["linear", "cosine", "log_sigma", "flow"] = "cosine"
    """linear (DDPM), cosine, log_sigma (EDM's coordinate), or flow (the straight path; with --model.prediction flow)."""
    beta_min: Beta = 1e-4
    """linear: beta of the first timestep."""
    beta_max: Beta = 0.02
    """linear: beta of the last timestep; 0.02 is DDPM's, 0.01 keeps some signal to the end."""
    steps: Annotated[int, Bounds(2, 100_000)] = 1000
    """linear: number of timesteps."""
    s: Annotated[float, Bounds(0, 10)] = 0.008
    """cosine: offset near t = 0."""
    low: Sigma = 0.004
    """log_sigma: lowest sigma, in units of the network's range."""
    high: Sigma = 160.0
    """log_sigma: highest sigma."""

    def spec(self) -> dict[str, Any]:
        """Plain data of the keys that this kind uses."""
        known = KINDS[self.kind].__dataclass_fields__
        return {"kind": self.kind, **{k: v for k, v in asdict(self).items() if k in known}}


@dataclass(frozen=True)
class TrainRecipe(Checked):
    """How a model is trained. Amounts are counted in images seen, so that they mean the same at every batch size."""

    section = "train."
    images: Count = 1_600_000
    """Length of the training: images seen, repeated ones included."""
    earlier_lengths: tuple[Count, ...] = ()
    """Of a run whose length was changed (--resume --images N): for each change, the images seen by then and the length before."""
    batch: Batch = 64
    """Images per optimiser step, over all processes together."""
    seed: Seed = 0
    """Decides the initial weights, the order of images, their flips, noise levels and noise."""
    init_from: str = ""
    """Initialise with the averaged weights of this run, file, diffusers:PATH, hf:OWNER/NAME or bundled (fine-tuning), instead of
    randomly."""
    optimizer: Literal["adam", "adamw", "muon"] = "adamw"
    """muon updates the weight matrices, and adamw everything else, and learns more from as many images: plans take it."""
    lr: Annotated[float, Bounds(0, 1e3)] = 2e-3
    """Highest learning rate."""
    policy: Policy = "cosine"
    """Learning rate over the training: constant, cosine (both after a warm-up) or one_cycle."""
    warmup: CountOrZero = 12_800
    """Images over which the learning rate rises from 0 (not used by one_cycle); if more than half of all, a tenth of them."""
    betas: Annotated[tuple[float, float], Bounds(0, 1, below=True)] = (0.9, 0.99)
    """betas of the optimiser; one_cycle sets the first one itself."""
    eps: Annotated[float, Bounds(0, 1, above=True)] = 1e-8
    """eps of the optimiser."""
    weight_decay: Annotated[float, Bounds(0, 1e3)] = 0.01
    """Weight decay of the optimiser."""
    clip: Annotated[float, Bounds(0, note="0 does not clip")] = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    weighting: str = "plain"
    """Weighting of the loss by noise level: plain, min_snr, soft_min_snr, or one from `register_weighting`."""
    gamma: Positive = 5.0
    """min_snr and soft_min_snr: the signal-to-noise ratio above which the weight of an error in x0 grows no more."""
    consistency: Annotated[tuple[float, ...], Bounds(2, 1e6)] = ()
    """Consistency tuning for one or two network calls (`alphabar distill`): q of its stages, as 4 16 64; none: denoising."""
    drawn_like: tuple[str, ...] = ()
    """With consistency: extractor files in whose features images of one and two calls shall be distributed as real ones."""
    stable_targets: CountOrZero = 0
    """At high noise, learn the mean of x0 given x over this many training images, not the one that x came from; 0 never does."""
    density: Literal["time", "log_normal"] = "time"
    """Distribution of noise levels in training: uniform in the schedule's time, or log sigma normal."""
    density_mean: Annotated[float, Bounds(-20, 20)] = -1.2
    """log_normal: mean of log sigma."""
    density_std: Annotated[float, Bounds(0, 20, above=True)] = 1.2
    """log_normal: standard deviation of log sigma."""
    stratified: bool = True
    """Spread the noise levels of a batch evenly over the distribution."""
    label_dropout: Share = 0.1
    """Share of images whose class is hidden from a conditional model, which guidance needs (Ho & Salimans 2022)."""
    augment: Share = 0.0
    """Probability of each of mirrors, scaling, rotation, stretching, shift; samples show none of it. EDM: 0.12."""
    flip: bool = False
    """Mirror every second image. The model then generates mirrored images too: every shoe of Fashion-MNIST points left."""
    ema_half_life: NotNegative = 100_000.0
    """Half-life of the moving average of the weights (EMA), in images."""
    ema_ramp: NotNegative = 0.05
    """The half-life is at most this share of the images seen."""
    ema_snapshots: Annotated[int, Bounds(0, 10_000)] = 0
    """Snapshots kept over the training, from which `alphabar ema` makes an average of any length; 0 keeps none."""
    heldout_every: CountOrZero = 50_000
    """Images between two measurements of the held-out loss (the validation loss)."""
    early_stop: bool = False
    """End at the best checkpoint once the held-out loss has risen beyond its interval or samples are copies (watch.copies)."""
    checkpoint_every: CountOrZero = 50_000
    """Images between two checkpoints."""
    log_every: CountOrZero = 6_400
    """Images between two records of the training loss."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: ddp gives each all weights; fsdp a part of weights, gradients, moments and averages."""
    accumulate: Batch = 1
    """Micro-batches: number of parts into which each process splits its share of a batch, to save memory."""
    recompute: bool = False
    """Compute activations again in the backward pass: about a third of the memory, at 1.3 times the time. Only for "unet"."""
    precision: Precision = "no"
    """Mixed precision, by accelerate. Noise and loss stay in float32."""
    compile: bool = False
    """Compile the network with torch.compile; trains without it, with a warning, where no compiler is found."""
    channels_last: bool = True
    """Memory layout of the convolutions; faster on most CPUs and GPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.earlier_lengths) % 2 or len(self.earlier_lengths) > 200:
            raise ValueError(f"train.earlier_lengths {self.earlier_lengths}: give pairs of images seen and length, 100 at most")

    @cached_property
    def earlier(self) -> "TrainRecipe | None":
        """What this was before the run's length was last changed; None where it never was."""
        *before, _, length = self.earlier_lengths or (0, 0)
        return replace(self, images=length, earlier_lengths=tuple(before)) if self.earlier_lengths else None

    @property
    def warmup_images(self) -> int:
        """Images of the warm-up. One that is longer than half of the training becomes a tenth of it."""
        too_long = self.policy != "one_cycle" and 2 * self.warmup > self.images
        return self.images // 10 if too_long else self.warmup

    def density_value(self) -> Density:
        """The distribution that noise levels are drawn from."""
        return LogNormal(self.density_mean, self.density_std) if self.density == "log_normal" else UniformTime()


@dataclass(frozen=True)
class WatchRecipe(Checked):
    """What is measured and shown during training. It changes no weight."""

    section = "watch."
    preview_every: CountOrZero = 100_000
    """Images between two sheets of samples, always from the same seeds; 0 makes none."""
    preview_first: CountOrZero = 0
    """Images until the first sheet; the interval then doubles up to preview_every. 0: preview_every from the start."""
    preview_n: Annotated[int, Bounds(1, 10_000)] = 64
    """Samples on a sheet."""
    preview_steps: Steps = 25
    """Steps of DDIM for a preview, and for a score during training."""
    heldout_n: Count = 512
    """Held-out images of a held-out loss, at most."""
    score_every: CountOrZero = 400_000
    """Images between two scores (FID and KID) and tests for copies; 0 makes none."""
    score_n: Annotated[int, Bounds(2, 10**7)] = 1024
    """Samples for a score during training. FID needs more than the extractor has features, KID two."""
    extractor: str = "auto"
    """A path, bundled, none, or auto: the bundled one for fashion_mnist, else RUN/extractor/auto.safetensors, if there is one."""
    copies: bool = False
    """Test the samples of each score for copies of training images, in pixels. It needs no extractor."""


@dataclass(frozen=True)
class Recipe(Checked):
    """Everything that decides a run. A key is set in TOML, on the command line, or with `dataclasses.replace`.

    >>> from alphabar import Recipe
    >>> Recipe().train.lr
    0.002
    """

    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    watch: WatchRecipe = field(default_factory=WatchRecipe)
    track: tuple[str, ...] = ()
    """Trackers that follow the run: wandb, tensorboard, mlflow, trackio, or your own as module:Class."""

    def toml(self, places: bool = True) -> str:
        """The resolved recipe; `resolve` reads it back to an equal value. Without `places`, a path is its last part."""
        import tomli_w

        return tomli_w.dumps(asdict(self) if places else without_places(asdict(self)))

    @classmethod
    def named(cls, name_or_file: str | Path) -> "Recipe":
        """A shipped recipe, or one in a TOML file; see `resolve`."""
        return resolve(name_or_file)

    def with_(self, **sections: Any) -> "Recipe":
        """This recipe with other values of some keys, by section.

        Raises ValueError for an unknown key, naming the most similar one, and for a value that a key does not take.

        >>> Recipe.named("garments").with_(train={"lr": 1e-3}, model={"channels": (32, 64)}).train.lr
        0.001
        """
        check_keys(sections, Recipe, "Recipe.with_")
        for section, values in sections.items():
            if isinstance(values, Mapping):
                check_keys(dict(values), type(getattr(self, section)), "Recipe.with_", f"{section}.")
        changed = {k: replace(getattr(self, k), **v) if isinstance(v, Mapping) else v for k, v in sections.items()}
        return replace(self, **changed)

    def decisive(self) -> dict[str, Any]:
        """The keys that decide the weights, but for the images: flat, as plain data of JSON."""
        keys: dict[str, Any] = flat(json.loads(json.dumps(asdict(self))))
        free = {"data.set", "track", *(f"train.{key}" for key in NO_EFFECT_ON_WEIGHTS)}
        return {k: v for k, v in keys.items() if k not in free and not k.startswith("watch.")}

    def earlier_recipes(self) -> list["Recipe"]:
        """The recipes that this one was before each change of its length, the latest first."""
        if (before := self.train.earlier) is None:
            return []
        changed = replace(self, train=before)
        return [changed, *changed.earlier_recipes()]

    def fingerprint(self, images: str) -> str:
        """Sixteen hex digits of all that decides the weights: the recipe without `watch` and `track`, the images' fingerprint."""
        decisive = {k: v for k, v in asdict(self).items() if k not in ("watch", "track")}
        default = asdict(Recipe())
        for section, key in ((section, key) for section, keys in ADDED_LATER.items() for key in keys):
            if decisive[section][key] == default[section][key]:
                del decisive[section][key]
        for key in NO_EFFECT_ON_WEIGHTS:
            del decisive["train"][key]
        decisive = renamed(decisive, {new: old for old, new in RECIPE.items()})  # so that renaming a key changes no fingerprint
        return hashlib.sha256(json.dumps([decisive, images], sort_keys=True).encode()).hexdigest()[:16]


def shipped() -> dict[str, Path]:
    """The recipes that are part of the package, by name."""
    folder = Path(str(resources.files("alphabar") / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def resolve(name_or_file: str | Path = "garments", tokens: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies overrides.

    Args:
        name_or_file: a shipped recipe (garments, edm, flow, cifar10, ddpm_v2, ddpm_v3) or a TOML file.
        tokens: overrides as on the command line, `["--train.lr", "1e-3", "--model.channels", "64", "128"]`.

    Returns:
        The recipe with every key set. `toml()` writes it to a file.

    Raises:
        ValueError: for an unknown recipe or key, naming the most similar one, and for a value of the wrong type.

    >>> from alphabar import resolve
    >>> resolve("garments", ["--train.lr", "1e-3"]).train.lr
    0.001
    """
    path = shipped().get(str(name_or_file), as_path(name_or_file))
    if not path.is_file():
        raise ValueError(f"recipe {name_or_file} is neither a file nor one of {', '.join(shipped())}")
    values = renamed(read_toml(path), RECIPE)
    check_keys(values, Recipe, str(path))
    return parse(with_places(values, path), tokens, str(path))


def parse(values: dict[str, Any], tokens: Sequence[str], source: str) -> Recipe:
    """A recipe from plain data and overrides. Raises ValueError, naming `source`, for an unknown key or a value of wrong type."""
    import cyclopts
    from cyclopts import App, Parameter
    from cyclopts.config import Dict

    config = Dict(renamed(values, RECIPE), source=source, use_commands_as_keys=False)
    app = App(default_parameter=Parameter(consume_multiple=True, converter=exact), help_flags=[], version_flags=[], config=config)

    @app.default
    def collect(recipe: Annotated[Recipe, Parameter(name="*")] = Recipe()) -> Recipe:
        return recipe

    try:
        recipe: Recipe = app(list(tokens), exit_on_error=False, print_error=False, result_action="return_value")
    except (cyclopts.CycloptsError, ValueError) as e:
        if not tokens:
            raise ValueError(f"{source}: {e}") from e
        parse(values, (), source)  # names the file, if the value stands there
        raise ValueError(str(e)) from e
    return recipe


def typed(tokens: Sequence[str]) -> dict[str, Any]:
    """The keys that tokens of a command line set, as `Recipe.with_` takes them.

    >>> typed(["--train.lr", "1e-3", "--model.no-conditional"])
    {'train': {'lr': 0.001}, 'model': {'conditional': False}}
    """
    recipe, found = parse({}, tokens, "the command line"), dict[str, Any]()
    for token in tokens:
        section, _, key = token.partition("=")[0].removeprefix("--").replace("-", "_").partition(".")
        if not token.startswith("--") or not hasattr(recipe, section):
            continue
        value = getattr(recipe, section)
        key = key if hasattr(value, key) else key.removeprefix("no_")
        if key:
            found.setdefault(section, {})[key] = getattr(value, key)
        else:
            found[section] = value
    return found


def check_keys(values: dict[str, Any], kind: type, source: str, prefix: str = "") -> None:
    """Raises ValueError for a key that the dataclass `kind` does not have, naming the most similar one."""
    hints = get_type_hints(kind)
    known = {f.name: hints[f.name] for f in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{source}: unknown key {prefix}{key}; {did_you_mean(key, known)}")
        if is_dataclass(known[key]):
            if not isinstance(value, dict):
                raise ValueError(f"{source}: {prefix}{key} is a section: write [{prefix}{key}]")
            check_keys(value, known[key], source, f"{prefix}{key}.")
