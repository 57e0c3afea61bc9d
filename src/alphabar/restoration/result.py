"""What `restore` gives: draws of the posterior, their mean and their spread, and how good they are where originals are known."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Shaped
from numpy.typing import NDArray

from alphabar.core.files import json_text, write_npz
from alphabar.core.npz import read_npz
from alphabar.core.outputs import check_output
from alphabar.core.types import Pixels
from alphabar.data.values import SCALE, scale_of
from alphabar.evaluation.estimate import Estimate, over_seeds
from alphabar.restoration.calibration import widened
from alphabar.restoration.scores import FEWEST, LEVEL, inside, interval, mean_of, psnr, ssim
from alphabar.sampling.samples import Samples, npz_path

TITLES = {
    "psnr": "PSNR of the mean, dB", "ssim": "SSIM of the mean", "psnr_draw": "PSNR of a draw, dB", "ssim_draw": "SSIM of a draw",
    "inside": "inside the 90 % interval",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Restoration:
    """K draws for each of n images.

    Attributes:
        draws: (K, n, h, w, c), in the type of the model's images.
        measurement: (n, ., ., .), the measurements as images, clipped to the scale.
        record: how they were made, as plain data.
        originals: (n, h, w, c), where the images were degraded by `restore` itself; else None.
        unmeasured: the pixels that are not measured, in the shape of originals; None: all depend on the measurement in part.
    """

    draws: Shaped[np.ndarray, "k n h w c"]
    measurement: Shaped[np.ndarray, "n ..."]
    record: dict[str, Any]
    originals: Pixels | None = None
    unmeasured: Bool[np.ndarray, "n h w c"] | None = None

    @property
    def factor(self) -> float | None:
        """By which the intervals of the draws are widened (`calibration.widening`); None: unchanged."""
        found: float | None = self.record.get("interval_factor")
        return found

    @cached_property
    def mean(self) -> Pixels:
        """The mean of the draws, (n, h, w, c), the best estimate by squared error, in the type of the images."""
        return self._pixels(self.draws.mean(0, dtype=np.float64))

    @cached_property
    def std(self) -> Float64[np.ndarray, "n h w c"]:
        """The standard deviation of the draws, in levels of the scale of the images; 0 for one draw."""
        return self.draws.std(0, dtype=np.float64, ddof=1) if len(self.draws) > 1 else np.zeros(self.draws.shape[1:])

    @cached_property
    def interval(self) -> tuple[Pixels, Pixels] | None:
        """Ends of the 90 % interval of every pixel, (n, h, w, c), rounded outwards; None for fewer than 15 draws."""
        if len(self.draws) < FEWEST:
            return None
        low, high = interval(self.draws.astype(np.float64), LEVEL) if self.factor is None else widened(self.draws, self.factor)
        whole = scale_of(self.draws.dtype) > 1
        return self._pixels(np.floor(low) if whole else low), self._pixels(np.ceil(high) if whole else high)

    def _pixels(self, values: NDArray[np.float64]) -> Pixels:
        scale = scale_of(self.draws.dtype)
        return (np.rint(values) if scale > 1 else values).clip(0, scale).astype(self.draws.dtype)

    @cached_property
    def each(self) -> dict[str, NDArray[np.float64]]:
        """Scores of every image against its original: psnr and ssim of the mean and of one draw (the mean over draws), and
        inside, the share of pixels within the 90 % interval, of those that were not measured. Empty without originals."""
        if self.originals is None:
            return {}
        found = {"psnr": psnr(self.mean, self.originals), "ssim": ssim(self.mean, self.originals)}
        if len(self.draws) > 1:
            for name, score in (("psnr_draw", psnr), ("ssim_draw", ssim)):
                found[name] = np.mean([score(one, self.originals) for one in self.draws], axis=0)
            found["inside"] = self._inside(self.originals)
        return found

    def _inside(self, originals: Pixels) -> NDArray[np.float64]:
        if self.factor is None or self.interval is None:
            return inside(self.draws, originals, self.unmeasured)
        low, high = self.interval
        return mean_of((low <= originals) & (originals <= high), self.unmeasured)

    @cached_property
    def scores(self) -> dict[str, Estimate]:
        """The means of `each` over images, with 95 % intervals (Student's) where there are two images or more."""
        alone = "one image does not show how much images differ: give two or more"
        return {k: over_seeds(kept, alone=alone) for k, v in self.each.items() if (kept := v[~np.isnan(v)].tolist())}

    def to_json(self) -> dict[str, Any]:
        """Record and scores as plain data."""
        means = {k: {"value": e.value, "interval": e.interval} for k, e in self.scores.items()}
        return {**self.record, "scores": means}

    def save(self, path: str | Path) -> Path:
        """Writes PATH.npz: `images` (draw 1 of every image) and `record`, which `alphabar score` reads as samples, and `draws`,
        `mean`, `std`, `measurement`, with `low`, `high`, `originals` and `unmeasured` where they are known."""
        target = npz_path(path)
        check_output(target, "samples")
        more = {} if self.interval is None else dict(zip(("low", "high"), self.interval, strict=True))
        more |= {k: v for k in ("originals", "unmeasured") if (v := getattr(self, k)) is not None}
        write_npz(target, {
            "images": self.draws[0], "record": np.array(json_text(self.record)), "draws": self.draws, "mean": self.mean,
            "std": self.std.astype(np.float32), "measurement": self.measurement, **more,
        })  # fmt: skip
        return target

    @staticmethod
    def load(path: str | Path) -> "Restoration":
        """Reads what `save` wrote. Raises FileNotFoundError, and ValueError for files that it did not write."""
        target, record = npz_path(path), Samples.load(path).record
        arrays = read_npz(target, ("draws", "measurement", "originals", "unmeasured"))
        draws, originals, where = (arrays.get(k) for k in ("draws", "originals", "unmeasured"))
        if draws is None or "measurement" not in arrays or draws.ndim != 5 or draws.dtype.name not in SCALE or not draws.size:
            raise ValueError(f"{target} holds samples, and no draws of `alphabar restore`")
        for name, array, dtype in (("originals", originals, draws.dtype), ("unmeasured", where, np.dtype(bool))):
            if array is not None and (array.shape != draws.shape[1:] or array.dtype != dtype):
                raise ValueError(f"{target}: {name} is {array.dtype} of shape {array.shape}; wanted {dtype} {draws.shape[1:]}")
        return Restoration(draws, arrays["measurement"], record, originals, where)
