"""Reading a run folder, with every fault that a folder can have."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from alphabar.core.files import append_jsonl
from alphabar.core.run import Run
from alphabar.results.curves import curves, protocol, score_rows
from alphabar.results.runs import differing, load_run, names, state
from alphabar.results.series import interval, loss_by_band, rewound, series
from tests.fixtures.runs import MakeRun, score


def test_a_complete_run_is_read(make_run: MakeRun) -> None:
    run = load_run(make_run(previews=3))
    assert run.missing == []
    assert run.recipe["train.lr"] == 2e-3
    assert run.machine["cores"] >= 1
    assert [images for images, _ in run.previews] == [21_333, 42_666, 64_000]
    x, y = series(run.of("loss"), "loss")
    assert x == [1_600.0 * k for k in range(1, 41)]
    assert y[0] > y[-1] > 0
    found = loss_by_band(run.of("heldout"))
    assert [words for words, _, _ in found][:2] == ["sigma 0.006 to 0.33", "sigma 0.33 to 0.74"]
    assert len(found) == 5
    assert found[0][1] == [12_800.0 * k for k in range(1, 6)]
    (fid,) = curves(run, "fid")
    assert fid.floor == 1.1
    assert fid.images == [12_800.0 * k for k in range(1, 6)]
    assert fid.protocol == "1,024 images, ddim, 25 calls, eta 0"


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        ("finished", "finished", "finished"),
        ("stopped", "stopped", "--resume"),
        ("diverged", "diverged", "nan"),
        ("", "open", "still running, or interrupted"),
    ],
)
def test_state(make_run: MakeRun, end: str, kind: str, words: str) -> None:
    found = state(load_run(make_run(end=end)))
    assert (found.kind, found.images, found.budget) == (kind, 64_000, 64_000)
    assert words in found.words
    assert found.measured == (end in ("finished", "stopped"))
    if found.measured:
        assert found.seconds == 6543.2


def test_a_run_that_was_resumed_after_a_stop_is_open(make_run: MakeRun) -> None:
    path = make_run(end="stopped")
    Run(path).event("loss", images=65_600, step=41, loss=0.1, lr=1e-3)
    assert state(load_run(path)).kind == "open"


def test_resumed_rows_replace_what_they_repeat() -> None:
    rows = [{"images": k, "loss": 1.0} for k in (10, 20, 30, 40)] + [{"images": k, "loss": 2.0} for k in (30, 40, 50)]
    kept = rewound(rows)
    assert [(r["images"], r["loss"]) for r in kept] == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]


def test_scores_of_different_protocols_are_separate_curves(make_run: MakeRun) -> None:
    path = make_run()
    for seen in (70_000, 80_000):
        append_jsonl(path / "scores.jsonl", {"images": seen, **score("fid", 9.0, n=5_000)})
    append_jsonl(path / "scores.jsonl", score("fid", 8.0))  # of the finished run: no point of a curve
    few, many = curves(load_run(path), "fid")
    assert (len(few.images), len(many.images)) == (5, 2)
    assert many.protocol.startswith("5,000 images")
    append_jsonl(path / "scores.jsonl", {"images": 90_000, **score("fid", 7.0), "extractor": "another"})
    titles = [c.protocol for c in curves(load_run(path), "fid")]
    assert titles[2] == f"{titles[0].split(', extractor')[0]}, extractor another, reference fedcba9876543210"
    assert "extractor 0123456789abcdef" in titles[0]
    assert protocol(score("fid", 1.0)) == protocol(score("fid", 2.0)) != protocol(score("kid", 1.0))


def test_intervals_are_not_part_of_the_protocol_and_may_be_missing(make_run: MakeRun) -> None:
    """Records of a release without intervals and of one with them are points of one curve."""
    path = make_run()
    old = {k: v for k, v in score("fid", 10.0).items() if k not in ("interval", "floor_interval", "floor_seed")}
    new = {
        **score("fid", 9.0), "se": 0.5, "interval": [8.25, 10.5], "level": 0.95, "bias": 0.3, "floor_interval": [1.0, 1.2],
        "floor_sets": 8, "warrant": "passed",  # old name
    }  # fmt: skip
    late = {**score("fid", 8.0), "note": "no interval: too few"}
    for seen, row in ((70_000, old), (80_000, new), (90_000, late)):
        append_jsonl(path / "scores.jsonl", {"images": seen, **row})
    (curve,) = curves(load_run(path), "fid")
    assert curve.values[-3:] == [10.0, 9.0, 8.0]
    assert curve.intervals[-3:] == [None, (8.25, 10.5), None]
    assert curve.notes[-2:] == ["its record has none", "too few"]
    assert len(curve.intervals) == len(curve.images) == 8
    assert curve.floor_interval is None  # the last record has none
    append_jsonl(path / "scores.jsonl", {"images": 95_000, **new})
    assert curves(load_run(path), "fid")[0].floor_interval == (1.0, 1.2)
    append_jsonl(path / "scores.jsonl", {"images": 96_000, **new, "floor": 1.3})
    assert curves(load_run(path), "fid")[0].floor_interval is None  # of which floor?


@pytest.mark.parametrize("ends", [None, [], [1.0], [1.0, "2"], [2.0, 1.0], [float("nan"), 1.0], "12", {"low": 1}, [True, 2.0]])
def test_a_malformed_interval_is_none(ends: object) -> None:
    assert interval({"interval": ends}) is None
    assert interval({"interval": (1, 2.5)}) == (1.0, 2.5)


def test_scores_come_from_the_events_where_scores_jsonl_is_missing(make_run: MakeRun) -> None:
    path = make_run()
    from_file = score_rows(load_run(path))
    (path / "scores.jsonl").unlink()
    assert score_rows(load_run(path)) == from_file


def test_keys_that_differ(make_run: MakeRun) -> None:
    runs = [load_run(make_run("a")), load_run(make_run("b", lr=1e-3)), load_run(make_run("c", tokens=("--data.pad", "2")))]
    assert differing(runs) == [("data.pad", [0, 0, 2]), ("train.lr", [2e-3, 1e-3, 2e-3])]
    assert differing(runs[:1]) == []


def test_runs_of_the_same_name_are_named_by_path(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    same = [load_run(make_run("x/last")), load_run(make_run("y/last")), load_run(make_run("z"))]
    assert names(same) == ["x/last", "y/last", "z"]


def test_a_path_that_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; wanted a run folder"):
        load_run(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="is a file"):
        load_run(tmp_path / "file")


def _number_row(path: Path) -> None:
    with (path / "events.jsonl").open("a") as f:
        f.write('7\n{"event": "loss", "images": "many", "loss": null}\n{"event": "heldout", "images": 1e9, "bands": [3]}\n{"tor')


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no recipe": (lambda p: (p / "recipe.toml").unlink(), "There is no recipe.toml"),
    "no events": (lambda p: (p / "events.jsonl").unlink(), "There is no events.jsonl"),
    "no machine": (lambda p: (p / "machine.json").unlink(), "There is no machine.json"),
    "recipe torn": (lambda p: (p / "recipe.toml").write_text("[train\nlr ="), "recipe.toml cannot be read"),
    "recipe binary": (lambda p: (p / "recipe.toml").write_bytes(b"\xff\xfe\x00"), "recipe.toml cannot be read"),
    "events binary": (lambda p: (p / "events.jsonl").write_bytes(b"\xff\xfe\x00"), "events.jsonl"),
    "machine is a list": (lambda p: (p / "machine.json").write_text("[1]"), "machine.json cannot be read"),
    "machine torn": (lambda p: (p / "machine.json").write_text('{"cpu":'), "machine.json cannot be read"),
    "odd rows": (_number_row, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_become_sentences(make_run: MakeRun, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run()
    spoil, words = FAULTS[fault]
    spoil(path)
    run = load_run(path)
    assert any(words in sentence for sentence in run.missing) or not words
    state(run)
    curves(run, "fid")
    loss_by_band(run.of("heldout"))


def test_rows_of_a_later_release_are_read(make_run: MakeRun) -> None:
    path = make_run()
    append_jsonl(path / "scores.jsonl", {"images": 1, "metric": "fid", "value": 3.0, "of a later version": 1, "sampler": "odd"})
    assert json.dumps(score_rows(load_run(path)))
    assert any(c.protocol == "an unknown number of images" for c in curves(load_run(path), "fid"))
