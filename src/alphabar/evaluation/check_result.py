"""What `check` finds of an extractor: scores by corruption and severity, and which corruptions the metrics rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from alphabar.core.files import Record
from alphabar.core.machine import versions
from alphabar.evaluation.estimate import Estimate, t95

DRAWS = 16  # random draws from the pool, where a score's variation is measured over draws
NOT_ASKED = "not asked for"


@dataclass(frozen=True)
class SeverityScores(Record):
    """The scores at one severity, by metric."""

    severity: float
    scores: Mapping[str, Estimate]
    rise: Mapping[str, Estimate]  # over the severity before; empty for the first


@dataclass(frozen=True, eq=False)
class CorruptionResult(Record):
    """Scores of one corruption at rising severity, from none (the first) to the strongest."""

    name: str
    unit: str  # of severity
    n: int  # images at every severity
    severities: tuple[SeverityScores, ...]
    shown: NDArray[Any]  # [severities, 9, h, w, c]: some images of each
    floor_se: Mapping[str, float]  # by metric: how much the choice of n uncorrupted images moves their score
    note: str | None = None  # anything unusual

    @property
    def ranked(self) -> dict[str, bool]:
        """By metric, whether the score at every severity is above the one before."""
        return {metric: self.reason(metric) is None for metric in self.severities[0].scores}

    def reason(self, metric: str) -> str | None:
        """Why this metric does not rank the corruption, or None where it does."""
        for before, now in pairwise(self.severities):
            rise = now.rise[metric]
            if rise.interval is None or not rise.interval[0] > 1e-9 * abs(now.scores[metric].value):  # more than rounding
                return f"{now.severity:g} is not above {before.severity:g}: rise {rise}"
        first = self.severities[1]
        step, limit = first.rise[metric].value, t95(DRAWS) * self.floor_se[metric]
        if not step > limit:
            return f"{first.severity:g} is within the floor's variation: rise {step:.4g}, where {limit:.4g} may be chance"
        return None


@dataclass(frozen=True, eq=False)
class CheckResult:
    """The check of one extractor, over all corruptions."""

    extractor: str  # fingerprint
    name: str
    reference: str  # fingerprint
    reference_name: str
    n_reference: int
    seed: int
    corruptions: tuple[CorruptionResult, ...]
    skipped: Mapping[str, str]  # corruptions that were not tested, and why

    @property
    def failed(self) -> list[str]:
        """The corruptions that are not ranked, as "shift", or "shift (KID)" where only one metric does not rank it."""
        out = []
        for result in self.corruptions:
            bad = [metric for metric, good in result.ranked.items() if not good]
            if bad:
                out.append(result.name + ("" if len(bad) == len(result.ranked) else f" ({', '.join(bad).upper()})"))
        return out

    @property
    def complete(self) -> bool:
        """Whether every corruption was asked for; those that cannot be applied to such images do not count."""
        return NOT_ASKED not in self.skipped.values()

    @property
    def verdict(self) -> str:
        """ "passed", or "failed: " and the corruptions."""
        return f"failed: {', '.join(self.failed)}" if self.failed else "passed"

    def _about(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict, "extractor": self.extractor, "reference": self.reference,
            "reference_name": self.reference_name, "n_reference": self.n_reference, "seed": self.seed,
            "skipped": dict(self.skipped), "versions": versions(),
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain data, for json.dumps: every score, rise and reason."""
        results = {
            r.name: r.to_json() | {"ranked": r.ranked, "reasons": {metric: r.reason(metric) for metric in r.ranked}}
            for r in self.corruptions
        }
        return self._about() | {"failed": self.failed, "name": self.name, "corruptions": results}

    def summary(self) -> dict[str, Any]:
        """The short form, which is stored in the extractor's file."""
        return self._about() | {"corruptions": {r.name: {"n": r.n, "ranked": r.ranked} for r in self.corruptions}}
