"""Comparisons and experiments, as their commands store them and as the page shows them."""

import json
import shutil
from pathlib import Path

import pytest

from alphabar.core.files import append_jsonl, read_jsonl
from alphabar.evaluation.compare import Comparison
from alphabar.evaluation.image_eval import ImageEval
from alphabar.report.comparisons import comparisons, interval_bar
from alphabar.report.report_page import write_report
from alphabar.results.runs import load_run
from alphabar.sampling.sample_set import SampleSet
from alphabar.verbs.compare import compare
from tests.fixtures.runs import MakeRun
from tests.fixtures.sets import Linear, stripes

REAL = stripes(300, 0)


def evaluator() -> ImageEval:
    return ImageEval(Linear(), REAL, floor_images=stripes(200, 1), cache=False)


def opened(name: str, seed: int, run: Path | None = None, noise: int = 0) -> SampleSet:
    pixels = stripes(90, seed).pixels
    return SampleSet(name, pixels if not noise else (pixels // noise * noise), None, run)


def compared(a: SampleSet, b: SampleSet, *keep: Path) -> list[Comparison]:
    return compare(a, b, evaluator(), REAL, ("fid", "kid", "precision"), ("good", "bad"), keep)


def test_a_comparison_is_kept_with_its_runs(make_run: MakeRun, tmp_path: Path) -> None:
    a, b, c = make_run("a"), make_run("b"), make_run("c")
    found = compared(opened("runs/a", 5, a), opened("runs/b", 6, b, noise=128))
    rows = [list(read_jsonl(run / "comparisons.jsonl")) for run in (a, b, c)]
    assert rows[0] == rows[1] and len(rows[0]) == 1 and rows[2] == []
    assert rows[0][0]["comparisons"] == json.loads(json.dumps([one.to_json() for one in found]))
    assert (rows[0][0]["names"], rows[0][0]["sets"]) == (["good", "bad"], ["runs/a", "runs/b"])
    compared(opened("x.npz", 5), opened("y.npz", 6), c, c)
    assert len(list(read_jsonl(c / "comparisons.jsonl"))) == 1
    with pytest.raises(FileNotFoundError, match=r"nothing: it has no recipe\.toml"):
        compared(opened("x.npz", 5), opened("y.npz", 6), tmp_path / "nothing")


def test_the_page_shows_the_comparison_in_words_with_its_intervals(make_run: MakeRun, tmp_path: Path) -> None:
    a, b = make_run("a"), make_run("b")
    found = {c.metric: c for c in compared(opened("runs/a", 5, a), opened("runs/b", 6, b, noise=128))}
    assert found["fid"].verdict == found["kid"].verdict == "better"
    (comparison,), notes = comparisons([load_run(a), load_run(b)])  # both runs hold it; it is shown once
    assert notes == []
    assert comparison.lead.startswith("good is better than bad by FID")
    assert comparison.about.startswith("90 images each, from different noise, against 300 real images, ")
    assert [line.metric for line in comparison.lines] == ["FID", "KID ×1000", "precision"]
    text = write_report([a, b], tmp_path / "page.html").read_text()
    assert "good against bad" in text
    for one in found.values():
        assert one.words.replace("<", "&lt;") in text
    assert text.count('<svg class="bar"') == sum(c.difference.interval is not None for c in found.values()) > 1


def test_the_bar_lies_on_the_side_of_the_better_one() -> None:
    def ends(value: float, interval: tuple[float, float], higher: bool) -> list[float]:
        bar = str(interval_bar(value, interval, higher, "better", "FID: <1>"))
        assert "&lt;1&gt;" in bar
        return [float(bar.split(f'{name}="')[n].split('"')[0]) for name, n in (("x1", 3), ("x2", 3), ("cx", 1))]

    low, high, middle = ends(-2.0, (-3.0, -1.0), False)  # lower is better: a is better, so it lies right of 0
    assert 120 < low < middle < high
    assert ends(2.0, (1.0, 3.0), True) == [low, high, middle]
    low, high, middle = ends(2.0, (1.0, 3.0), False)
    assert low < middle < high < 120
    low, high, _ = ends(0.5, (-1.0, 2.0), True)
    assert low < 120 < high


def test_the_latest_comparison_of_the_same_sets_counts(make_run: MakeRun) -> None:
    run = make_run()
    compared(opened("x.npz", 5), opened("y.npz", 6), run)
    (row,) = read_jsonl(run / "comparisons.jsonl")
    append_jsonl(run / "comparisons.jsonl", {**row, "time": row["time"] + 86_400, "names": ["late", "bad"]})
    append_jsonl(run / "comparisons.jsonl", {**row, "time": row["time"] + 1, "sets": ["x.npz", "z.npz"]})
    found, notes = comparisons([load_run(run)])
    assert [v.a for v in found] == ["late", "good"]
    assert notes == ["1 earlier comparison of the same sets under the same protocol is left out."]


@pytest.mark.parametrize("row", [{}, {"names": ["a", "b"], "sets": []}, {"names": 3}, {"names": ["a", "b"], "comparisons": [{}]}])
def test_a_malformed_row_becomes_a_note(make_run: MakeRun, tmp_path: Path, row: dict[str, object]) -> None:
    run = make_run()
    append_jsonl(run / "comparisons.jsonl", row)
    assert "A row of comparisons.jsonl cannot be read" in write_report([run], tmp_path / "page.html").read_text()


OUTCOME = {
    "experiment": {"hypothesis": "v beats <eps>", "than": "eps", "better": "v"}, "verdict": "supported",
    "words": "FID of v less that of eps, over 2 seeds: -3 [-4, -2]. The hypothesis is supported.", "finished": True,
    "means": {"v": {"fid": {"value": 2.0, "interval": [1.5, 2.5]}}, "eps": {"fid": {"value": 5.0, "interval": None}}},
    "differences": {"v": {"fid": {"value": -3.0, "interval": [-4.0, -2.0]}}},
    "trials": [{"variant": "v"}, {"variant": "v"}, {"variant": "eps"}],
}  # fmt: skip


def test_the_page_shows_the_experiment_that_trained_the_runs(make_run: MakeRun, tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    for name in ("v-seed0", "eps-seed0"):
        shutil.move(make_run(name), folder / name)
    (folder / "experiment.json").write_text("{}")
    (folder / "outcome.json").write_text(json.dumps(OUTCOME))
    whole = write_report([folder], tmp_path / "whole.html").read_text()  # the folder stands for its trainings
    assert "<h1>2 runs</h1>" in whole
    assert '<p class="badge supported">supported</p>' in whole
    assert "v beats &lt;eps&gt;" in whole
    assert "The hypothesis is supported." in whole
    assert '<th scope="row">v</th><td class="n">2</td><td class="n">2 [1.5, 2.5]</td><td class="n">−3 [−4, −2]</td>' in whole
    assert "supported" in write_report([folder / "v-seed0"], tmp_path / "one.html").read_text()
    (folder / "outcome.json").write_text('{"experiment":')
    assert "outcome.json cannot be read" in write_report([folder], tmp_path / "torn.html").read_text()
    shutil.rmtree(folder / "v-seed0")
    shutil.rmtree(folder / "eps-seed0")
    with pytest.raises(FileNotFoundError, match="no training has started"):
        write_report([folder], tmp_path / "none.html")
