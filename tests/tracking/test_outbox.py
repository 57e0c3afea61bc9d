"""Every event reaches a tracker once, and no failure of a tracker reaches training."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.cli.main import app, main
from alphabar.core.files import locked, read_jsonl
from alphabar.core.run import Run
from alphabar.denoiser.model import load_weights
from alphabar.tracking import hook
from alphabar.tracking.hook import Tracking
from alphabar.tracking.outbox import Outbox, configuration, read_messages, sync
from alphabar.verbs import train as api
from tests.tracking.conftest import Broken, Diary, small

Log = Callable[[str], list[tuple[Any, ...]]]
DIARY, BROKEN = "tests.tracking.conftest:Diary", "tests.tracking.conftest:Broken"


def points(received: list[tuple[Any, ...]]) -> Counter[tuple[str, int]]:
    """(name, step) of every number that a tracker received, and how often."""
    return Counter((key, row[1]) for row in received if row[0] == "values" for key in row[2])


def recorded(run: Path) -> set[tuple[str, int]]:
    return {(key, m.images) for m in read_messages(Run(run)) for key in m.values}


def test_the_whole_record_arrives_once(trained: Path, copy: Path, log: Log) -> None:
    found = sync(copy, [DIARY])
    received = log(copy.name)
    assert set(points(received)) == recorded(copy) and set(points(received).values()) == {1}
    assert {k for k, _ in points(received)} >= {
        "train/loss", "train/lr", "train/images_per_second", "heldout/loss", "score/fid", "score/fid_low", "score/fid_high",
        "score/fid_floor", "score/kid",
    }  # fmt: skip
    losses = {row["images"]: row["loss"] for row in read_jsonl(Run(copy).events) if row["event"] == "loss"}
    assert {row[1]: row[2]["train/loss"] for row in received if row[0] == "values" and "train/loss" in row[2]} == losses
    assert sum(k.startswith("heldout/sigma_") for k, s in points(received) if s == 256) == 5
    assert all(type(v) is float for row in received if row[0] == "values" for v in row[2].values())
    configured = [row[1] for row in received if row[0] == "configuration"]
    assert len(configured) == 1 and configured[0]["train.batch"] == 32 and configured[0]["data_seen.fingerprint"]
    assert all(isinstance(v, bool | int | float | str) for v in configured[0].values())
    sheets = {row[1]: row[2]["samples"][0] for row in received if row[0] == "images"}
    for images, sheet in sheets.items():
        wanted = np.asarray(Image.open(copy / "samples" / f"preview_{images:010d}.png").convert("RGB"))
        assert sheet.dtype == np.uint8 and np.array_equal(sheet, wanted)
    assert sorted(sheets) == [128, 256]
    (count,) = (v["sent"] for v in found.values())
    assert (
        count > 10
        and sync(copy, [DIARY])[DIARY]["sent"] == 0
        and log(copy.name) is received
        and points(received) == points(received)
    )
    assert set(points(log(copy.name)).values()) == {1}  # a second time sends nothing again


def test_training_sends_its_record(squares: Path, tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    api.train(small(squares, track=(DIARY,)), tmp_path / "live", progress=False)
    assert set(points(log("live"))) == recorded(tmp_path / "live") and set(points(log("live")).values()) == {1}
    assert "not everything was sent" not in capsys.readouterr().err


def test_tracking_changes_no_weight(squares: Path, tmp_path: Path, trained: Path, log: Log) -> None:
    """`track` changes neither weights nor fingerprint."""
    api.train(small(squares, track=(DIARY,)), tmp_path / "live", progress=False)
    a, b = (load_weights(p / "checkpoints" / "last" / "model.safetensors") for p in (tmp_path / "live", trained))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert small(squares).fingerprint("x") == small(squares, track=(DIARY,)).fingerprint("x")


def test_a_tracker_that_fails_does_not_reach_training(
    squares: Path, tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(hook, "FIRST_RETRY", 0.01)
    run = tmp_path / "unlucky"
    api.train(small(squares, track=(BROKEN,)), run, progress=False)
    message = capsys.readouterr().err
    assert (
        message.count("does not respond (ConnectionError: no route to the tracker)") == 1
    )  # one message, however often it is tried
    assert f"alphabar sync {run} --to {BROKEN}" in message
    assert recorded(run) and not points(log("unlucky"))
    Broken.works = True
    sync(run, [BROKEN])
    assert set(points(log("unlucky"))) == recorded(run) and set(points(log("unlucky")).values()) == {1}


def test_a_tracker_that_recovers_receives_the_rest(
    squares: Path, tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(hook, "FIRST_RETRY", 0.01)
    run = Run(tmp_path / "run")
    run.start(small(squares).toml())
    tracking = Tracking(run, [BROKEN])
    run.event("loss", images=10, loss=1.0)
    tracking.start()
    assert Broken.failed.wait(30)
    Broken.works = True
    assert Broken.received.wait(30)
    run.event("loss", images=20, loss=0.5)
    tracking.end()
    assert sorted(points(log("run")).items()) == [(("train/loss", 10), 1), (("train/loss", 20), 1)]
    assert "responds again" in capsys.readouterr().err


def wait_for(what: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "timed out"
        time.sleep(0.01)


def test_a_tracker_that_hangs_does_not_stop_training(
    squares: Path, tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr(Diary, "log", lambda self, values, step=None: free.wait(60))
    monkeypatch.setattr(hook, "END_SECONDS", 0.2)
    try:
        model = api.train(small(squares, track=(DIARY,)), tmp_path / "stuck", progress=False)
        assert model is not None and [r["event"] for r in read_jsonl(Run(tmp_path / "stuck").events)][-1] == "finished"
        assert "not everything was sent" in capsys.readouterr().err
    finally:
        free.set()


def test_events_that_a_resumed_run_repeats_are_not_sent_again(copy: Path, log: Log) -> None:
    """A run that was killed after 256 images and resumed at 128 has the events in between twice in its record."""
    run = Run(copy)
    sync(copy, [DIARY])
    lines = run.events.read_text().splitlines()
    repeated = [line for line in lines if 128 < json.loads(line).get("images", 0) <= 256 and "finished" not in line]
    later = json.loads(repeated[0]) | {"images": 320}
    run.events.write_text("\n".join([*lines, *repeated, json.dumps(later)]) + "\n")
    sync(copy, [DIARY])
    received = points(log(copy.name))
    assert set(received.values()) == {1} and {s for _, s in received} == {64, 128, 192, 256, 320}


def test_a_line_that_is_still_being_written_is_sent_later(copy: Path, log: Log) -> None:
    run, whole = Run(copy), Run(copy).events.read_bytes()
    cut = whole.rindex(b"\n", 0, len(whole) - 1) + 8
    run.events.write_bytes(whole[:cut])
    sync(copy, [DIARY])
    first = len(points(log(copy.name)))
    run.events.write_bytes(whole)
    sync(copy, [DIARY])
    assert set(points(log(copy.name))) == recorded(copy) and first < len(recorded(copy))


def test_a_truncated_line_is_skipped(copy: Path, log: Log) -> None:
    run = Run(copy)
    wanted = recorded(copy)
    lines = run.events.read_text().splitlines()
    run.events.write_text("\n".join([lines[0][: len(lines[0]) // 2], *lines]) + "\n")
    sync(copy, [DIARY])
    assert set(points(log(copy.name))) == wanted


def test_after_a_crash_only_values_that_the_tracker_lacks_are_sent_again(
    copy: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between sending a message and saving the position: the tracker is asked for its last step."""
    for arrived in (True, False):
        log(copy.name).clear()
        box = Outbox(Run(copy), DIARY)
        first = next(m for m in read_messages(Run(copy)) if len(m.values) > 1)
        some, *others = first.values
        box.position |= {"offset": 0, "sent": {}, "tracked_run": {}, "configured": True, "sending": [first.kind, first.images]}
        here = {some} if arrived else set()
        monkeypatch.setattr(box.tracker, "last_step", lambda key, here=here, at=first.images: at if key in here else None)
        box.send_new()
        received = points(log(copy.name))
        assert received[some, first.images] == (0 if arrived else 1) and all(received[k, first.images] == 1 for k in others)


