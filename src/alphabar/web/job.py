"""A setting that was checked and can be sampled, and the command and Python code that make the same images."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from alphabar.core.machine import best_device
from alphabar.core.messages import plural
from alphabar.denoiser.plan import Adaptive, parse_plan
from alphabar.sampling.batches import SamplingStep
from alphabar.sampling.catalogue import find
from alphabar.sampling.model import image_shape
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.sampling.settings import TUNED, dry_run, settings
from alphabar.web.request import MOST_IMAGES, MOST_SEED, MOST_STEPS, Setting, choice, number, text, whole
from alphabar.web.runs_folder import BUNDLED_RUN, RunsFolder

MOST_CALLS = 256_000  # images times calls of one setting: an hour or less where a call takes 10 ms
MOST_VALUES = 2**28  # numbers that the images of one setting hold: 1 GiB in float32
BATCH = 64  # images at a time, the default of `alphabar sample`


@dataclass(frozen=True, eq=False)
class Job:
    """A request that can be sampled."""

    model: Any
    run: str  # to be typed on the command line
    bundled: bool
    checkpoint: str
    n: int
    seed: int
    arguments: dict[str, Any]  # for `sample`, without n and seed
    calls: float  # network calls an image, counted in a dry run; under an adaptive plan, the most that are possible

    @property
    def steps(self) -> int:
        return int(self.arguments["steps"])

    @property
    def cost(self) -> str:
        """What will be sampled and how many network calls it takes, in a sentence."""
        plan = self.arguments.get("plan")
        adaptive = plan is not None and isinstance(parse_plan(plan), Adaptive)
        calls = f"up to {self.calls:g} calls, image by image" if adaptive else f"{plural(self.calls, 'call')} an image"
        who = "guidance" if "guidance" in self.arguments else self.arguments["sampler"]
        more = f"; {who} calls more than once a step" if self.calls > self.steps else ""
        total = f"{plural(self.n, 'image')}: {self.n * self.calls:,.0f} image-calls"
        return f"{plural(self.steps, 'step')}, {calls}; {total}{more}"

    def sample(self, on_step: Callable[[SamplingStep], None]) -> Samples:
        return sample(
            self.model, self.n, seed=self.seed, batch=BATCH, channels_last=True, progress=False, on_step=on_step,
            **self.arguments,
        )  # fmt: skip

    def command(self, out: str) -> str:
        """The command line that samples the same images."""
        words = ["alphabar", "sample", self.run, "--n", str(self.n)]
        for key, value in {**self.arguments, "seed": self.seed}.items():
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{key}")
            elif isinstance(value, float):
                words += [f"--{key}", f"{value:g}" if float(f"{value:g}") == value else str(value)]
            else:
                words += [f"--{key}", *(value if isinstance(value, list) else [str(value)])]
        words += [] if self.checkpoint == "last" else ["--checkpoint", self.checkpoint]
        return shlex.join([*words, "--fast", "none", "--out", out])

    def python(self, out: str) -> str:
        """The lines of Python that sample the same images."""
        device = best_device()
        given = {**self.arguments, "seed": self.seed, "channels_last": True} | ({} if device == "cpu" else {"device": device})
        arguments = "".join(f",\n    {key}={_literal(value)}" for key, value in given.items())
        checkpoint = "" if self.checkpoint == "last" else f", {_literal(self.checkpoint)}"
        return (
            f"import alphabar\n\nmodel = alphabar.load_model({_literal(self.run)}{checkpoint})\n"
            f"samples = alphabar.sample(\n    model,\n    {self.n}{arguments},\n)\nsamples.save({_literal(out)})\n"
        )


def prepare(runs: RunsFolder, setting: Setting, n: Any, seed: Any, *, most: int = MOST_IMAGES) -> Job:
    """Checks a request, as the page sends it, for n images of a seed.

    Raises:
        ValueError: for what cannot be sampled, with the message of the library, and for more than this page samples at once.
    """
    n, seed = whole("images", n, 1, most), whole("seed", seed, 0, MOST_SEED)
    counted = choice("counted in", setting.counted, ("calls", "steps"))
    amount = whole(counted, setting.amount, 1, MOST_STEPS)
    arguments = _arguments(setting, amount)
    model, typed = runs.load(setting.run, setting.checkpoint)
    if counted == "calls":
        arguments["steps"] = _steps_for(model, arguments, amount)
    c, h, w = image_shape(model)
    if n > (held := MOST_VALUES // (c * h * w)):
        raise ValueError(f"{n} images of {c} x {h} x {w} are more than this page holds: ask for {held} at most")
    record = dry_run(model, **arguments)
    calls = float(record["nfe"])
    if "calls" in record:  # an adaptive plan: its calls depend on the images
        calls = float(find(arguments["sampler"]).calls(arguments["steps"]) * (1 if arguments.get("guidance", 1.0) == 1 else 2))
    if n * calls > MOST_CALLS:
        raise ValueError(
            f"{plural(n, 'image')} of {plural(calls, 'call')} are {n * calls:,.0f} image-calls, and this page makes "
            f"{MOST_CALLS:,} at most for one setting: ask for fewer, or sample them with `alphabar sample`"
        )
    return Job(model, typed, setting.run == BUNDLED_RUN, setting.checkpoint, n, seed, arguments, calls)


def _arguments(setting: Setting, amount: int) -> dict[str, Any]:
    """The arguments of `sample` that a setting gives; fields that are empty are left out."""
    found: dict[str, Any] = {"sampler": text("sampler", setting.sampler) or "ddim", "steps": amount}
    for name in ("eta", "guidance"):
        if (value := number(name, getattr(setting, name))) is not None:
            found[name] = value
    for name in ("plan", "grid"):
        if words := text(name, getattr(setting, name)):
            found[name] = words
    if setting.clip not in ("", None):
        found["clip"] = choice("clip", setting.clip, ("yes", "no")) == "yes"
    if classes := [c.strip() for c in text("classes", setting.classes).split(",") if c.strip()]:
        found["classes"] = classes
    return found


def _steps_for(model: Any, arguments: Mapping[str, Any], calls: int) -> int:
    """As many steps as `calls` network calls pay for, without guidance. Raises ValueError where they pay for none."""
    if str(arguments["sampler"]).partition(":")[0] == TUNED:
        return calls
    found, left_out = settings(
        model, samplers=[str(arguments["sampler"])], calls=[calls], etas=[arguments.get("eta")], plans=[arguments.get("plan")],
        grids=[arguments.get("grid")], clip=arguments.get("clip"),
    )  # fmt: skip
    if not found:
        raise ValueError(str(left_out[0]))
    return found[0][0].steps


def _literal(value: Any) -> str:
    """A value as Python code; texts in double quotes."""
    return json.dumps(value) if isinstance(value, str | list) else repr(value)
