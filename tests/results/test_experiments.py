"""Definitions of experiments: TOML files, and every error in one."""

from dataclasses import replace
from pathlib import Path

import pytest

from alphabar.evaluation.estimate import Estimate
from alphabar.results.experiments import read_experiment, shipped_experiments
from alphabar.results.outcomes import decide

DEFINITION = """
hypothesis = "Training helps."
better = "trained"
than = "hardly"
seeds = [0, 1]

[budget]
images = 640

[scoring]
n = 40
steps = 4

[variants.trained]
train.lr = 0.005

[variants.hardly]
train.lr = 1e-6
"""


@pytest.mark.parametrize("name", shipped_experiments())
def test_the_shipped_experiments_are_valid(name: str) -> None:
    experiment = read_experiment(name)
    assert len(experiment.seeds) >= 3 and len(experiment.variants) >= 2
    assert experiment.scoring.n >= 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds = [0, 1]", "seeds = [0, 0]"), "give different whole numbers"),
        (("images = 640", "imges = 640"), r"budget\.imges; did you mean 'images'"),
        (("images = 640", "images = 640\nminutes = 2"), "give one of the two"),
        (('better = "trained"', 'better = "x"'), "is not a variant"),
        (("train.lr = 1e-6", "train.lr = 0.005"), "are the same recipe"),
        (("train.lr = 1e-6", "train.rl = 1"), r"unknown key train\.rl"),
        (('than = "hardly"', 'than = "trained"'), "name two variants"),
        (("hypothesis", "hypothsis"), "did you mean 'hypothesis'"),
        (("steps = 4", 'sampler = "dimm"'), "did you mean 'ddim'"),
        (("[variants.hardly]", '["variants"."a b"]'), "a variant called 'a b'"),
    ],
)
def test_an_error_in_the_file_is_named(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "definition.toml").write_text(DEFINITION.replace(*change))
    with pytest.raises(ValueError, match=message):
        read_experiment(tmp_path / "definition.toml")


def test_an_unknown_experiment_lists_those_that_ship() -> None:
    with pytest.raises(ValueError, match="nothing is neither a file nor one of average, prediction, range, schedule"):
        read_experiment("nothing")


@pytest.mark.parametrize(
    ("difference", "metric", "verdict"),
    [
        (Estimate(-1.0, 0.1, (-1.2, -0.8)), "fid", "supported"), (Estimate(1.0, 0.1, (0.8, 1.2)), "fid", "contradicted"),
        (Estimate(1.0, 0.1, (0.8, 1.2)), "recall", "supported"), (Estimate(-1.0, 0.6, (-2.2, 0.2)), "fid", "not decided"),
        (None, "fid", "not decided"),
    ],
)  # fmt: skip
def test_the_interval_of_the_difference_decides(difference: Estimate | None, metric: str, verdict: str, tmp_path: Path) -> None:
    (tmp_path / "definition.toml").write_text(DEFINITION)
    assert decide(replace(read_experiment(tmp_path / "definition.toml"), metric=metric), difference)[0] == verdict
