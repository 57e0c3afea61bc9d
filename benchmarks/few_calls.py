"""Few network calls: alphabar's samplers, fitted or not, against those of diffusers, on the same weights and noise.

    python benchmarks/few_calls.py --out few                          # the bundled model, n = 10,000: hours on 2 cores
    python benchmarks/few_calls.py --out few --n 600 --calls 5 10     # a short run: minutes

For each number of calls, the setting of either side is chosen first, on --n-select images of another seed (the worst two thirds
are dropped after a third of these images): for alphabar among the samplers with one call per step on every grid, for diffusers
among DDIM, DPMSolverMultistep, UniPC and DEIS with the spacings, orders and Karras levels that their documentation recommends.
Then --n images are drawn with each chosen setting, with the fitted sampler of the run, and, with --ddpm, with DDPM in 1,000
calls. One extractor scores all of them. --distilled RUN adds one and two calls of a distilled run, and compares them with DDPM
and with the samplers of --base, on that extractor and on --second, another one that no fit has used; its two calls are timed
beside the last of --calls of diffusers' best scheduler.
All samples are stored in --out, so a stopped run continues; --calls with nothing leaves out the comparison with diffusers. The
time per image is measured at the end, in turns; run this part on an otherwise idle machine.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from alphabar.core.machine import best_device, machine
from alphabar.core.progress import track
from alphabar.core.seeds import starting_noise
from alphabar.data.image_set import load, parse_set
from alphabar.data.images import to_pixels
from alphabar.denoiser.runtime.fast_model import speed_up
from alphabar.evaluation.compare import compare_measured
from alphabar.evaluation.fid import frechet
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import Measured
from alphabar.features.extract import extract
from alphabar.features.load import load_extractor
from alphabar.features.stats import FeatureStats
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.schedule.grid import GRIDS, make_grid
from alphabar.training.checkpoint import load_model

OURS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ddim", {}), ("dpmpp_2m", {}), ("dpmpp_3m", {}), ("unipc", {}), ("unipc", {"bh": 2}), ("ipndm", {}), ("deis", {}),
)  # fmt: skip
_SPACINGS: tuple[dict[str, Any], ...] = (
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "trailing"},
    {"use_karras_sigmas": True},
)
_ORDERS = ({"solver_order": 2}, {"solver_order": 3})
_MULTISTEP = [o | s for o, s in itertools.product(_ORDERS, _SPACINGS)]
THEIRS: dict[str, list[dict[str, Any]]] = {
    "DDIMScheduler": [
        {"timestep_spacing": "leading", "clip_sample": True},
        {"timestep_spacing": "trailing", "clip_sample": True},
        {"timestep_spacing": "trailing", "clip_sample": False},
    ],
    "DPMSolverMultistepScheduler": _MULTISTEP,
    "UniPCMultistepScheduler": _MULTISTEP,
    "DEISMultistepScheduler": _MULTISTEP,
}
C = TypeVar("C")
STEPS = 1000  # timesteps that a model of continuous time has for diffusers


class ForDiffusers:
    """A model with the interface of a diffusers pipeline: `unet(y, t)` with integer timesteps, and its betas.

    network: another way of running the model's own, to draw with in less time; None for timings."""

    def __init__(self, model: Any, network: Any = None) -> None:
        self.model, self.network = model, network or model.network
        if model.data_range != 1:
            raise ValueError(f"the model's range is {model.data_range}: diffusers' pipelines know 1 only")
        own = model.own_schedule
        count = own.steps or STEPS
        self.times = torch.linspace(own.t_min, own.t_max, count, dtype=torch.float64)
        alphabar = own.alphabar(self.times)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alphabar[:-1]])
        self.betas = (1 - alphabar / before).float().numpy()
        self.prediction = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}[model.prediction]

    def scheduler(self, kind: str, settings: dict[str, Any]) -> Any:
        import diffusers

        return getattr(diffusers, kind)(
            num_train_timesteps=len(self.betas), trained_betas=self.betas, prediction_type=self.prediction, **settings
        )

    @torch.no_grad()
    def draw(self, kind: str, settings: dict[str, Any], steps: int, n: int, seed: int, batch: int, show: bool = True) -> Samples:
        """The loop of a diffusers pipeline, from alphabar's noise."""
        scheduler = self.scheduler(kind, settings)
        device = next(self.model.parameters()).device
        images, calls, seconds = [], 0, 0.0
        with track(n, f"{kind} {steps}", unit="images", show=show) as advance:
            for start in range(0, n, batch):
                rows = range(start, min(n, start + batch))
                begun = time.perf_counter()
                scheduler.set_timesteps(steps)
                y = starting_noise(seed, rows, self.model.image_shape).to(device) * scheduler.init_noise_sigma
                for t in scheduler.timesteps:
                    out = self.network(scheduler.scale_model_input(y, t), self.times[int(t)].float().expand(len(y)).to(device))
                    calls += len(y)
                    y = scheduler.step(out, t, y).prev_sample
                images.append(to_pixels(y, "uint8"))
                seconds += time.perf_counter() - begun
                advance(len(rows))
        record = {
            "sampler": f"diffusers {kind}", "options": settings, "steps": steps, "nfe": calls / n, "seed": seed, "first_index": 0,
            "n": n, "seconds": seconds, "seconds_per_image": seconds / n, "model": self.model.fingerprint, "value_range": None,
        }  # fmt: skip
        return Samples(np.concatenate(images), record)


