"""The training loop. What image, flip, level and noise sample number k of the run gets depends on (seed, k) alone,
so a run goes on exactly where it stopped, and every number of processes trains on the same stream."""

import contextlib
import math
import signal
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from alphabar.core import seeds
from alphabar.core.progress import track
from alphabar.core.run import Run
from alphabar.core.types import Pixels
from alphabar.data.augment import AUGMENT_DIM, Geometry, moved
from alphabar.data.images import to_model
from alphabar.denoiser.model import Model
from alphabar.training.checkpoint import (
    SNAPSHOTS,
    copy_checkpoint,
    last_good,
    load_averages,
    restore_optimizer,
    save_checkpoint,
)
from alphabar.training.config import TrainRecipe
from alphabar.training.ema import PowerAverages, ema_decay, ema_update, save_snapshots
from alphabar.training.hooks import Hook, Training
from alphabar.training.loss import LossModule
from alphabar.training.optim import make_optimizer
from alphabar.training.rates import rate
from alphabar.training.shard import shard, whole_state


class Diverged(FloatingPointError):
    """The loss became NaN or exploded. The last good checkpoint is kept."""


@dataclass(frozen=True)
class Batch:
    """Samples number first .. first + n - 1 of a run: pixels (n, h, w, c) as they are stored, levels and noise.

    labels: (n,) of a conditional model. augment: (n, 9), how each image is to be moved (`Geometry`), where any may be.
    """

    pixels: Pixels
    sigma: Tensor
    noise: Tensor
    labels: Tensor | None = None
    augment: Tensor | None = None

    def parts(self, n: int) -> "Iterator[Batch]":
        """The batch in n equal parts, in its order."""
        size = len(self.sigma) // n
        for start in range(0, size * n, size):
            rows = slice(start, start + size)
            more = [None if v is None else v[rows] for v in (self.labels, self.augment)]
            yield Batch(self.pixels[rows], self.sigma[rows], self.noise[rows], *more)


