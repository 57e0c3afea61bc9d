"""Options of the verbs that score, compare and measure: once for Python and the command line. Imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from alphabar.core.bounds import UNCHECKED, Batch, Bounds, Checked, Count, Seed, Share, Steps
from alphabar.sampling.options import Classes, Precision, SamplerOptions, Threshold, Weight

if TYPE_CHECKING:
    from alphabar.restoration.operators import Operator

    Task = str | Operator
else:  # what can be typed on a command line
    Task = Literal["inpaint", "super-resolution", "deblur", "denoise", "color"]

Shown = Annotated[int, Bounds(1, 10_000)]  # images of a sheet or a page


@dataclass(frozen=True)
class ScoreOptions(Checked):
    """How images are scored."""

    extractor: str = "bundled"
    """bundled (garments), auto (trained on the images of the run, and kept there), the path of one that `alphabar extractor
    train` wrote, inception:original, inception:clean, or dinov2:FOLDER."""
    extractors: tuple[str, ...] = ()
    """Two or more, in place of --extractor: the first gives every metric, and all of them the relative FID, which is the mean of
    FID divided by that of as many real images."""
    n: Count | None = None
    """Score the first N images; of a run, the number of images to draw (2,000 if left out)."""
    steps: Steps = 50
    """Steps of DDIM, where images are drawn from a run."""
    eta: Share = 0.0
    """Eta of DDIM, where images are drawn from a run."""
    precision: Precision = "float32"
    """Of the network, where images are drawn from a run: float32, bf16, or auto (the faster one, if a few images agree)."""
    metrics: tuple[str, ...] | None = None
    """Which of fid, fid_infinity, kid, precision, recall, density, coverage, all with images enough if left out; and kid_rbf,
    which is KID with the Gaussian kernel of CMMD."""
    run: Path | None = None
    """The run whose held-out images SET:heldout stands for, where the samples do not lie in its folder."""


@dataclass(frozen=True)
class ScoreReportOptions(ScoreOptions):
    """How images are scored, and what is written beside the scores."""

    curve: bool = False
    """Also compute FID and KID against the number of images, with floor and FID-infinity, and draw them."""
    trained_on: str | None = None
    """SET that the model was trained on: search for copies of its images, and write a sheet of the nearest pairs."""
    picture: Path | None = None
    """The picture to write; beside the samples if left out."""
    keep: tuple[Path, ...] = ()
    """Runs that keep the scores too, for `alphabar report`, in addition to the run that was scored."""


@dataclass(frozen=True)
class LikelihoodOptions(Checked):
    """How the likelihood of images is measured."""

    method: Literal["ode", "bound", "both"] = "both"
    """ode: the exact density, by the probability-flow ODE, with a backward pass at every network call. bound: the variational
    bound, from the denoising loss, which costs a fifth."""
    steps: Annotated[int, Bounds(1, 10_000)] = 25
    """Steps of the ODE; each takes four network calls."""
    trace: Literal["hutchinson", "exact"] = "hutchinson"
    """Trace of the Jacobian: Hutchinson's estimate from one random vector, or exact, with a backward pass for every dimension,
    for small images."""
    draws: Annotated[int, Bounds(1, 1000)] = 1
    """Draws of noise for each image: of dequantisation and trace, and at each level of the bound."""
    levels: Annotated[int, Bounds(2, 65_536)] | None = None
    """Values that a pixel can have: 4096 for 12 bits in 16-bit files. None: 256 for 8 bits, 65,536 for 16; floats have none."""
    seed: Seed = 0
    """Seed of all noise."""
    batch: Batch = 64
    """Images in one network call."""


@dataclass(frozen=True)
class AnomalyOptions(Checked):
    """How unusual images are looked for."""

    score: Literal["levels", "middle", "all"] = "levels"
    """levels: how far the losses at all noise levels are from those of usual images, up or down. middle: the loss at middle
    levels. all: the mean over all levels, to which the bound of the likelihood is proportional."""
    usual_n: Count = 1000
    """Usual images, at most: half of them decide what is usual, the others are compared."""
    draws: Annotated[int, Bounds(1, 1000)] = 1
    """Draws of noise for each image and level."""
    seed: Seed = 0
    """Seed of the noise."""
    batch: Batch = 64
    """Images in one network call."""


@dataclass(frozen=True)
class DistillOptions(Checked):
    """How a model is tuned for one or two network calls."""

    calls: Annotated[int, Bounds(1, 10)] = 2
    """Network calls an image, in previews and scores on the way; the model itself serves any small number."""
    images: Count = 400_000
    """Length of the tuning, in images seen; --minutes gives it in time."""
    q: Annotated[tuple[float, ...], Bounds(2, 1e6)] = (4.0, 8.0, 16.0, 32.0)
    """Of each stage of equal length; the gap between the two noise levels that are compared shrinks as q grows."""
    like: tuple[str, ...] = ()
    """Second stage, of a run that is distilled: extractor files in whose features the images drawn shall be distributed as the
    training images; two or more of other seeds and widths than the one that scores."""
    lr: Annotated[float, Bounds(0, 1, above=True)] | None = None
    """Highest learning rate, which falls as a cosine; 1e-3 if left out, or 3e-5 with --like."""
    batch: Batch = 64
    """Images in a step."""
    seed: Seed = 0
    """Decides the order of images, noise levels and noise."""


@dataclass(frozen=True)
class RestoreOptions(Checked):
    """What was measured of the images, and how images that fit it are drawn."""

    task: Annotated[Task, UNCHECKED] = "inpaint"
    """inpaint (some pixels are missing), super-resolution, deblur, denoise, or color (grey to RGB). In Python also a linear
    operator of yours, `alphabar.restoration.operators.Pair`."""
    mask: str = "box"
    """For inpaint, what is missing: box (the middle), half (the right half), random (the share --share of the pixels), or a
    picture of the size of the images in which white is missing."""
    share: Annotated[float, Bounds(0, 1, above=True, below=True)] = 0.8
    """Of the pixels, missing with --mask random."""
    factor: Annotated[int, Bounds(2, 256)] = 4
    """For super-resolution: sides are this many times as long as those of the measurement, whose pixels are means of squares."""
    blur: Annotated[float, Bounds(0, 1000, above=True)] = 1.5
    """For deblur: standard deviation of the Gaussian in pixels; borders reflect."""
    sigma: Annotated[float, Bounds(0, 100)] | None = None
    """Standard deviation of the noise of the measurement, where black and white are -1 and 1 (0.1 is 12.75 of 255 levels). Left
    out: that of rounding to the levels of the images; for denoise, it is estimated."""
    degrade: bool = False
    """The images are originals: degrade them first, and score what is restored (PSNR, SSIM, calibration). Take images that the
    model was not trained on, as SET:test or SET:heldout."""
    method: str | None = None
    """mmps, ddrm, diffpir, repaint, dps, daps or gibbs; left out, mmps, and for denoise gibbs (docs/restore.md)."""
    calls: Steps = 30
    """Network calls of a draw, at most."""
    draws: Annotated[int, Bounds(1, 10_000)] = 16
    """Restored images of each measurement: their spread is the uncertainty."""
    calibrate: Path | None = None
    """OUT.npz of a restoration with --degrade by the same settings, of 20 images or more that are not among these, better 100:
    the 90 % intervals are made wider or narrower until they would have held 90 % of its pixels."""
    n: Count | None = None
    """The first N images; with --degrade N drawn at random. Left out: 16 at most."""
    options: SamplerOptions | None = None
    """Further options of the method by name: --options.lam 3, in Python {"lam": 3.0}."""
    clip: bool = True
    """Clip x0_hat to [-1, 1], where images lie."""
    classes: Classes | None = None
    """For a class-conditional run: names or numbers of classes, which the images have in turns; left out, none is known."""
    guidance: Weight | None = None
    """Weight of classifier-free guidance: 1 is none; any other doubles the network calls."""
    seed: Seed = 0
    """Of all noise. Draw k of image i is the same whatever the batch and the number of images."""
    batch: Batch = 64
    """Images in one network call."""


@dataclass(frozen=True)
class CompareOptions(ScoreOptions):
    """How two sets of images are compared, and where the result is kept."""

    picture: Path = Path("compare.png")
    """The picture to write."""
    keep: tuple[Path, ...] = ()
    """Run folders that keep the comparison too."""
    wandb_report: bool = False
    """Save the comparison as a report in Weights & Biases too, with the curves of A and B where they are tracked runs."""


@dataclass(frozen=True)
class EmaOptions(Checked):
    """How averages of the weights are compared."""

    lengths: Annotated[tuple[float, ...], Bounds(0, 0.289, above=True, below=True)] = (0.03, 0.05, 0.075, 0.10, 0.15, 0.20)
    """Lengths to try, relative to the whole training: more than 0 and less than 0.289."""
    extractor: str = "bundled"
    """Extractor of the features: bundled, auto (that of the run), or a path."""
    n: Count = 1000
    """Images drawn with each average."""
    sampler: str = "unipc"
    """Name of a sampler (`alphabar samplers` lists them)."""
    steps: Steps = 20
    """Steps of the sampler."""
    seed: Seed = 0
    """Seed of the noise, the same for each average."""
    device: str | None = None
    """cpu, cuda or mps; the fastest there is if left out."""


@dataclass(frozen=True)
class DemoOptions(Checked):
    """Where the demo goes, and how long it takes."""

    out: Path = Path("demo")
    """Folder for the page, the sheets and the results."""
    minutes: Annotated[float, Bounds(0, 1e5, above=True)] = 2.5
    """Minutes of sampling and scoring; more minutes, more images."""
    n: Count | None = None
    """Images of a scored setting, in place of the number that fits into the minutes."""
    few: Shown = 8
    """Images of a setting that is too slow to be scored, and images in a row of the page."""
    seed: Seed = 0
    """Seed of the noise."""
    device: str | None = None
    """cpu, cuda or mps; the fastest there is if left out."""


@dataclass(frozen=True)
class ExportOptions(Checked):
    """How a run is written for other programs."""

    checkpoint: str = "last"
    """last, best, or ema:LENGTH."""
    half: bool = False
    """Of an .onnx file: weights in 16 bits, as pages always have them. The file computes in 32 bits as before."""
    pipeline: Literal["ddim", "ddpm"] = "ddim"
    """Of a folder for diffusers: its pipeline."""
    title: str | None = None
    """Of a page; the name of the run if left out."""


@dataclass(frozen=True)
class PushOptions(Checked):
    """How a run is put on the Hugging Face Hub."""

    license: str | None = None
    """Required: the licence of the weights, which you decide, as the Hub calls it: apache-2.0, mit, cc-by-4.0, other, ..."""
    private: bool = False
    """A new repository is seen by you, or the organisation, alone."""
    checkpoint: str = "last"
    """last, best, or ema:LENGTH."""
    extractor: str | None = None
    """A feature extractor that travels along: auto (that of the run), bundled, or a path."""
    shown: Shown = 32
    """Images on the sheet of the card, which are drawn anew."""
    dry_run: bool = False
    """Send nothing: write what would be sent, the card among it, into the folder OUT."""
    out: Path | None = None
    """With dry_run: a new or empty folder; NAME_on_hub if left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{1,60}", self.license):
            raise ValueError(
                f"license = {self.license!r:.80}: give a name of the Hub's list, in small letters, as apache-2.0 or mit"
            )
        if self.out is not None and not self.dry_run:
            raise ValueError(f"out = {self.out}: it is the folder of --dry-run; leave it out, or add --dry-run")


