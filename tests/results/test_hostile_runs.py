"""A damaged or hostile run folder is named with its cause, and the other runs are listed and shown all the same."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alphabar.core.run import Run
from alphabar.report.report_page import write_report
from alphabar.results.run_list import find_runs, summaries
from alphabar.web.runs_folder import RunsFolder
from tests.fixtures.runs import fill

DEEP = "[" * 100_000 + "]" * 100_000
HUGE = "1" + "0" * 400
LONG = "1" * 5_000


def put(name: str, content: str | bytes) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def events(*rows: object) -> Callable[[Path], None]:
    return put("events.jsonl", "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def many(run: Path) -> None:
    for k in range(20_000):
        os.link(run / "machine.json", run / "samples" / f"{k}.txt")


def folder(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return change


def loop(run: Path) -> None:
    (run / "events.jsonl").unlink()
    (run / "events.jsonl").symlink_to("events.jsonl")


ONE = {"event": "loss", "time": 1.0, "images": 64, "loss": 0.5, "lr": 0.1}
HOSTILE = {
    "recipe, truncated": put("recipe.toml", "[train]\nlr = "),
    "recipe, empty": put("recipe.toml", ""),
    "recipe, binary": put("recipe.toml", b"\xff\xfe\x00\x80"),
    "recipe, deep": put("recipe.toml", f"a = {DEEP}"),
    "recipe, other types": put("recipe.toml", "train = 3\nmodel = []\n[watch]\npreview_n = 'many'\n"),
    "recipe, a budget of text": put("recipe.toml", "[train]\nimages = 'many'\n"),
    "recipe, infinite budget": put("recipe.toml", "[train]\nimages = inf\nlr = nan\n"),
    "recipe, no folder": folder("recipe.toml"),
    "machine, a list": put("machine.json", "[1]"),
    "machine, deep": put("machine.json", DEEP),
    "machine, of other types": put("machine.json", '{"cpu": [1], "cores": {}, "accelerators": 3, "versions": 1}'),
    "data, a number": put("data.json", LONG),
    "data, of other types": put("data.json", '{"set": {}, "images": "x", "fingerprint": [], "value_range": 3, "held_out": null}'),
    "cost, of other types": put("cost.json", '{"gflop_a_call": "x"}'),
    "events, empty": put("events.jsonl", ""),
    "events, torn": put("events.jsonl", json.dumps(ONE) + '\n{"event": "lo'),
    "events, binary": put("events.jsonl", b"\x00\xff" * 50),
    "events, deep": events(ONE, DEEP),
    "events, lists and numbers": events([1], 3, None, "text", {}),
    "events, a link to itself": loop,
    "events, a folder": folder("events.jsonl"),
    "events, one": events(ONE),
    "events, of other types": events({"event": ["loss"], "time": "x", "images": {}}, {"event": 3, "images": None}),
    "events, a huge integer": events(json.dumps(ONE | {"loss": 7}).replace("7", HUGE)),
    "events, digits without end": events(json.dumps(ONE | {"loss": 7}).replace("7", LONG)),
    "events, infinite and NaN": events(ONE | {"loss": float("inf")}, ONE | {"images": 128, "loss": float("nan")}),
    "events, negative and zero": events(ONE | {"loss": 0.0}, ONE | {"images": 128, "loss": -1.0}),
    "events, times out of range": events(ONE | {"time": 1e200}, ONE | {"time": -1e200}),
    "events, bands of other types": events({"event": "heldout", "images": 64, "loss": 1, "se": [], "bands": [3, None]}),
    "events, one band of no width": events(
        {"event": "heldout", "time": 1, "images": 64, "loss": 1, "bands": [{"sigma": [1, 1], "loss": 0.0}]}
    ),
    "events, previews of other types": events({"event": "preview", "images": 64, "path": 3, "seed": [], "steps": {}, "sheet": 1}),
    "events, an end without a number": events(ONE, {"event": "finished", "time": None, "images": None, "seconds": "x"}),
    "events, divergence of other types": events(ONE, {"event": "diverged", "images": 64, "loss": [1]}),
    "scores, of other types": put("scores.jsonl", '{"metric": 3, "value": 1}\n{"metric": "fid", "value": "x"}\n[]\n'),
    "scores, an unknown metric": put("scores.jsonl", '{"metric": "mine", "value": 1, "images": 64}\n'),
    "scores, one, without the rest": put("scores.jsonl", '{"metric": "fid", "value": 1, "images": 64}\n'),
    "scores, records of other types": put(
        "scores.jsonl", '{"metric": "fid", "value": 0, "images": 64, "sampler": [], "interval": "ab", "n": [], "floor": {}}\n'
    ),
    "scores, infinite": put("scores.jsonl", '{"metric": "fid", "value": Infinity, "images": 64}\n'),
    "comparisons, of other types": put("comparisons.jsonl", '{"names": 3, "comparisons": {"a": 1}, "sets": null}\n[]\n'),
    "comparisons, an empty one": put("comparisons.jsonl", '{"time": [], "names": ["a"], "sets": [], "comparisons": [3, {}]}\n'),
    "a preview that is no picture": put("samples/preview_0000000064.png", "no"),
    "a preview of nothing": put("samples/preview_0000000064.png", b""),
    "a trajectory that is none": put("samples/trajectory.npz", "no"),
    "20,000 files": many,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("made") / "run", images=6_400, every=640, previews=1)


def test_the_others_stand(made: Path, tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(made, tmp_path / "runs" / name)) for name in ("a", *map(str, range(len(HOSTILE))), "z")]
    for run, spoil in zip(runs[1:-1], HOSTILE.values(), strict=True):
        spoil(run)
    found = find_runs([tmp_path / "runs"])
    assert {runs[0], runs[-1]} <= set(found)
    rows = {Path(row.path).name: row for row in summaries(found)}
    assert rows["a"].state == rows["z"].state == "finished" and rows["a"].fid == rows["z"].fid
    assert not rows["a"].faults
    assert RunsFolder(tmp_path / "runs").names() == ["bundled"]
    page = write_report(runs, tmp_path / "report.html", draw=False).read_text()
    assert page.count("finished") >= 2 and "Traceback" not in page


@pytest.mark.parametrize("kind", [k for k in HOSTILE if k.endswith((", truncated", ", deep", ", binary", "digits without end"))])
def test_the_cause_is_named(kind: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    HOSTILE[kind](run)
    (row,) = summaries([run])
    assert row.faults or "skipped" in capsys.readouterr().err


def test_a_run_of_one_event_has_a_page(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.start("")
    run.event("loss", images=1, loss=0.0)
    assert write_report([run.path], tmp_path / "one.html", draw=False).exists()
