"""A model with its fine trajectories: one to fit to, and one on other noise to measure a fitted sampler by."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.core.types import Denoiser, Grid, Images
from alphabar.denoiser.wrappers import Labelled
from alphabar.fitting.coefficients import Coefficients
from alphabar.fitting.levels import grams_of, step_costs
from alphabar.fitting.options import TuneOptions
from alphabar.fitting.trajectory import DenoiserByIndex, Trajectory, batch_denoiser, fine_grid, fine_sampler, fine_trajectory
from alphabar.sampling.catalogue import SAMPLERS
from alphabar.sampling.fitted import Tuned, run_tuned
from alphabar.sampling.guidance import every_class
from alphabar.sampling.resolved import Clipping
from alphabar.schedule.base import Schedule
from alphabar.schedule.grid import default_grid, make_grid

UNSEEN = 64  # starting noises of the trajectory that is not fitted to


@dataclass(frozen=True, eq=False)
class FittingProblem:
    """A model, and what a sampler of it is fitted to and measured by.

    Attributes:
        classes: number of classes of a conditional model, which the images take in turns; else 0.
        network: the denoiser (of a batch) without clipping.
        denoise: the same with the clipping of the model's pipeline, if any.
        starts: unit noise of the images to fit to (n, c, h, w).
        unseen_starts: unit noise of other images.
        unseen: their fine trajectory.
    """

    model: Any
    options: TuneOptions
    progress: bool
    classes: int
    network: Denoiser | DenoiserByIndex
    denoise: Denoiser | DenoiserByIndex
    clipping: Clipping
    starts: Tensor
    unseen_starts: Tensor
    unseen: Trajectory

    @staticmethod
    def of(model: Any, options: TuneOptions, progress: bool) -> "FittingProblem":
        pipeline = getattr(model, "defaults", None)  # of a diffusers pipeline
        limits = () if pipeline is None else (float(pipeline.clip or 0), pipeline.threshold, pipeline.threshold_max)
        clipping = Clipping(*limits)
        device = next(model.parameters()).device
        classes = len(every_class(model) or ())
        network: Denoiser | DenoiserByIndex = model
        denoise: Denoiser | DenoiserByIndex = clipping(model)
        if classes:

            def labelled(indices: Sequence[int]) -> Denoiser:
                return Labelled(model, torch.tensor([k % classes for k in indices], device=device))

            network = DenoiserByIndex(labelled, model.schedule)
            denoise = DenoiserByIndex(lambda indices: clipping(labelled(indices)), model.schedule)
        starts, unseen_starts = (
            starting_noise(seed, range(n), model.image_shape).to(device).contiguous(memory_format=torch.channels_last)
            for seed, n in ((options.seed, options.n), (options.seed + 1, UNSEEN))
        )
        grid = fine_grid(model.schedule)
        unseen = fine_trajectory(denoise, unseen_starts, grid, batch=options.call_batch, progress=progress)
        return FittingProblem(model, options, progress, classes, network, denoise, clipping, starts, unseen_starts, unseen)

    @cached_property
    def fine(self) -> Trajectory:
        """The trajectory to fit to. A descent by features from given coefficients does not need it."""
        grid, batch = self.unseen.sigmas, self.options.call_batch
        return fine_trajectory(self.denoise, self.starts, grid, batch=batch, progress=self.progress)

    @cached_property
    def level_costs(self) -> dict[int, Tensor]:
        """Errors of steps between fine levels: of Euler steps (0), and of steps that use two estimates (1)."""
        grams = grams_of(self.fine)
        return {back: step_costs(self.fine, back, grams) for back in (0, 1)}

    @cached_property
    def fingerprint(self) -> str:
        return str(self.model.fingerprint)

    @property
    def device(self) -> torch.device:
        return self.starts.device

    @property
    def clip(self) -> Callable[[Images], Images] | None:
        """What is done to x0_hat, if anything."""
        return self.clipping.apply if self.clipping.active else None

    @property
    def fine_name(self) -> str:
        """The sampler and the number of levels of the fine trajectories."""
        return f"{fine_sampler(self.unseen.sigmas)}, {len(self.unseen.x)} levels"

    def fitted(self, c: Coefficients, name: str = "candidate", how: dict[str, Any] | None = None) -> Tuned:
        """A sampler of this model with these coefficients."""
        limits = self.clipping
        return Tuned(
            name, self.fingerprint, *c.plain(), clip=limits.limit, threshold=limits.threshold,
            threshold_max=limits.threshold_max, how=how or {},
        )  # fmt: skip

    def images(self, fit: Tuned, seed: int, indices: Sequence[int]) -> Images:
        """The images of a seed with these indices by a fitted sampler."""
        x = starting_noise(seed, indices, self.model.image_shape).to(self.device) * fit.sigmas[0]
        denoise = batch_denoiser(self.denoise, indices)
        return run_tuned(denoise, x, fit.grid, fit=fit, noise=SeededNoise(seed, indices))

    def distance(self, fit: Tuned, cut: int | None = None) -> float:
        """Root mean square distance of finished images from the fine trajectory's, on noise that is not fitted to.

        cut: measures on the images to fit to from this one on, instead.
        """
        starts, end = (self.unseen_starts, self.unseen.end) if cut is None else (self.starts[cut:], self.fine.end[cut:])
        denoise = batch_denoiser(self.denoise, range(cut or 0, (cut or 0) + len(starts)))
        noise = SeededNoise(self.options.seed + 1, range(len(starts)))
        return _rms(run_tuned(denoise, starts * fit.sigmas[0], fit.grid, fit=fit, noise=noise), end)

    def usual_distances(self, calls: int) -> dict[str, float]:
        """The same distance of usual samplers on usual grids, by name."""
        denoise = batch_denoiser(self.denoise, range(len(self.unseen_starts)))
        grids = dict.fromkeys((default_grid(self.model.schedule), "karras"))
        return {
            name: _rms(SAMPLERS[sampler].fn(denoise, self.unseen_starts * float(sigmas[0]), sigmas), self.unseen.end)
            for name, sampler, sigmas in usual_settings(
                self.model.schedule, calls, ("ddim", "dpmpp_2m", "unipc", "ipndm"), tuple(grids)
            )
        }


def usual_settings(
    schedule: Schedule, calls: int, samplers: Sequence[str], grids: Sequence[str]
) -> Iterator[tuple[str, str, Grid]]:
    """Name, sampler and levels of every combination, without grids that have more steps than the schedule has timesteps."""
    for sampler, grid in product(samplers, grids):
        try:
            yield f"{sampler}, {grid}", sampler, make_grid(schedule, calls, grid)
        except ValueError:
            continue


def _rms(x: Tensor, end: Tensor) -> float:
    return float((x.cpu().clamp(-1, 1) - end.clamp(-1, 1)).square().mean().sqrt())
