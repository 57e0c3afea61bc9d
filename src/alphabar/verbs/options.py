"""Options of the verbs that score, compare and measure: once for Python and the command line. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ScoreOptions:
    """How images are scored."""

    extractor: str = "bundled"
    """bundled (garments), the path of one that `alphabar extractor train` wrote, inception:original or inception:clean."""
    n: int | None = None
    """Score the first N images; of a run, the number of images to draw (2,000 if left out)."""
    steps: int = 50
    """Steps of DDIM, where images are drawn from a run."""
    eta: float = 0.0
    """Eta of DDIM, where images are drawn from a run."""
    metrics: tuple[str, ...] | None = None
    """Which of fid, fid_infinity, kid, precision, recall, density, coverage; all of them if left out."""


@dataclass(frozen=True)
class ScoreReportOptions(ScoreOptions):
    """How images are scored, and what is written beside the scores."""

    curve: bool = False
    """Also compute FID and KID against the number of images, with floor and FID-infinity, and draw them."""
    trained_on: str | None = None
    """SET that the model was trained on: search for copies of its images, and write a sheet of the nearest pairs."""
    picture: Path | None = None
    """The picture to write; beside the samples if left out."""


@dataclass(frozen=True)
class CompareOptions(ScoreOptions):
    """How two sets of images are compared, and where the result is kept."""

    picture: Path = Path("compare.png")
    """The picture to write."""
    keep: tuple[Path, ...] = ()
    """Run folders that keep the comparison too."""
    wandb_report: bool = False
    """Save the comparison as a report in Weights & Biases too, with the curves of A and B where they are tracked runs."""