def test_a_position_written_before_a_key_was_renamed_is_read(copy: Path, log: Log) -> None:
    sync(copy, [DIARY])
    file = copy / "tracking" / "tests.tracking.conftest_Diary.json"
    position = json.loads(file.read_text())
    file.write_text(json.dumps({"told": {"id": "x"}, **{k: v for k, v in position.items() if k != "tracked_run"}}))  # old name
    assert sync(copy, [DIARY])[DIARY]["sent"] == 0
    assert json.loads(file.read_text())["tracked_run"] == {"id": "x"}


@pytest.mark.parametrize("nonsense", ["", "[]", "{", '"text"'])
def test_a_damaged_position_is_ignored(copy: Path, log: Log, nonsense: str) -> None:
    (copy / "tracking").mkdir(exist_ok=True)
    (copy / "tracking" / "tests.tracking.conftest_Diary.json").write_text(nonsense)
    sync(copy, [DIARY])
    assert set(points(log(copy.name))) == recorded(copy)


LONG = """
import sys
from pathlib import Path
from alphabar.verbs import train as api
from alphabar.training.config import resolve
from alphabar.tracking import hook
import torch
torch.set_num_threads(1)
hook.POLL_SECONDS = 0.01
run = Path(sys.argv[1])
recipe = resolve(sys.argv[2])
api.train(recipe, run, resume=run.exists(), progress=False)
"""


