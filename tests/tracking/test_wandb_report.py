"""A comparison as a report of Weights & Biases, inspected before it is saved, which would need their server."""

from pathlib import Path

import numpy as np
import pytest

from alphabar.cli.main import app
from alphabar.sampling.sample_set import open_samples
from alphabar.tracking.outbox import sync
from alphabar.tracking.wandb_report import comparison_report
from alphabar.verbs.compare import compare
from alphabar.verbs.score import make_evaluator

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"), pytest.mark.slow(3)]


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_data: Path):
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(0)
    for name, scale in (("a", 40), ("b", 90)):
        np.save(f"{name}.npy", (g.normal(128, scale, (520, 28, 28, 1))).clip(0, 255).astype(np.uint8))
    evaluation, real = make_evaluator("fashion_mnist:test", "bundled")
    return compare(*(open_samples(f"{x}.npy") for x in "ab"), evaluation, real, ("fid", "kid"), ("a", "b"))


def test_the_report_has_the_numbers_and_verdicts_of_the_comparison(
    compared, copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb_workspaces")
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_DATA_DIR": tmp_path, "WANDB_CACHE_DIR": tmp_path,
        "WANDB_CONFIG_DIR": tmp_path, "WANDB_ENTITY": "us", "WANDB_PROJECT": "pictures",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    plain = comparison_report(compared, ("a", "b"), [copy])
    text = [b.text for b in plain.blocks if type(b).__name__ in ("P", "MarkdownBlock")]
    assert text[:-1] == [c.words for c in compared]
    assert all(f"| {c.difference} | {c.verdict} |" in text[-1] and f"| {c.b.value:.4g} " in text[-1] for c in compared)
    assert (plain.project, plain.entity, plain.title) == ("pictures", "us", "a against b")
    assert not [b for b in plain.blocks if type(b).__name__ == "PanelGrid"]  # the run was never tracked
    sync(copy, ["wandb"])
    (grid,) = [b for b in comparison_report(compared, ("a", "b"), [copy]).blocks if type(b).__name__ == "PanelGrid"]
    assert grid.runsets[0].query == r"^squares\ run$"
    assert [p.y for p in grid.panels[:-1]] == [["train/loss"], ["heldout/loss"], ["score/fid"], ["score/kid"]]


def test_an_empty_comparison_is_refused() -> None:
    pytest.importorskip("wandb_workspaces")
    with pytest.raises(ValueError, match="no comparison"):
        comparison_report([], ("a", "b"))


def test_a_missing_server_is_reported_before_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ValueError, match="not reachable: run wandb login"):
        app(["compare", "a.npy", "b.npy", "--against", "fashion_mnist:test", "--wandb-report"], result_action="return_value")
