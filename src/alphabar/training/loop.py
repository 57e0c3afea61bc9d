"""The training loop: steps, records of the loss, hooks, snapshots and checkpoints, until the recipe's images have been seen.

A resumed run continues exactly where it stopped, and every number of processes trains on the same stream (`stream.py`).
"""

import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from alphabar.core.messages import say
from alphabar.core.progress import track
from alphabar.core.run import Run
from alphabar.core.types import Pixels
from alphabar.denoiser.model import Model
from alphabar.training.checkpoint import (
    SNAPSHOTS,
    Checkpoint,
    back_to_best,
    best_figures,
    last_good,
    load_model,
    remove_earlier,
)  # fmt: skip
from alphabar.training.config import TrainRecipe
from alphabar.training.consistency import DrawnLoss
from alphabar.training.ema import save_snapshots
from alphabar.training.hooks import AT_ONCE, Hook, Training, failed
from alphabar.training.step import Trainer
from alphabar.training.stopping import REMEDIES, Diverged, LossMonitor, stop_signals
from alphabar.training.stream import Indices, Stream, pad_pixels, prefetched
from alphabar.training.targets import StableTargets

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(
    model: Model, pixels: Pixels, indices: Indices, recipe: TrainRecipe, run: Run, *, labels: Indices | None = None,
    heldout: Shaped[np.ndarray, "m h w c"] | None = None, heldout_labels: Indices | None = None, hooks: Sequence[Hook] = (),
    resume: bool = False, fingerprint: str = "", decided_by: Mapping[str, Any] = MappingProxyType({}),
    earlier: Sequence[str] = (), drawn_loss: DrawnLoss | None = None, progress: bool = True,
) -> Model:  # fmt: skip
    """Trains `model`, in place, on pixels[indices] until `recipe.images` have been seen, or a hook ends it early.

    Args:
        model: the initial model; a resumed run replaces its weights.
        pixels: images (n, h, w, c) as stored, without padding.
        indices: the images to train on.
        run: the folder that receives events, snapshots and checkpoints.
        labels: class of every image in `pixels`; required by a conditional model.
        heldout, heldout_labels: images, without padding, on which hooks measure the held-out loss (validation loss).
        hooks: called by the main process; see `Hook`. Their checks and `on_start` come before anything is written into `run`.
        resume: continue from the run's last checkpoint.
        fingerprint: of recipe and images (`Recipe.fingerprint`); stored in checkpoints.
        decided_by: what it is the fingerprint of, with flat keys; stored in checkpoints, so that a refusal can name the key.
        earlier: fingerprints before the run's length was changed; a checkpoint may have one of them.
        drawn_loss: of images that the model draws, beside the consistency loss.

    Returns:
        The averaged model (EMA), ready to sample: of the last step, or of the best checkpoint, if the training ended early.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with a checkpoint of the current step.
        Diverged: when the loss is NaN or explodes; a loss that has risen and stays high gives a warning.
        FileNotFoundError: when there is no checkpoint to resume from.
        ValueError: when the checkpoint has another fingerprint, or when options contradict each other.
    """
    accelerator = make_accelerator(recipe)
    resumed = _last_checkpoint(run, (fingerprint, *earlier), decided_by) if resume else None
    targets = StableTargets.of(recipe, model, pixels, indices, labels, accelerator.device)
    trainer = Trainer(model, recipe, accelerator, resumed, drawn_loss, targets)
    state = Training(
        run, recipe, model, trainer.sampling_model, trainer.device,
        heldout=None if heldout is None else pad_pixels(heldout, model.crop),
        heldout_labels=heldout_labels if model.classes else None,
        at_once=min(AT_ONCE, recipe.batch // (recipe.accumulate * trainer.world)),
    )  # fmt: skip
    identity = {"fingerprint": fingerprint, "decided_by": dict(decided_by)}
    loop = _Loop(trainer, state, hooks, identity, resumed.state if resumed else {}, (fingerprint, *earlier))
    return loop.run(Stream(pixels, indices, recipe, model, labels), progress)


def make_accelerator(recipe: TrainRecipe) -> "Accelerator":
    """Joins the processes. Raises ValueError where the recipe does not fit their number."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    earlier = AcceleratorState._shared_state
    if earlier and earlier.get("_mixed_precision") != recipe.precision:
        AcceleratorState._reset_state()  # accelerate otherwise keeps the precision of the first training in a process
    # The other processes wait while process 0 calls the hooks, and a score may take longer than the default ten minutes.
    long_wait = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    accelerator = Accelerator(mixed_precision=recipe.precision, kwargs_handlers=[long_wait])
    world = accelerator.num_processes
    if recipe.accumulate < 1 or recipe.batch % (world * recipe.accumulate):
        raise ValueError(
            f"batch {recipe.batch} does not divide by {world} processes and train.accumulate {recipe.accumulate}: give a "
            f"multiple of {world * max(recipe.accumulate, 1)}"
        )
    only_ddp = recipe.optimizer == "muon" or recipe.compile or recipe.precision == "fp16"
    if recipe.parallel == "fsdp" and world > 1 and only_ddp:
        raise ValueError("train.parallel fsdp works with adam or adamw, without compile, in float32 or bf16: use ddp otherwise")
    return accelerator


def _last_checkpoint(run: Run, fingerprints: Sequence[str], decided_by: Mapping[str, Any]) -> Checkpoint:
    """The run's last good checkpoint. Raises ValueError, with the keys that differ, where it is of another recipe or images."""
    checkpoint = last_good(run)
    if (stored := checkpoint.state.get("fingerprint")) not in fingerprints:
        then = checkpoint.state.get("decided_by") or {}
        keys = [k for k in decided_by if k in then and then[k] != decided_by[k]] if isinstance(then, dict) else []
        raise ValueError(
            f"the checkpoint of {run.path} was trained with "
            + ("; ".join(f"{k} {then[k]!r}, and {run.recipe} has {decided_by[k]!r}" for k in keys)
               or f"another recipe or other images (fingerprint {stored}, now {fingerprints[0]})")
            + f": write {'that' if keys else 'what it was'} into {run.recipe}, or start a new run with another --out"
        )  # fmt: skip
    return checkpoint


class _Loop:
    """One session of a training, from its first or its last checkpoint to its end."""

    def __init__(
        self, trainer: Trainer, state: Training, hooks: Sequence[Hook], identity: dict[str, Any], stored: dict[str, Any],
        fingerprints: Sequence[str],
    ) -> None:  # fmt: skip
        self.trainer, self.state, self.recipe = trainer, state, trainer.recipe
        self.all_hooks, self.hooks = hooks, list(hooks) if trainer.main else []
        self.identity = identity
        state.images, state.step = stored.get("images", 0), stored.get("step", 0)
        state.best = dict(stored.get("best", {}))
        if stored or fingerprints[0]:  # checkpoints/best may be ahead of the checkpoint to resume from
            for figure, value in best_figures(state.run, fingerprints).items():
                state.best[figure] = min(value, state.best.get(figure, math.inf))
        self.best_seen = dict(state.best)
        self.ends_early = False
        state.ending = str(stored.get("stopped_early", "")) if self.recipe.early_stop else ""
        self.total_steps = math.ceil(self.recipe.images / self.recipe.batch)
        self.monitor = LossMonitor()
        self.losses: list[Tensor] = []  # since the last record
        self.started, self.seconds_before = time.monotonic(), float(stored.get("seconds", 0.0))
        self.last_record = (self.started, state.images)

    def run(self, stream: Stream, progress: bool) -> Model:
        state, trainer, batch = self.state, self.trainer, self.recipe.batch
        if state.ending:
            return self._end_early()
        self._check_hooks()
        for hook in self.hooks:
            hook.on_start(state)
        steps = range(state.step, self.total_steps)
        bar = track(self.total_steps * batch, "training", done=state.images, show=progress and trainer.main)
        batches_of = prefetched(stream, steps, trainer.accelerator.process_index, trainer.world)
        with bar as advance, stop_signals() as stop, batches_of as batches:
            for share in batches:
                self.losses.append(trainer.step(share, state.step))
                state.step, state.images = state.step + 1, state.images + batch
                for hook in self.hooks:
                    hook.on_step(state)
                stopping = self._any_process(stop.is_set())
                self._after_step(stopping)
                advance(batch, "" if math.isnan(state.loss) else f"loss {state.loss:.4f}")  # NaN before the first record
                if self.ends_early and not self.done:
                    break
                if stopping and not self.done:
                    self._report("stopped", seconds=self._seconds())
                    raise KeyboardInterrupt(f"stopped after {state.images} images; the checkpoint is in {state.run.checkpoint()}")
        for hook in self.hooks:
            hook.on_end(state)
        if not self.done:
            return self._end_early()
        self._report("finished", seconds=self._seconds())
        trainer.refresh_sampling_model()
        trainer.accelerator.wait_for_everyone()
        return trainer.sampling_model

    def _end_early(self) -> Model:
        """Goes back to the best checkpoint. A run that is resumed without --no-early-stop comes here at once."""
        state, trainer = self.state, self.trainer
        if trainer.main:
            best = back_to_best(state.run, state.ending)
            model = state.images if best is None else best
            words = f"stopped early: {state.ending}. The model is that of image {model:,}"
            say(f"{words}; --resume --no-early-stop goes on from there", sys.stderr)
            if self.ends_early:
                self._report("stopped_early", reason=state.ending, model=model, seconds=self._seconds())
        trainer.accelerator.wait_for_everyone()
        trainer.sampling_model.load_state_dict(load_model(state.run.path).state_dict())
        return trainer.sampling_model

    @property
    def done(self) -> bool:
        return self.state.step == self.total_steps

    def _check_hooks(self) -> None:
        for hook in list(self.hooks):
            try:
                hook.check(self.state)
            except Exception as e:
                if not (hook.watches and self.state.step):  # a new run that is bound to fail is not started
                    raise
                self._failed(hook, e)
                self.hooks.remove(hook)

    def _failed(self, hook: Hook, error: Exception) -> None:
        failed(self.state.run, hook.watches, error, "Training goes on", self.state.images)

    def _call_hooks(self) -> bool:
        """Calls the hooks that are due. Whether one has found the best figure so far."""
        due = any(self._due(hook.every, hook.first) for hook in self.all_hooks)
        if due:
            self.trainer.refresh_sampling_model()
        for hook in self.hooks:
            if self._due(hook.every, hook.first):
                try:
                    hook.on_interval(self.state)
                except Exception as e:
                    if not hook.watches:
                        raise
                    self._failed(hook, e)
        best, seen = self.state.best, self.best_seen
        figure = _figure(best)
        better, self.best_seen = best.get(figure, math.inf) < seen.get(figure, math.inf), dict(best)
        self.state.ending = "" if self.done else self.state.ending
        self.ends_early = due and self._any_process(bool(self.state.ending))
        return self._any_process(better) if due else better

    def _after_step(self, stopping: bool) -> None:
        """What is due after a step: a record of the loss, hooks, a snapshot, checkpoints."""
        recipe, state = self.recipe, self.state
        saving = self._due(recipe.checkpoint_every) or stopping
        snapshot = recipe.ema_snapshots > 0 and self._due(math.ceil(recipe.images / recipe.ema_snapshots))
        if saving or snapshot or self._due(recipe.log_every):  # no weights are written before their loss was checked
            self._record_loss()
        better = self._call_hooks()
        if self.losses and (better or self.ends_early):
            self._record_loss()
        if better:
            self._save("best")
        if snapshot and (averages := self.trainer.averages):
            save_snapshots(state.run.path / SNAPSHOTS, averages, state.model.spec, state.images, write=self.trainer.main)
        if saving or self.ends_early:
            self._save()

    def _due(self, every: int, first: int = 0) -> bool:
        """Whether the last step completed a multiple of `every` images, or the training; with 0, only the training.

        Below `every` images, `first` images and every doubling of them count as well.
        """
        now = self.state.images
        before = now - self.recipe.batch
        doubled = first > 0 and now < every and (before // first).bit_length() != (now // first).bit_length()
        return self.done or doubled or (every > 0 and before // every != now // every)

    def _any_process(self, yes: bool) -> bool:
        """Whether `yes` is true in any process: all must stop, and save, at the same step."""
        if self.trainer.world == 1:
            return yes
        return bool(self.trainer.accelerator.reduce(torch.tensor(float(yes), device=self.trainer.device)) > 0)

    def _record_loss(self) -> None:
        """Writes the mean loss since the last record. Raises Diverged, or warns, where `LossMonitor` says so."""
        state, trainer = self.state, self.trainer
        mean = torch.stack(self.losses).mean()
        self.losses.clear()
        state.loss = float(trainer.accelerator.reduce(mean, "mean")) if trainer.world > 1 else float(mean)
        try:
            self.monitor.add(state.loss)
        except Diverged as e:
            state.run.event("diverged", images=state.images, loss=repr(state.loss))
            raise Diverged(
                f"after {state.images} images the loss {e}. The last good checkpoint is kept in {state.run.checkpoint()}: "
                f"start a new run with {REMEDIES}"
            ) from None
        (then, images), self.last_record = self.last_record, (time.monotonic(), state.images)
        per_second = (state.images - images) / max(self.last_record[0] - then, 1e-9)
        self._report("loss", loss=state.loss, lr=trainer.lr, images_per_second=round(per_second, 1), **trainer.distances())
        if trainer.main and (risen := self.monitor.stays_risen()):
            state.report("risen", lowest=risen[0], loss=risen[1])
            warnings.warn(
                f"after {state.images} images the loss is {risen[1]:.3g}, was {risen[0]:.3g} before and has not come back: the "
                f"model has lost what it had learned. Training continues; for a new run, in another folder, use {REMEDIES}",
                stacklevel=2,
            )

    def _save(self, name: str = "last") -> None:
        """Writes checkpoints/last, or checkpoints/best, whose own weights have the lowest FID (or held-out loss) measured."""
        state, figure = self.state, _figure(self.state.best)
        position = {"images": state.images, "step": state.step, **self.identity, "best": state.best}
        position |= {"best_by": figure} if name == "best" else {"stopped_early": state.ending} if state.ending else {}
        self.trainer.save(state.run.checkpoint(name), {**position, "seconds": self._seconds()})
        if name == "last":
            self._report("checkpoint")
        elif self.trainer.main:
            remove_earlier(state.run.checkpoint(name))
            state.report("best", **{figure: state.best[figure]})

    def _seconds(self) -> float:
        """Seconds of training, earlier sessions included."""
        return round(self.seconds_before + time.monotonic() - self.started, 1)

    def _report(self, kind: str, **values: Any) -> None:
        """Writes an event from the main process."""
        if self.trainer.main:
            self.state.report(kind, **values)


def _figure(best: Mapping[str, float]) -> str:
    """The figure that decides which checkpoint is the best: FID where a hook has scored it."""
    return "fid" if "fid" in best else "heldout_loss"
