"""What `alphabar demo` makes: its settings, the samples and scores of each, and the whole."""

import re
from dataclasses import dataclass, field
from typing import Any

from alphabar.core.files import plain
from alphabar.core.machine import machine
from alphabar.core.run import DISTILLED
from alphabar.data.image_set import ImageSet
from alphabar.evaluation.score import Score
from alphabar.sampling.samples import Samples


@dataclass(frozen=True)
class DemoSetting:
    """One way to sample."""

    sampler: str
    steps: int | None = None  # None: all steps of the model's schedule (1,000 where its time is continuous)
    eta: float = 0.0
    plan: str | None = None  # a call plan, as "every(3, last=50)"
    scored: bool = False  # sampled in numbers and scored; otherwise a few images to look at

    @property
    def key(self) -> str:
        """A name for files."""
        eta = f"eta_{self.eta:g}" if self.sampler == "ddim" else ""
        plan = re.sub(r"[^a-zA-Z0-9]", "_", self.plan or "").strip("_")
        return "_".join(filter(None, (self.sampler, str(self.steps or "all"), eta, plan)))

    @property
    def title(self) -> str:
        """A name for people, without the number of calls, which is measured."""
        name = {"tuned": "fitted to the model", DISTILLED: "distilled model"}.get(self.sampler, self.sampler.upper())
        return f"{name}, {self.plan}" if self.plan else name

    @property
    def line(self) -> str:
        """The name of the plot's line that it is a point of."""
        if self.sampler in ("tuned", DISTILLED):
            return self.title
        name = f"{self.title}, eta {self.eta:g}"
        return name + {0.0: ": no noise added", 1.0: ": DDPM's noise"}.get(self.eta, "")


SETTINGS = (
    DemoSetting("ddpm"),
    DemoSetting("ddpm", plan="every(3, last=50)"),
    DemoSetting("ddpm", plan="progressive"),
    *(DemoSetting("ddim", steps, eta, scored=True) for eta in (0.0, 1.0) for steps in (10, 25)),
    *(DemoSetting("tuned", steps, scored=True) for steps in (5, 10)),
    *(DemoSetting(DISTILLED, steps, scored=True) for steps in (1, 2)),
)


@dataclass
class DemoResult:
    """The samples of one setting, and their FID and KID; no scores where it is not scored or the demo was stopped before."""

    setting: DemoSetting
    samples: Samples
    scores: tuple[Score, ...] = ()

    def score(self, metric: str) -> Score | None:
        return next((s for s in self.scores if s.metric == metric), None)

    def to_json(self) -> dict[str, Any]:
        about = {"title": self.setting.title, "setting": self.setting, "record": self.samples.record}
        return {k: plain(v) for k, v in {**about, "scores": self.scores}.items()}


@dataclass
class Demo:
    """All results, the real images, and how they were made. about: n, speed, extractor, model and reference."""

    minutes: float
    seed: int
    few: int
    real: ImageSet
    about: dict[str, Any]
    results: list[DemoResult] = field(default_factory=list)
    trajectory: Samples | None = None
    seconds: float = 0.0
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            **self.about, "finished": self.finished, "seconds": round(self.seconds, 1), "minutes_asked": self.minutes,
            "seed": self.seed, "machine": machine(), "settings": [r.to_json() for r in self.results],
            "trajectory": None if self.trajectory is None else self.trajectory.record,
        }  # fmt: skip