class Stream:
    """Sample number k of a run: its image, flip, level, noise, and whether its class is hidden and how it is moved, from
    (seed, k) alone.

    Every epoch is one permutation of the images. With `stratified`, the levels of a global batch divide the density
    evenly, one to each of `batch` strata.
    """

    def __init__(
        self,
        pixels: Pixels,
        indices: NDArray[np.int64],
        recipe: TrainRecipe,
        model: Model,
        pad: int = 0,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        if len(indices) == 0:
            raise ValueError("there are no images to train on: the held-out share took all, or the set is empty")
        if model.classes and labels is None:
            raise ValueError("a conditional model needs the class of every image: pass labels")
        self.pixels, self.indices, self.recipe, self.pad = pixels, indices, recipe, pad
        self.labels, self.classes = labels if model.classes else None, model.classes
        self.geometry = Geometry(recipe.augment) if recipe.augment else None
        self.schedule, self.density = model.schedule, recipe.density_value()
        self.image_shape = model.image_shape
        self._epoch = -1
        self._order: NDArray[np.int64] = indices

    def batch(self, first: int, n: int) -> Batch:
        """n samples from number `first` on."""
        rows: NDArray[Any] = np.empty((n, *self.pixels.shape[1:]), self.pixels.dtype)
        noise = np.empty((n, *self.image_shape), np.float32)
        u = np.empty(n)
        labels = None if self.labels is None else np.empty(n, np.int64)
        augment = None if self.geometry is None else np.empty((n, AUGMENT_DIM), np.float32)
        address = seeds.Addressed()
        for k in range(n):
            number = first + k
            epoch, place = divmod(number, len(self.indices))
            if epoch != self._epoch:
                self._epoch, self._order = epoch, self.indices[seeds.permutation(self.recipe.seed, epoch, len(self.indices))]
            g = address.at(self.recipe.seed, number, 0, seeds.TRAIN)
            u[k], mirror = g.random(), g.random() < 0.5
            g.standard_normal(dtype=np.float32, out=noise[k])
            image = self.pixels[self._order[place]]
            rows[k] = image[:, ::-1] if mirror and self.recipe.flip else image
            if self.recipe.stratified:
                u[k] = (number % self.recipe.batch + u[k]) / self.recipe.batch
            if labels is not None and self.labels is not None:
                labels[k] = self.classes if g.random() < self.recipe.label_dropout else self.labels[self._order[place]]
            if augment is not None and self.geometry is not None:
                augment[k] = self.geometry.draw(g)
        sigma = self.density.sigma(torch.from_numpy(u), self.schedule)
        labelled, moves = (None if a is None else torch.from_numpy(a) for a in (labels, augment))
        return Batch(pad_pixels(rows, self.pad), sigma, torch.from_numpy(noise), labelled, moves)


def pad_pixels(pixels: Pixels, pad: int) -> Shaped[np.ndarray, "n hp wp c"]:
    """Black borders of `pad` pixels, as the lesson pads 28x28 to 32x32."""
    return np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else pixels


def train(
    model: Model,
    pixels: Pixels,
    indices: NDArray[np.int64],
    recipe: TrainRecipe,
    run: Run,
    *,
    labels: NDArray[np.int64] | None = None,
    heldout: Shaped[np.ndarray, "m h w c"] | None = None,
    heldout_labels: NDArray[np.int64] | None = None,
    hooks: Sequence[Hook] = (),
    resume: bool = False,
    fingerprint: str = "",
    progress: bool = True,
) -> Model:
    """Trains `model` on pixels[indices] until `recipe.images` were seen; gives back the averaged model.

    labels: the class of every one of `pixels`, for a conditional model. heldout: unpadded pixels for the held-out loss, and
    heldout_labels their classes. fingerprint: of recipe and data; a checkpoint made under another
    is refused. resume: go on from the run's last checkpoint, on the exact images and noise.
    Stops cleanly, with a checkpoint, on Ctrl-C and SIGTERM (raising KeyboardInterrupt).
    Raises Diverged when the loss is NaN or explodes, FileNotFoundError when there is nothing to resume. Warns when the loss has
    risen and stays.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    state_of_before = AcceleratorState._shared_state
    if state_of_before and state_of_before.get("_mixed_precision") != recipe.precision:
        AcceleratorState._reset_state()  # accelerate holds a process to the precision of its first training
    # Process 0 calls the hooks while the others wait for it, and a score may take longer than the usual ten minutes.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    accelerator = Accelerator(mixed_precision=recipe.precision, kwargs_handlers=[patience])
    world, rank, main = accelerator.num_processes, accelerator.process_index, accelerator.is_main_process
    if recipe.accumulate < 1 or recipe.batch % (world * recipe.accumulate):
        raise ValueError(
            f"batch {recipe.batch} does not divide by {world} processes and train.accumulate {recipe.accumulate}: give a "
            f"multiple of {world * max(recipe.accumulate, 1)}"
        )
    share = recipe.batch // world
    device = accelerator.device
    sharded = recipe.parallel == "fsdp" and world > 1
    if sharded and (recipe.optimizer == "muon" or recipe.compile or recipe.precision == "fp16"):
        raise ValueError(
            "train.parallel fsdp goes with adam or adamw, without compile, in float32 or bf16: use ddp for the others"
        )

    stored: dict[str, Any] = {}
    goes_on = run.checkpoint()
    moments: Mapping[str, Tensor] = {}
    average: Mapping[str, Tensor] = model.state_dict()
    if resume:
        goes_on, (loaded, average, moments, stored) = last_good(run)
        if stored.get("fingerprint") != fingerprint:
            raise ValueError(
                f"{run.path} was begun with another recipe or other images (fingerprint {stored.get('fingerprint')}, now "
                f"{fingerprint}): resume with the recipe in {run.recipe}, or begin anew in another folder"
            )
        model.load_state_dict(loaded.state_dict())
    layout = torch.channels_last if recipe.channels_last and not sharded else torch.contiguous_format
    ema = Model(model.spec)
    ema.load_state_dict(dict(average))
    ema.to(device, memory_format=layout).eval().requires_grad_(False)  # type: ignore[call-overload]
    model.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    if sharded:
        shard(model, device, world)
        shard(ema, device, world)
    optimizer = make_optimizer(recipe, model, device)
    if moments:
        restore_optimizer(optimizer, moments)
    averages = None
    if recipe.ema_snapshots and (main or sharded):
        averages = PowerAverages(model, load_averages(goes_on) if resume else None)
    snapshot_every = math.ceil(recipe.images / recipe.ema_snapshots) if recipe.ema_snapshots else -1
    module = LossModule(model, recipe.weighting, recipe.gamma)
    if sharded:  # which does what accelerate would wrap the module for
        wrapped, optimizer = module, accelerator.prepare(optimizer)
    else:
        wrapped, optimizer = accelerator.prepare(_compiled(module, recipe.compile), optimizer)

    stream = Stream(pixels, indices, recipe, model, model.crop, labels)
    padded = None if heldout is None else pad_pixels(heldout, model.crop)
    shown = Model(model.spec).to(device).eval().requires_grad_(False) if sharded else ema  # that hooks draw from
    if sharded:
        shown.load_state_dict(whole_state(ema.state_dict()))
    state = Training(run, recipe, model, shown, device, heldout=padded, heldout_labels=heldout_labels if model.classes else None)
    state.images, state.step = stored.get("images", 0), stored.get("step", 0)
    state.best = dict(stored.get("best", {}))
    active = list(hooks) if main else []
    total_steps = math.ceil(recipe.images / recipe.batch)
    started, seconds_before = time.monotonic(), float(stored.get("seconds", 0.0))

    def checkpoint() -> None:
        if not (main or sharded):
            return
        save_checkpoint(
            run.checkpoint(),
            model,
            ema.state_dict(),
            getattr(optimizer, "optimizer", optimizer),
            {
                "images": state.images,
                "step": state.step,
                "fingerprint": fingerprint,
                "best": state.best,
                "seconds": round(seconds_before + time.monotonic() - started, 1),
            },
            None if averages is None else averages.state(),
            write=main,
        )

    def new_best() -> None:
        """checkpoints/best follows the lowest FID where a hook scores one, else the lowest held-out loss."""
        figure = "fid" if "fid" in state.best else "heldout_loss"
        if figure in state.best and state.best[figure] != kept_best.get(figure):
            kept_best[figure] = state.best[figure]
            copy_checkpoint(run.checkpoint(), run.checkpoint("best"))
            state.report("best", **{figure: state.best[figure]})

    kept_best = dict(state.best)
    for hook in active:
        hook.on_start(state)
    guard = _Guard()
    recent: list[Tensor] = []
    last_log = (time.monotonic(), state.images)
    fused_rng = _uses_dropout(model)
    with (
        track(total_steps * recipe.batch, "training", done=state.images, show=progress and main) as advance,
        _stop_signals() as stop,
        _prefetched(stream, state.step, total_steps, recipe.batch, rank * share, share) as batches,
    ):
        for batch in batches:
            lr, beta1 = rate(recipe.policy, state.step, total_steps, recipe.lr, warmup=recipe.warmup // recipe.batch)
            for group in optimizer.param_groups:
                group["lr"] = lr
                if beta1 is not None:
                    group["betas"] = (beta1, group["betas"][1])
            loss = torch.zeros((), device=device)
            with _dropout_seed(recipe.seed, state.step, rank, device) if fused_rng else contextlib.nullcontext():
                for k, part in enumerate(batch.parts(recipe.accumulate)):
                    x0 = to_model(part.pixels, device)
                    if part.augment is not None:
                        x0 = moved(x0, part.augment)
                    x0 = x0.contiguous(memory_format=layout)
                    noise = part.noise.to(device).contiguous(memory_format=layout)
                    more_to_come = k + 1 < recipe.accumulate
                    with accelerator.no_sync(wrapped) if more_to_come else contextlib.nullcontext():
                        with accelerator.autocast() if sharded else contextlib.nullcontext():
                            one = wrapped(x0, part.sigma, noise, part.labels, part.augment) / recipe.accumulate
                        accelerator.backward(one)
                    loss = loss + one.detach()
            if recipe.clip:
                accelerator.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
            before = state.images
            state.step += 1
            state.images += recipe.batch
            decay = ema_decay(recipe.batch, state.images, recipe.ema_half_life, recipe.ema_ramp)
            ema_update(ema.parameters(), model.parameters(), decay)
            if averages is not None:
                averages.update(recipe.batch, state.images)
            recent.append(loss)
            for hook in active:
                hook.on_step(state)
            done = state.step == total_steps
            stopping = stop.is_set()
            if world > 1:  # a signal reaches one process first: all must stop at the same step
                stopping = bool(accelerator.reduce(torch.tensor(float(stopping), device=device)) > 0)

            def due(every: int, before: int = before, done: bool = done) -> bool:
                return done or (every > 0 and before // every != state.images // every)

            saving = due(recipe.checkpoint_every) or stopping
            keeping = recipe.ema_snapshots > 0 and due(snapshot_every)
            if saving or keeping or due(recipe.log_every):  # no weights are written before the loss was looked at
                mean = torch.stack(recent).mean()
                state.loss = float(accelerator.reduce(mean, "mean")) if world > 1 else float(mean)
                recent.clear()
                guard.check(state.loss, state.images, run)
                now = time.monotonic()
                per_second = (state.images - last_log[1]) / max(now - last_log[0], 1e-9)
                last_log = (now, state.images)
                if main:
                    state.report("loss", loss=state.loss, lr=lr, images_per_second=round(per_second, 1))
                    if (risen := guard.risen()) is not None:
                        state.report("risen", lowest=risen[0], loss=risen[1])
                        warnings.warn(_risen(*risen, state.images), stacklevel=2)
            if sharded and any(due(hook.every) and (hook.every or done) for hook in hooks):
                shown.load_state_dict(whole_state(ema.state_dict()))
            for hook in active:
                if due(hook.every) and (hook.every or done):
                    hook.on_interval(state)
            if averages is not None and keeping:
                save_snapshots(run.path / SNAPSHOTS, averages, model.spec, state.images, write=main)
            if saving:
                checkpoint()
                if main:
                    state.report("checkpoint")
                    new_best()
            advance(recipe.batch, "" if math.isnan(state.loss) else f"loss {state.loss:.4f}")  # NaN until one was looked at
            if stopping and not done:
                if main:
                    state.report("stopped", seconds=round(seconds_before + time.monotonic() - started, 1))
                raise KeyboardInterrupt(f"stopped after {state.images} images; the checkpoint is in {run.checkpoint()}")
    for hook in active:
        hook.on_end(state)
    if main:
        state.report("finished", seconds=round(seconds_before + time.monotonic() - started, 1))
    if sharded:
        shown.load_state_dict(whole_state(ema.state_dict()))
    accelerator.wait_for_everyone()
    return shown


GENTLER = "a lower rate (--train.lr), a longer warm-up (--train.warmup) or stronger clipping (--train.clip)"


def _risen(lowest: float, loss: float, images: int) -> str:
    return (
        f"after {images} images the loss is {loss:.3g}, was {lowest:.3g} before and has not come back: the training has lost "
        f"what it had learned. It goes on; to begin anew, in another folder, take {GENTLER}"
    )


class _Guard:
    """Stops a run whose loss is no number or has grown tenfold over what it was, and notices one that rose by half and stayed."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.told = False

    def risen(self) -> tuple[float, float] | None:
        """(lowest loss, last loss) once the last three all lie above one and a half times the lowest before them; only once."""
        before, last = self.seen[:-3], self.seen[-3:]
        if self.told or not before or min(last) <= 1.5 * min(before):
            return None
        self.told = True
        return min(before), last[-1]

    def check(self, loss: float, images: int, run: Run) -> None:
        usual = statistics.median(self.seen[-20:]) if self.seen else math.inf
        if math.isfinite(loss) and (len(self.seen) < 3 or loss <= 10 * usual):
            self.seen.append(loss)
            return
        run.event("diverged", images=images, loss=repr(loss))
        what = "is not a number" if not math.isfinite(loss) else f"rose to {loss:.3g} from {usual:.3g}"
        raise Diverged(
            f"after {images} images the loss {what}. The last good checkpoint is kept in {run.checkpoint()}: "
            f"begin anew with {GENTLER}"
        )


def _compiled(module: LossModule, wanted: bool) -> nn.Module:
    """Compiles the network's forward; where that fails and the plain one does not, goes on with the plain one."""
    if not wanted:
        return module
    network = module.model.network
    plain = network.forward
    fast = torch.compile(plain)
    state = {"works": True}

    def call(*inputs: Tensor | None) -> Tensor:
        if state["works"]:
            try:
                out: Tensor = fast(*inputs)
                return out
            except Exception as e:  # many types, where no compiler is found or it cannot read the code
                out = plain(*inputs)  # an error of the network's own is raised here again
                state["works"] = False
                warnings.warn(f"torch.compile does not work here ({type(e).__name__}): training goes on without it", stacklevel=2)
                return out
        out = plain(*inputs)
        return out

    network.forward = call
    return module


def _uses_dropout(model: nn.Module) -> bool:
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())


@contextlib.contextmanager
def _dropout_seed(seed: int, step: int, rank: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's own generators: they are set for the step and put back, so that a resumed run repeats them."""
    devices = [device.index or 0] if device.type == "cuda" else []
    value = int(seeds.generator(seed, step, rank, stream=seeds.TRAIN + 16).integers(2**62))
    with torch.random.fork_rng(devices=devices):
        torch.random.manual_seed(value)
        yield


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask for a stop at the end of the step; a second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        print("\nstopping after this step, with a checkpoint", file=sys.stderr)

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _prefetched(stream: Stream, step: int, steps: int, batch: int, offset: int, share: int) -> Iterator[Iterator[Batch]]:
    """This process's share of every global batch, made one step ahead in a thread."""
    with ThreadPoolExecutor(1) as pool:

        def make(k: int) -> Future[Batch]:
            return pool.submit(stream.batch, k * batch + offset, share)

        def batches() -> Iterator[Batch]:
            ahead = make(step) if step < steps else None
            for k in range(step, steps):
                ready = ahead
                ahead = make(k + 1) if k + 1 < steps else None
                if ready is not None:
                    yield ready.result()

        yield batches()
