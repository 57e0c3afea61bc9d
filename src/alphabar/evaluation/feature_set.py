"""Features of one set of images, with what the metrics compute from that set alone, each computed once."""

from dataclasses import replace
from functools import cached_property
from hashlib import blake2b

from alphabar.core.types import Features
from alphabar.evaluation import fid_uncertainty
from alphabar.evaluation.estimate import Estimate
from alphabar.evaluation.kid import Within, within
from alphabar.evaluation.prdc_neighbours import Balls, balls
from alphabar.features.extract import FeatureStore, sample_rows
from alphabar.features.stats import FeatureStats

LIMIT = 50_000  # images per side whose pairs are compared, by KID and by precision, recall, density and coverage
NEIGHBOUR = 5  # the k of precision, recall, density and coverage


class FeatureSet:
    """Features of one side of a score, generated or real."""

    def __init__(self, store: FeatureStore, seed: int) -> None:
        self.store, self.seed = store, seed

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def rows(self) -> Features:
        """Features of a random part, from which FID's influences are computed; the same images in every set of n."""
        return self.store.rows(sample_rows(len(self), fid_uncertainty.ROWS, self.seed))

    @cached_property
    def paired(self) -> Features:
        """Features of the images whose pairs are compared."""
        return self.store.all() if len(self) <= LIMIT else self.store.rows(sample_rows(len(self), LIMIT, self.seed))

    @cached_property
    def balls(self) -> Balls:
        return balls(self.paired, NEIGHBOUR)

    @cached_property
    def within(self) -> Within:
        return within(self.paired)

    @cached_property
    def parts(self) -> list[FeatureStats]:
        return fid_uncertainty.parts(self.store.chunks(), len(self), self.store.extractor, self.seed)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the images, or of the features where the images have none."""
        return self.store.images or blake2b(self.store.all().numpy().tobytes(), digest_size=8).hexdigest()


def with_limit_note(estimate: Estimate, *sides: FeatureSet) -> Estimate:
    """The estimate, with a note where only a part of the images was compared in pairs."""
    if max(map(len, sides)) <= LIMIT:
        return estimate
    return replace(estimate, note=f"pairs of at most {LIMIT:,} images per side, drawn at random")