class Bench:
    def __init__(self, a: argparse.Namespace) -> None:
        self.a = a
        self.model = load_model(a.run).to(best_device())
        self.fast = speed_up(self.model, a.fast, batch=a.batch)
        a.fast = self.fast.method  # the method that "auto" chose, for all samples; the record names it
        self.theirs = ForDiffusers(self.model, self.fast.network)
        real = load(*parse_set(a.against))
        self.extractor = load_extractor(a.extractor)
        self.evaluator = ImageEval(self.extractor, real, progress=False)
        self.real = FeatureStats.of(extract(real, self.extractor).rows(slice(None)), self.extractor.fingerprint)
        self.out: Path = a.out
        self.out.mkdir(parents=True, exist_ok=True)

    def kept(self, name: str, draw: Callable[[], Samples]) -> Samples:
        """The stored samples of that name, drawn first if they are missing."""
        path = self.out / f"{self.model.fingerprint}-{name}.npz"
        if path.exists():
            return Samples.load(path)
        made = draw()
        made.save(path)
        return made

    def ours(
        self, n: int, seed: int, steps: int, sampler: str, grid: str | None = None, more: dict[str, Any] | None = None
    ) -> Samples:
        words = "".join(f"-{k}_{v}" for k, v in (more or {}).items())
        name = f"{sampler}{words}-{grid}-{steps}-seed{seed}-{n}".replace(":", "_")
        if sampler.startswith("tuned"):  # a new fit is another sampler
            from alphabar.sampling.fitted import find_tuned, folders_of

            fit = find_tuned(folders_of(self.model), self.model.fingerprint, steps, sampler.partition(":")[2] or None)
            name = f"tuned-{fit.name}-{fit.digest}-{steps}-seed{seed}-{n}"
        options: dict[str, Any] = {"sampler": sampler, "steps": steps, "grid": grid, "seed": seed, "batch": self.a.batch}
        options |= {"options": more} if more else {}
        return self.kept(name, lambda: sample(self.model, n, fast=self.a.fast, channels_last=True, **options))

    def others(self, n: int, seed: int, steps: int, kind: str, settings: dict[str, Any]) -> Samples:
        name = "-".join([kind, *(f"{k}_{v}" for k, v in settings.items()), str(steps), f"seed{seed}", str(n)])
        return self.kept(name, lambda: self.theirs.draw(kind, settings, steps, n, seed, self.a.batch))

    def measure(self, samples: Samples, n: int | None = None) -> Measured:
        images, record = samples.images, samples.record
        if n is not None and n < len(images):
            images, record = images[:n], {**record, "n": n}
        return self.evaluator.measure(images, record, self.a.metrics)

    def fid(self, samples: Samples) -> float:
        """Without interval and floor, which take longer than the rest: to choose by."""
        features = extract(samples.images, self.extractor, cache=False).rows(slice(None))
        return float(frechet(FeatureStats.of(features, self.extractor.fingerprint), self.real))

    def choose(self, calls: int) -> tuple[tuple[str, str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Our best sampler and grid that are not fitted, and the best settings of each of theirs, the best one first."""
        if self.a.chosen is not None:
            chosen = json.loads(self.a.chosen.read_text())["calls"][str(calls)]["chosen"]
            sampler, grid, more = chosen["ours"]
            return (sampler, grid, more), chosen["theirs"]
        seed = self.a.seed + 1000
        mine = []
        for (sampler, more), grid in itertools.product(OURS, GRIDS):
            try:
                make_grid(self.model.schedule, calls, grid)
            except ValueError:
                continue
            mine.append((sampler, grid, more))
        best, _ = self.race(mine, lambda c, n: self.ours(n, seed, calls, *c))
        theirs = {
            kind: self.race(settings, lambda s, n, kind=kind: self.others(n, seed, calls, kind, s))  # type: ignore[misc]
            for kind, settings in THEIRS.items()
        }
        return best, {kind: theirs[kind][0] for kind in sorted(theirs, key=lambda kind: theirs[kind][1])}

    def race(self, candidates: list[C], draw: Callable[[C, int], Samples]) -> tuple[C, float]:
        """The candidate of lowest FID on --n-select images, among the third of them that did best on a third of the images;
        and that FID."""
        few = sorted(candidates, key=lambda c: self.fid(draw(c, self.a.n_select // 3)))[: max(2, len(candidates) // 3)]
        found = [(self.fid(draw(c, self.a.n_select)), k) for k, c in enumerate(few)]
        least, k = min(found)
        return few[k], least

    def seconds(self, calls: int, tuned: bool) -> dict[str, list[float]]:
        """Seconds an image of ours and theirs, in turns. Making the fast path ready is done once, and not in it."""
        n = self.a.batch * 2
        dpm = "DPMSolverMultistepScheduler"
        tasks: dict[str, Callable[[], Any]] = {
            "alphabar": lambda: sample(
                self.fast, n, sampler="tuned" if tuned else "ddim", steps=calls, batch=self.a.batch, progress=False
            ),
            f"diffusers {dpm}": lambda: plain.draw(dpm, {"solver_order": 2}, calls, n, 0, self.a.batch, False),
            "diffusers DDIMScheduler": lambda: plain.draw("DDIMScheduler", {}, calls, n, 0, self.a.batch, False),
        }  # fmt: skip
        plain = ForDiffusers(load_model(self.a.run).to(best_device()))  # in its default memory layout
        return in_turns(tasks, self.a.rounds, n)


def in_turns(tasks: dict[str, Callable[[], Any]], rounds: int, n: int) -> dict[str, list[float]]:
    """Seconds an image of tasks that draw n images, round by round in alternating order; a round before them is not counted."""
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for k in range(rounds + 1):
        for name, task in list(tasks.items())[:: 1 if k % 2 else -1]:
            begun = time.perf_counter()
            task()
            if k:
                found[name].append((time.perf_counter() - begun) / n)
    return found


def distilled_seconds(bench: Bench, calls: int, best: tuple[str, dict[str, Any]]) -> dict[str, list[float]]:
    """Seconds an image of two calls of the distilled run and of so many calls of diffusers' best scheduler, in turns, each in
    float32 and in bfloat16."""
    a, n = bench.a, bench.a.batch * 2
    base, tuned = (load_model(run).to(best_device()) for run in (a.run, a.distilled))
    tasks: dict[str, Callable[[], Any]] = {}
    for precision in ("float32", "bf16"):
        ours, theirs = (speed_up(m, "channels_last", batch=a.batch, precision=precision) for m in (tuned, base))
        tasks[f"alphabar, 2 calls, {precision}"] = lambda fast=ours: sample(
            fast, n, sampler="consistency", steps=2, batch=a.batch, progress=False
        )
        tasks[f"diffusers, {calls} calls, {precision}"] = lambda fast=theirs: ForDiffusers(base, fast.network).draw(
            *best, calls, n, 0, a.batch, False
        )
    found = in_turns(tasks, a.rounds, n)
    for precision in ("float32", "bf16"):
        mine, others = found[f"alphabar, 2 calls, {precision}"], found[f"diffusers, {calls} calls, {precision}"]
        ratio = [y / x for x, y in zip(mine, others, strict=True)]
        print(
            f"{precision}: 2 calls {1e3 * statistics.median(mine):.2f} ms an image, {calls} calls of diffusers' {best[0]} "
            f"{1e3 * statistics.median(others):.2f}; {statistics.median(ratio):.1f} ({min(ratio):.1f} to {max(ratio):.1f}) times",
            flush=True,
        )
    return found


def distilled_rows(bench: Bench, ddpm: Measured | None) -> dict[str, Any]:
    """Scores of one and two calls of the distilled run on both extractors, and their differences from the base model's."""
    a, tuned = bench.a, load_model(bench.a.distilled).to(best_device())
    drawn = {f"distilled, {k} call" + "s" * (k > 1): bench.kept(
        f"distilled-{tuned.fingerprint}-{k}-seed{a.seed}-{a.n}",
        lambda k=k: sample(tuned, a.n, steps=k, seed=a.seed, batch=a.batch, fast=a.fast, channels_last=True),
    ) for k in (1, 2)}  # fmt: skip
    for sampler, _, calls in (base.partition(":") for base in a.base):
        drawn[f"{sampler}, {calls} calls"] = bench.ours(a.n, a.seed, int(calls), sampler)
    out: dict[str, Any] = {}
    for name in filter(None, (a.extractor, a.second)):
        evaluator = ImageEval(load_extractor(name), load(*parse_set(a.against)), progress=False)
        rows = {
            k: evaluator.measure(s.images, s.record, ("fid", "kid", "precision", "recall", "coverage")) for k, s in drawn.items()
        }
        if ddpm is not None and name == a.extractor:
            rows["DDPM, 1,000 calls"] = ddpm
        for key, measured in rows.items():
            print(f"  {Path(name).stem}: {key:20} " + "; ".join(str(s) for s in measured.scores.values()), flush=True)
        compared = [(x, y) for x in list(rows)[:2] for y in list(rows)[2:]]
        words = [c for x, y in compared for c in compare_measured(rows[x], rows[y], names=(x, y))]
        for c in words:
            print(f"    {c.words}", flush=True)
        out[Path(name).stem] = {k: [s.to_json() for s in m.scores.values()] for k, m in rows.items()} | {
            "compared": [c.to_json() for c in words]
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="bundled")
    parser.add_argument("--against", default="fashion_mnist:test")
    parser.add_argument("--extractor", default="bundled", help="the extractor that scores")
    parser.add_argument("--calls", type=int, nargs="*", default=[5, 8, 10, 15, 20])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--n-select", type=int, default=600, help="images on which settings are chosen")
    parser.add_argument("--chosen", type=Path, help="few_calls.json of an earlier run, whose settings are used")
    parser.add_argument("--theirs", type=int, default=0, help="number of diffusers' schedulers to draw with, best first; 0: all")
    parser.add_argument("--metrics", nargs="+", default=["fid", "kid"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing; 0: no timing")
    parser.add_argument("--fast", default="auto")
    parser.add_argument("--tuned", default="tuned", help='"none" if the run has no fitted sampler')
    parser.add_argument("--distilled", help="a distilled run, as bundled/distilled")
    parser.add_argument("--base", nargs="+", default=["tuned:10", "ddim:50"], help="what the distilled run is compared with")
    parser.add_argument("--second", help="an extractor of another architecture, which no fit has used")
    parser.add_argument("--ddpm", type=int, default=0, help="images to draw with DDPM in 1,000 calls; 0: none")
    parser.add_argument("--out", type=Path, required=True, help="folder of all samples")
    a = parser.parse_args()
    bench = Bench(a)
    found: dict[str, Any] = {
        "machine": machine(),
        "arguments": {**vars(a), "out": str(a.out), "chosen": str(a.chosen)},
        "calls": {},
    }
    ddpm = None
    if a.ddpm:
        drawn = bench.kept(
            f"ddpm-1000-seed{a.seed}-{a.ddpm}",
            lambda: sample(
                bench.model, a.ddpm, sampler="ddpm", steps=1000, seed=a.seed, batch=a.batch, fast=a.fast, channels_last=True,
                out=a.out / "ddpm1000.npz",
            ),
        )  # fmt: skip
        ddpm = bench.measure(drawn)
        print(f"DDPM, 1,000 calls, n = {a.ddpm:,}: {ddpm.scores['fid']}", flush=True)
        found["ddpm"] = [s.to_json() for s in ddpm.scores.values()]
    for calls in a.calls:
        (sampler, grid, more), theirs = bench.choose(calls)
        title = " ".join([sampler, *(f"{k}={v}" for k, v in more.items())])
        print(f"\n{calls} calls: ours {title} on {grid}; theirs {theirs}", flush=True)
        rows = {f"alphabar {title}, {grid}": bench.measure(bench.ours(a.n, a.seed, calls, sampler, grid, more))}
        for kind, settings in list(theirs.items())[: a.theirs or None]:
            rows[f"diffusers {kind}"] = bench.measure(bench.others(a.n, a.seed, calls, kind, settings))
        best = min((k for k in rows if k.startswith("diffusers")), key=lambda k: rows[k].scores["fid"].value)
        if a.tuned != "none":
            tuned = bench.ours(a.n, a.seed, calls, a.tuned)
            rows = {f"alphabar {tuned.record['tuned']['name']} (fitted)": bench.measure(tuned)} | rows
        row: dict[str, Any] = {"chosen": {"ours": [sampler, grid, more], "theirs": theirs}, "scores": {}, "against_best": []}
        for name, measured in rows.items():
            print(f"  {name:44} " + "; ".join(str(s) for s in measured.scores.values()), flush=True)
            row["scores"][name] = [s.to_json() for s in measured.scores.values()]
        for name in (k for k in rows if k.startswith("alphabar")):
            for c in compare_measured(rows[name], rows[best], names=(name, best)):
                print(f"  {c.words}", flush=True)
                row["against_best"].append(c.to_json())
        if ddpm is not None and a.tuned != "none":
            own = bench.measure(tuned, a.ddpm)
            c = compare_measured(own, ddpm, names=("fitted", "DDPM"))[0]
            floor = ddpm.scores["fid"].floor or 0.0
            excess = ddpm.scores["fid"].value - floor
            low, high = c.difference.interval or (float("nan"), float("nan"))
            print(
                f"  FID above that of DDPM in 1,000 calls, floor {floor:.3f} subtracted, n = {len(drawn.images):,}: "
                f"{100 * c.difference.value / excess:+.1f} % [{100 * low / excess:+.1f}, {100 * high / excess:+.1f}]",
                flush=True,
            )
            row["above_ddpm"] = [v / excess for v in (c.difference.value, low, high)]
            parts = [tuned.images[k : k + a.ddpm] for k in range(0, a.n - a.ddpm + 1, a.ddpm)]
            sets = [bench.fid(Samples(part, tuned.record)) for part in parts]
            if len(sets) > 1:
                mean, sd = statistics.mean(sets), statistics.stdev(sets)
                print(
                    f"  {len(sets)} sets of {a.ddpm:,} of the fitted: FID {mean:.3f}, standard deviation of a set {sd:.3f}; "
                    f"{100 * (mean - floor) / excess - 100:+.1f} % above DDPM's {ddpm.scores['fid'].value:.3f}",
                    flush=True,
                )
                row["sets"] = sets
        found["calls"][str(calls)] = row
        (a.out / "few_calls.json").write_text(json.dumps(found, indent=1) + "\n")
    if a.distilled:
        found["distilled"] = distilled_rows(bench, ddpm)
        if a.rounds and a.calls:
            kind, settings = next(iter(found["calls"][str(a.calls[-1])]["chosen"]["theirs"].items()))
            found["distilled_seconds"] = distilled_seconds(bench, a.calls[-1], (kind, settings))
    for calls in a.calls if a.rounds else []:
        times = bench.seconds(calls, a.tuned != "none")
        for name in list(times)[1:]:
            ratio = [x / y for x, y in zip(times["alphabar"], times[name], strict=True)]
            print(
                f"{calls} calls: alphabar {1e3 * statistics.median(times['alphabar']):.2f} ms an image, {name} "
                f"{1e3 * statistics.median(times[name]):.2f}; ratio {statistics.median(ratio):.2f} "
                f"({min(ratio):.2f} to {max(ratio):.2f})",
                flush=True,
            )
        found["calls"][str(calls)]["seconds"] = times
    (a.out / "few_calls.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
