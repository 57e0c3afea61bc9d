"""One optimiser step: forward and backward over micro-batches, clipping, the optimiser, and the averages of the weights."""

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alphabar.core import seeds
from alphabar.data.augment import transformed
from alphabar.data.images import to_model
from alphabar.denoiser.model import Model
from alphabar.denoiser.unet import UNet
from alphabar.training.checkpoint import AVERAGES, FEATURES, Checkpoint, restore_optimizer, save_checkpoint
from alphabar.training.config import TrainRecipe
from alphabar.training.consistency import ConsistencyLoss, DrawnLoss
from alphabar.training.ema import PowerAverages, ema_decay, ema_update
from alphabar.training.loss import LossModule
from alphabar.training.optim import make_optimizer, rate_at
from alphabar.training.shard import gathered_state, shard
from alphabar.training.stream import Batch
from alphabar.training.targets import StableTargets

if TYPE_CHECKING:
    from accelerate import Accelerator


class Trainer:
    """The model, its averages and its optimiser on this process's device, and the step that updates them.

    sampling_model: the averaged model (EMA). With sharded weights it is a whole copy, which `refresh_sampling_model` updates.
    """

    def __init__(
        self, model: Model, recipe: TrainRecipe, accelerator: "Accelerator", resumed: Checkpoint | None,
        drawn_loss: DrawnLoss | None = None, targets: StableTargets | None = None,
    ) -> None:  # fmt: skip
        self.model, self.recipe, self.accelerator = model, recipe, accelerator
        self.device, self.world, self.main = accelerator.device, accelerator.num_processes, accelerator.is_main_process
        self.sharded = recipe.parallel == "fsdp" and self.world > 1
        self.layout = torch.channels_last if recipe.channels_last and not self.sharded else torch.contiguous_format
        if resumed:
            model.load_state_dict(resumed.model.state_dict())
        self.ema = Model(model.spec)
        self.ema.load_state_dict(dict(resumed.ema if resumed else model.state_dict()))
        self.ema.to(self.device, memory_format=self.layout).eval().requires_grad_(False)  # type: ignore[call-overload]
        model.to(self.device, memory_format=self.layout).train()  # type: ignore[call-overload]
        for each in (model, self.ema) if self.sharded else ():
            shard(each, self.device, self.world)
        optimizer = make_optimizer(recipe, model, self.device)
        if resumed and resumed.moments:
            restore_optimizer(optimizer, resumed.moments)
        self.averages = None  # power-function averages, for snapshots
        if recipe.ema_snapshots and (self.main or self.sharded):
            self.averages = PowerAverages(model, resumed.further.get(AVERAGES) if resumed else None)
        if isinstance(model.network, UNet):
            model.network.recompute = recipe.recompute
        if recipe.compile:
            _compile(model.network)
        self.consistency = ConsistencyLoss(model, recipe.consistency, drawn_loss, targets) if recipe.consistency else None
        if drawn_loss and resumed:
            drawn_loss.restore(resumed.further[FEATURES])
        module = self.consistency or LossModule(model, recipe.weighting, recipe.gamma, targets)
        self.module = module if self.sharded else accelerator.prepare(module)  # a sharded module needs no wrapper
        self.optimizer = accelerator.prepare(optimizer)
        self.sampling_model = Model(model.spec).to(self.device).eval().requires_grad_(False) if self.sharded else self.ema
        self.ema.autoencoder = self.sampling_model.autoencoder = model.autoencoder
        self.refresh_sampling_model()
        self.dropout = any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())
        self.lr = recipe.lr

    def step(self, batch: Batch, step: int) -> Tensor:
        """Updates weights and averages by this process's share of a global batch; `step` counts from 0.

        Returns the mean loss over the share, a scalar on the device.
        """
        recipe = self.recipe
        self.lr, beta1 = rate_at(recipe, step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
            if beta1 is not None:
                group["betas"] = (beta1, group["betas"][1])
        if self.consistency is not None:
            self.consistency.done = step / math.ceil(recipe.images / recipe.batch)
        with torch.random.fork_rng([self.device.index or 0] if self.device.type == "cuda" else [], enabled=self.dropout):
            if self.dropout:  # a resumed run repeats its masks
                numbers = seeds.generator(recipe.seed, step, self.accelerator.process_index, stream=seeds.TRAIN + 16)
                torch.random.manual_seed(int(numbers.integers(2**62)))
            loss = self._gradients(batch)
        if recipe.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        images = (step + 1) * recipe.batch
        decay = ema_decay(recipe.batch, images, recipe.ema_half_life, recipe.ema_ramp)
        ema_update(self.ema.parameters(), self.model.parameters(), decay)
        if self.averages is not None:
            self.averages.update(recipe.batch, images)
        return loss

    def _gradients(self, batch: Batch) -> Tensor:
        """Adds up the gradients of all micro-batches; processes exchange them once, in the last one. Returns the mean loss."""
        n, total = self.recipe.accumulate, torch.zeros((), device=self.device)
        for k, part in enumerate(batch.split(n), 1):
            x0 = to_model(part.pixels, self.device)
            x0 = (x0 if part.augment is None else transformed(x0, part.augment)).contiguous(memory_format=self.layout)
            noise = part.noise.to(self.device).contiguous(memory_format=self.layout)
            with self.accelerator.no_sync(self.module) if k < n else nullcontext():
                with self.accelerator.autocast() if self.sharded else nullcontext():
                    loss = self.module(x0, part.sigma, noise, part.labels, part.augment) / n
                self.accelerator.backward(loss)
            total = total + loss.detach()
        return total

    def distances(self) -> dict[str, float]:
        """What the loss of drawn images has measured last; nothing where there is none."""
        drawn_loss = self.consistency.drawn_loss if self.consistency is not None else None
        return {} if drawn_loss is None else drawn_loss.distances()

    def refresh_sampling_model(self) -> None:
        """Gathers sharded averages into `sampling_model`. All processes must call it."""
        if self.sharded:
            self.sampling_model.load_state_dict(gathered_state(self.ema.state_dict()))

    def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint; the main process writes it, and with sharded weights all must call this."""
        if self.main or self.sharded:
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # without accelerate's wrapper
            further = {AVERAGES: self.averages.state()} if self.averages else {}
            if self.consistency is not None and self.consistency.drawn_loss is not None:
                further[FEATURES] = self.consistency.drawn_loss.state()
            save_checkpoint(folder, self.model, self.ema.state_dict(), optimizer, state, further, write=self.main)


def _compile(network: nn.Module) -> None:
    """Compiles the network's forward. Where that fails and the plain forward works, training continues with the plain one."""
    plain = network.forward
    forward = torch.compile(plain)

    def call(*inputs: Tensor | None) -> Any:
        nonlocal forward
        try:
            return forward(*inputs)
        except Exception as e:  # torch.compile raises many types, where there is no compiler or it cannot trace the code
            if forward is plain:
                raise
            out = plain(*inputs)  # raises an error of the network itself again
            forward = plain
            warnings.warn(f"torch.compile does not work here ({type(e).__name__}): training continues without it", stacklevel=2)
            return out

    network.forward = call