@dataclass(frozen=True)
class AppOptions(Checked):
    """Where the page is served, and what its scores are measured against."""

    port: Annotated[int, Bounds(1, 65_535)] = 7860
    """Port to listen at."""
    host: str = "127.0.0.1"
    """127.0.0.1 is this machine alone; 0.0.0.0 lets everyone use the page who reaches this machine over the network."""
    against: str | None = None
    """SET[:SPLIT] of real images for scores; fashion_mnist:test for the bundled run if left out."""
    extractor: str | None = None
    """Extractor of the scores: bundled, a path, inception:original or inception:clean; if left out, that of the run's recipe."""


@dataclass(frozen=True)
class ExperimentOptions(Checked):
    """How the trainings of an experiment are carried out; none of this changes their results."""

    reuse: tuple[Path, ...] = ()
    """Folders of other experiments: finished trainings of the same recipe, seed, budget and images are copied from them."""
    at_once: Annotated[int, Bounds(1, 1024)] = 1
    """Trainings that run side by side here, each in its own process: small networks leave a GPU idle most of the time."""
    ray: str | None = None
    """local, or the address of a Ray cluster whose machines all see the folder of the experiment under the same name."""
    device: str | None = None
    """Device for sampling: cpu, cuda or mps. None: the fastest there is."""
    shown: Shown = 16
    """Images of every variant on the page."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray is not None and self.at_once > 1:
            raise ValueError(f"at_once = {self.at_once}: leave it out with ray, which has its own share of machines")


@dataclass(frozen=True)
class SweepOptions(Checked):
    """Which settings a sweep tries, and how each of them is sampled and scored."""

    samplers: tuple[str, ...] | None = None
    """Names of samplers (`alphabar samplers` lists them), tuned, or tuned:NAME; with options as "heun(s_churn=40)". None: ddim,
    the usual fast samplers, and tuned where the run has fitted samplers."""
    calls: tuple[Steps, ...] | None = None
    """The most network calls an image; each sampler takes as many steps as they pay for. None: 5 8 10 15 20 50, or none of them
    where steps are given."""
    steps: tuple[Steps, ...] = ()
    """Numbers of steps to try in addition to those that follow from calls."""
    etas: Annotated[tuple[Share, ...] | None, Parameter(alias="--eta")] = None
    """Values of eta for the samplers that take it. None: 0 and 1 for ddim and samplers like it, 1 for stochastic ones."""
    plans: tuple[str, ...] = ("full",)
    """Call plans: full calls the network at every step, "every(3)" at every third. A plan takes as many steps as calls allow."""
    grids: tuple[str, ...] = ("default",)
    """Grids of noise levels, named as for `sample`; default is the model's."""
    clip: bool | None = None
    """Clip x0_hat to [-1, 1] at every step. None: as the model says."""
    threshold: Threshold | None = None
    """Dynamic thresholding of x0_hat: the share of pixels that is kept unclipped, such as 0.995."""
    guidance: Weight = 1.0
    """Weight of classifier-free guidance of a class-conditional model, which samples all classes in turns. 1 is none; any other
    doubles the network calls."""
    n: Count = 2000
    """Images a setting."""
    seed: Seed = 0
    """Seed of the noise, the same under every setting."""
    batch: Batch = 64
    """Images in one network call."""
    extractor: str | Path = "bundled"
    """Feature extractor of the scores: bundled, auto (that of the run), a path, inception:original or inception:clean."""
    metrics: tuple[str, ...] = ("fid", "kid")
    """Metrics, as for `score`. The first one sorts the table."""
    name: str = "default"
    """The sweep is kept in RUN/sweeps/NAME."""
    out: Path | None = None
    """Folder to keep the sweep in, in place of RUN/sweeps/NAME. None, for bundled and for a single file: sweep/."""
    checkpoint: str = "last"
    """last or best."""
    device: str | None = None
    """cpu, cuda or mps. None: the fastest there is."""
    fast: str | None = None
    """How the network is run, as for `sample`. None: as a plain PyTorch module."""
    ray: str | None = None
    """local, or the address of a Ray cluster, whose machines sample and score the settings. They must find run, extractor and
    real images under the names given here. Needs pip install 'alphabar[ray]'."""
    shown: Shown = 16
    """Images of every setting on the page."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.metrics:
            raise ValueError("no metrics were named: give at least one, as fid")

    def tried(self) -> dict[str, Any]:
        """What `alphabar.sampling.settings.settings` takes: the combinations to try."""
        names = ("samplers", "steps", "etas", "plans", "grids", "clip", "threshold")
        calls = {} if self.calls is None and not self.steps else {"calls": self.calls or ()}
        return {name: getattr(self, name) for name in names} | calls