@pytest.mark.slow
def test_no_step_is_lost_or_repeated_when_training_is_killed_repeatedly(squares: Path, tmp_path: Path) -> None:
    """Checked with TensorBoard's event files, which are only ever appended to."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "recipe.toml").write_text(small(squares, 1024, ("tensorboard",)).toml())
    run, random = tmp_path / "run", np.random.default_rng(int(os.environ.get("ALPHABAR_SEED", "0")))
    command = [sys.executable, "-c", LONG, str(run), str(tmp_path / "recipe.toml")]
    for _ in range(3):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        events = run / "events.jsonl"
        seen = events.stat().st_size if events.exists() else 0
        wait_for(lambda seen=seen, events=events: events.exists() and events.stat().st_size > seen, 120)
        time.sleep(random.uniform(0, 1.5))
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert subprocess.run(command, stderr=subprocess.PIPE, check=False).returncode == 0
    accumulator = EventAccumulator(str(run / "tracking" / "tensorboard"), {"scalars": 0, "images": 0})
    accumulator.Reload()
    received = Counter((key, e.step) for key in accumulator.Tags()["scalars"] for e in accumulator.Scalars(key))
    assert set(received) == recorded(run)
    assert {key: n for key, n in received.items() if n > 1} == {}
    assert sorted(e.step for e in accumulator.Images("samples")) == list(range(128, 1025, 128))


# ---- the door


def test_the_tracker_of_the_documents(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "diary.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "diary", raising=False)
    api.train(small(squares, track=("diary:Diary",)), tmp_path / "received", progress=False)
    lines = (tmp_path / "received.txt").read_text().splitlines()
    assert "train.batch" in lines[0] and any(line.startswith("64 {'train/loss'") for line in lines)


@pytest.mark.slow(2)
def test_the_command(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    app(["sync", str(copy), "--to", "tensorboard", "--json"], result_action="return_value")
    (sent,) = json.loads(capsys.readouterr().out).values()
    assert sent["tensorboard"]["sent"] > 10 and "tensorboard --samples_per_plugin" in sent["tensorboard"]["where"]
    app(["sync", str(copy), "--to", "tensorboard"], result_action="return_value")
    assert "0 events to tensorboard" in capsys.readouterr().out
    with pytest.raises(ValueError, match="has no trackers in its recipe: name some"):
        app(["sync", str(copy)], result_action="return_value")


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("wand", ValueError, "track 'wand' is unknown: did you mean 'wandb'"),
        ("tests.tracking.conftest:LOG", ValueError, "LOG is no subclass of accelerate.tracking.GeneralTracker"),
        ("nowhere:Tracker", ImportError, "No module named 'nowhere'; modules are searched in"),
    ],
)
def test_an_invalid_tracker_is_refused_before_training(
    squares: Path, tmp_path: Path, name: str, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        api.train(small(squares, track=(name,)), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from alphabar.tracking import trackers

    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"mlflow is not installed: pip install 'alphabar\[mlflow\]'"):
        Outbox(Run(tmp_path), "mlflow")


def test_a_second_process_is_refused(squares: Path, copy: Path, log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of `alphabar sync`, and one of them next to a training that tracks."""
    with locked(copy / "tracking"), pytest.raises(SystemExit) as end:
        main(["sync", str(copy), "--to", DIARY])
    assert end.value.code == 2 and not log(copy.name)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"tracking is being written by another process \(process \d+ on .*\): wait until it ends", line)
    tracked = small(squares, track=(DIARY,))
    with locked(copy / "tracking"), pytest.raises(OSError, match="tracking is being written by another process"):
        api.train(tracked, copy, resume=True, progress=False)
    api.train(tracked, copy, resume=True, progress=False)
    assert set(points(log(copy.name))) == recorded(copy)
    assert not (copy / "tracking" / ".lock").exists()


def test_sync_wants_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no record: wanted a run folder"):
        sync(tmp_path, [DIARY])


def test_the_configuration_is_flat(trained: Path) -> None:
    found = configuration(Run(trained))
    assert found["model.channels"] == "[8, 16]" and found["machine.cores"] == os.cpu_count() and "data_seen.images" in found
