"""Precision, recall, density and coverage against their plain definitions, and their intervals against simulation."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alphabar.evaluation import prdc_neighbours
from alphabar.evaluation.estimate import difference
from alphabar.evaluation.prdc import METRICS, PRDC, prdc

ROOT = Path(__file__).resolve().parents[2]


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, n, d]).standard_normal((n, d), dtype=np.float32)) * scale


def definition(real: Tensor, generated: Tensor, k: int) -> dict[str, float]:
    """The formulas of the papers, with complete distance matrices in float64."""
    x, y = real.to(torch.float64), generated.to(torch.float64)

    def distances(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    radius_x = distances(x, x).kthvalue(k + 1, dim=1).values  # the image itself is one of them
    radius_y = distances(y, y).kthvalue(k + 1, dim=1).values
    between = distances(x, y)
    in_x, in_y = between <= radius_x[:, None], between <= radius_y
    return {
        "precision": float(in_x.any(0).double().mean()),
        "recall": float(in_y.any(1).double().mean()),
        "density": float(in_x.double().sum()) / (k * len(y)),
        "coverage": float(in_x.any(1).double().mean()),
    }


def values(found: PRDC) -> dict[str, float]:
    return {name: getattr(found, name).value for name in METRICS}


X, Y = normal(700, 8, 0), normal(613, 8, 1, 1.1)
WIDE = normal(330, 300, 2)
FAR = torch.tensor([[9e3] * 8])  # one image far from all others, which costs them digits in float32

SETS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "normal": lambda: (X, Y),
    "float64": lambda: (X.double(), Y.double()),
    "float16": lambda: (X.half(), Y.half()),
    "many features": lambda: (WIDE[:180], WIDE[180:] * 0.9),
    "one feature": lambda: (X[:, :1], Y[:, :1]),
    "whole numbers": lambda: (X.round(), Y.round()),  # nearly all distances are tied
    "whole numbers, one far off": lambda: (torch.cat([(2 * X).round(), FAR]), torch.cat([(2 * Y).round(), FAR])),
    "off centre": lambda: (X + 1000, Y + 1000),
    "tiny": lambda: (X * 1e-25, Y * 1e-25),
    "huge": lambda: (X * 1e25, Y * 1e25),
    "every image thrice": lambda: (X[torch.arange(700) // 3], Y[torch.arange(613) // 3]),
    "every image ten times": lambda: (X[torch.arange(700) // 10], X[torch.arange(613) // 9]),
    "one image": lambda: (X, X[:1].expand(613, 8)),
    "one image on both sides": lambda: (X[:1].expand(700, 8), X[:1].expand(613, 8)),
    "nearly copies": lambda: (X, X[torch.arange(613) % 10] + 1e-6 * Y),
    "nearly copies on both sides": lambda: (X[torch.arange(700) % 9] + 1e-6 * X, X[torch.arange(613) % 10] + 1e-6 * Y),
    "apart": lambda: (X, Y + 100),
    "narrow": lambda: (X, Y * 0.05),
    "few": lambda: (X[:7], Y[:6]),
}


@pytest.mark.parametrize("name", SETS)
def test_values_are_those_of_the_definition(name: str) -> None:
    real, generated = SETS[name]()
    for k, block in ((5, 1024), (3, 97)) if name != "few" else ((5, 4), (1, 1)):
        result = prdc(real=real, generated=generated, k=k, block=block)
        assert values(result) == pytest.approx(definition(real, generated, k), abs=1e-12), (k, block)
        for metric in METRICS:
            estimate = getattr(result, metric)
            if estimate.interval is not None:
                low, high = estimate.interval
                assert 0 <= low <= estimate.value <= high and (metric == "density" or high <= 1)


def test_values_where_the_lists_of_neighbours_are_too_short_or_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """With bounds that accept too few pairs, and with so many pairs that some are dropped on the way."""
    real, generated = X[torch.arange(700) // 2], Y
    whole = prdc(real=real, generated=generated)
    for sample, budget in ((300, 1), (25, 1 << 22)):
        monkeypatch.setattr(prdc_neighbours, "SAMPLE", sample)
        monkeypatch.setattr(prdc_neighbours, "BUDGET", budget)
        some = prdc(real=real, generated=generated, block=64)
        assert values(some) == pytest.approx(definition(real, generated, 5), abs=1e-12)
        assert [getattr(some, m).se for m in METRICS] == pytest.approx([getattr(whole, m).se for m in METRICS], rel=0.02)


def test_equal_sets_score_one() -> None:
    """A strict < in place of <= gives 0 for copies of one image (clovaai/generative-evaluation-prdc#7)."""
    for same in (X, X.round(), X[torch.arange(700) // 10], X[:1].expand(50, 8)):
        result = prdc(real=same, generated=same)
        assert [result.precision.value, result.recall.value, result.coverage.value] == [1.0, 1.0, 1.0]
    density = result.density  # of 50 copies of one image: each lies in all balls, so that all half samples agree
    assert density.value == 50 / 5 and density.interval is not None
    assert density.interval[0] < 9 and density.interval[1] > 11 and "25 independent" in str(density.note)


def test_a_ball_of_radius_zero_contains_only_copies() -> None:
    real = X[torch.arange(700) // 10]  # each image ten times: the fifth neighbour is a copy
    generated = torch.cat([X[:7], X[:93] + 1e-3])
    result = prdc(real=real, generated=generated)
    assert result.precision.value == 7 / 100 and result.coverage.value == 70 / 700
    assert result.density.value == 7 * 10 / (5 * 100)


def modes(n: int, kinds: int, seed: int) -> Tensor:
    centres = normal(10, 16, 7, 3.0)
    return centres[torch.arange(n) % kinds] + normal(n, 16, seed, 0.3)


def test_real_and_generated_are_not_swapped() -> None:
    """Swapped, a collapsed model has the recall of a perfect one (toshas/torch-fidelity#58)."""
    collapsed = prdc(real=modes(600, 10, 0), generated=modes(500, 3, 1))
    assert collapsed.precision.value > 0.85 and collapsed.density.value > 0.9
    assert collapsed.recall.value == pytest.approx(0.3, abs=0.03) and collapsed.coverage.value == pytest.approx(0.3, abs=0.03)
    extra = prdc(real=modes(600, 3, 0), generated=modes(2000, 10, 1))
    assert extra.recall.value > 0.85 and extra.coverage.value > 0.75
    assert 0.2 < extra.precision.value < 0.31 and 0.2 < extra.density.value < 0.35
    with pytest.raises(TypeError):
        prdc(X, Y)  # type: ignore[call-arg, misc]


def test_invalid_arguments_are_refused() -> None:
    for changes, words in (
        ({"generated": Y[:, :7]}, "8 and 7 wide"),
        ({"generated": Y[:5]}, "5 generated images have no 5-th neighbour: give more than k = 5"),
        ({"real": X[:4]}, "4 real images"),
        ({"k": 0}, "k = 0: give a whole number >= 1"),
        ({"block": 0}, "block = 0"),
        ({"level": 1.0}, "level = 1.0"),
        ({"real": torch.where(torch.arange(700)[:, None] == 31, torch.nan, X)}, "features of image 31 "),
    ):
        arguments: dict[str, Any] = {"real": X, "generated": Y, **changes}
        with pytest.raises(ValueError, match=words):
            prdc(**arguments)
    with pytest.raises(ValueError, match="'fid' is unknown: use one of precision"):
        prdc(real=X, generated=Y).expansion("fid")


@pytest.fixture(scope="module")
def simulated() -> dict[str, Any]:
    """Values, standard errors and intervals of one model, and of a paired difference of two, over many draws of all sets."""
    sets, n, m = 80, 240, 220
    single, paired = np.empty((len(METRICS), sets, 4)), np.empty((len(METRICS), sets, 4))
    own = np.empty((len(METRICS), sets))
    for s in range(sets):
        real, generated = normal(n, 8, 10 + s), normal(m, 8, 10_000 + s)
        second = generated * 1.05 + normal(m, 8, 20_000 + s, 0.1)
        one, two = (prdc(real=real, generated=g, seed=s) for g in (generated, second))
        for e, name in enumerate(METRICS):
            estimate = getattr(one, name)
            apart = difference(one.expansion(name), two.expansion(name), paired=True)
            for out, result in ((single, estimate), (paired, apart)):
                out[e, s] = result.value, result.se, *result.interval
            own[e, s] = float(one.expansion(name).influence_x.var()) / m
    return {"single": single, "paired": paired, "own": own}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "paired"])
def test_intervals_cover_the_expectation(simulated: dict[str, Any], kind: str) -> None:
    for name, (value, se, low, high) in zip(METRICS, simulated[kind].transpose(0, 2, 1), strict=True):
        ratio = float((se**2).mean() / value.var(ddof=1))
        assert 0.6 < ratio < 1.6, (name, ratio)  # the variance of 80 values is known to 16 %
        covered = float(((low <= value.mean()) & (value.mean() <= high)).mean())
        assert covered > 0.87, (name, covered)  # 0.95 minus three standard errors
    if kind == "single":  # the variance that a binomial or a bootstrap of the generated images alone gives is too small
        density = METRICS.index("density")
        assert simulated["own"][density].mean() < 0.75 * simulated["single"][density, :, 0].var(ddof=1)


def test_the_influences_give_the_variance() -> None:
    result = prdc(real=X, generated=Y)
    for name in METRICS:
        e = result.expansion(name)
        assert len(e.influence_x) == len(Y) and len(e.influence_y) == len(X)
        assert float(e.influence_x.mean()) == pytest.approx(0, abs=1e-9) == float(e.influence_y.mean())
        assert e.variance == pytest.approx(float(e.influence_x.var()) / len(Y) + float(e.influence_y.var()) / len(X))
        assert getattr(result, name).se == pytest.approx(e.variance**0.5, rel=1e-6)


def test_a_paired_difference() -> None:
    one, same = prdc(real=X, generated=Y), prdc(real=X, generated=Y)
    near = prdc(real=X, generated=Y * 1.01)
    for name in METRICS:
        nothing = difference(one.expansion(name), same.expansion(name), paired=True)
        assert nothing.value == 0 and nothing.se == pytest.approx(0, abs=1e-9)
        paired, apart = (difference(one.expansion(name), near.expansion(name), paired=p) for p in (True, False))
        assert 0 < paired.se < 0.7 * apart.se  # type: ignore[operator]


def test_values_of_0_and_1_have_an_interval_with_a_width() -> None:
    """Nothing, or all, of 613: the rule of three gives about 3 / 613 as the bound, one-sided."""
    apart = prdc(real=X, generated=Y + 100)
    for name in METRICS:
        estimate = getattr(apart, name)
        assert estimate.value == 0 and estimate.se is None and estimate.note is not None
        assert estimate.interval[0] == 0 and 3 / 613 < estimate.interval[1] < 0.03
    full = prdc(real=X, generated=X[torch.randperm(700, generator=torch.Generator().manual_seed(0))] + 1e-5)
    for name in ("precision", "recall", "coverage"):
        estimate = getattr(full, name)
        assert estimate.value == 1 and estimate.interval[1] == 1 and 0.95 < estimate.interval[0] < 1 - 2 / 700
    few = prdc(real=X[:43], generated=Y[:43])
    assert few.precision.interval is None and "more than 2 k" in str(few.precision.note)
    assert difference(few.expansion("recall"), few.expansion("recall"), paired=True).interval is None


def test_block_and_seed() -> None:
    one = prdc(real=X, generated=Y)
    other = prdc(real=X, generated=Y, block=100)
    cut = prdc(real=X, generated=Y, seed=1)
    narrow = prdc(real=X, generated=Y, level=0.5)
    for name in METRICS:
        a, b, c, d = (getattr(r, name) for r in (one, other, cut, narrow))
        assert a.value == b.value == c.value == d.value
        assert a.se == pytest.approx(b.se, rel=1e-3)
        assert a.se != c.se and a.se == pytest.approx(c.se, rel=0.35)
        assert a.interval[0] < d.interval[0] < d.interval[1] < a.interval[1]


CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from alphabar.core import processes
from alphabar.evaluation.prdc import METRICS, prdc
from tests.evaluation.test_prdc import normal

torch.set_num_threads(1)
rank, size = processes.world()
real, generated = normal(1300, 8, 0), normal(1100, 8, 1)
found = {"size": size}
for name, pair in (("normal", (real, generated)), ("copies", (real.round(), generated.round()))):
    result = prdc(real=pair[0], generated=pair[1], block=300)
    found[name] = [[getattr(result, m).value, getattr(result, m).se, getattr(result, m).interval] for m in METRICS]
if size == 1:  # memory: a whole matrix of distances would take 256 MB in float32
    real, generated = normal(8000, 2, 0), normal(8000, 2, 1)
    prdc(real=real[:3000], generated=generated[:3000])
    Path("/proc/self/clear_refs").write_text("5")
    def rss(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1e3
    before = rss("VmRSS")
    prdc(real=real, generated=generated)
    found["MB"] = rss("VmHWM") - before
Path(sys.argv[2], f"{size}-{rank}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_in_bounded_memory(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    env = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    env.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    for command in ([sys.executable], [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]):
        done = subprocess.run(
            [*command, str(script), str(ROOT), str(tmp_path)], env=env, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr[-3000:]
    found = {f.stem: json.loads(f.read_text()) for f in tmp_path.glob("*.json")}
    assert {name: s["size"] for name, s in found.items()} == {"1-0": 1, "2-0": 2, "2-1": 2}
    for name in ("normal", "copies"):
        assert found["1-0"][name] == found["2-0"][name] == found["2-1"][name]
    assert found["1-0"]["MB"] < 200
