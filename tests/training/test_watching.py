"""What watches a training: bound to fail, it is refused before anything is written; failing later, it never ends the training."""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alphabar.cli.main import app
from alphabar.core.files import read_jsonl
from alphabar.evaluation.image_eval import ImageEval
from alphabar.results.runs import load_run
from alphabar.sampling.preview import Preview
from alphabar.training.checkpoint import load_checkpoint
from alphabar.training.config import resolve
from alphabar.training.hooks import HeldOutLoss, Hook, Training
from alphabar.verbs.train import train
from tests.fixtures.runs import untrained_extractor
from tests.fixtures.training import small_training

SMALL = {
    "--train.images": "128", "--train.batch": "32", "--model.channels": "8", "--model.embedding": "16", "--data.holdout": "0.3",
    "--train.warmup": "0", "--data.set": "set.npy",
}  # fmt: skip


@pytest.fixture
def place(pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    np.save("set.npy", pixels)
    untrained_extractor().save("extractor.safetensors")
    return tmp_path


def started(out: str, *words: str, resume: bool = False) -> None:
    keys = SMALL | dict(zip(words[::2], words[1::2], strict=True))
    train(resolve("garments", [word for pair in keys.items() for word in pair]), out, resume=resume, progress=False)


SCORED = ("--watch.extractor", "extractor.safetensors", "--watch.score-n", "20", "--watch.preview-steps", "2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--watch.extractor", "bundled"), r"wants uint8, uint16 or float32 of shape \(n, 28, 28, 1\)"),
        (("--watch.extractor", "nowhere.safetensors"), r"nowhere.safetensors"),
        (("--watch.preview-steps", "5000", "--schedule.kind", "linear"), r"watch.preview_steps 5000"),
        (("--track", "no_such_tracker"), r"no_such_tracker"),
    ],
)
def test_what_is_bound_to_fail_is_refused_before_anything_is_written(place: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        started("run", *words)
    assert not Path("run").exists()


@pytest.mark.filterwarnings("ignore:the floor is taken at")
@pytest.mark.parametrize(
    ("words", "line", "metrics"),
    [
        ((), "FID and KID of 20 samples every 400,000 images, against 66 images", ["fid", "kid"]),
        (("--watch.score-n", "5"), "No FID: 5 images are too few for FID: the extractor has 4 features", ["kid"]),
        (("--data.holdout", "0.03"), r"No FID: \d reference images are too few for FID", ["kid"]),
        (("--data.holdout", "0"), "No FID or KID: set has neither a test split nor held-out images", []),
        (("--watch.extractor", "auto"), "No FID or KID: they need an extractor.*--watch.extractor PATH takes", []),
        (("--watch.copies",), "Test of 20 samples every 400,000 images for copies, against 66 held-out", ["fid", "kid"]),
        (
            ("--watch.copies", "--data.holdout", "0.03"),
            r"No test for copies: \d held-out images are too few \(20 are needed\): --data.holdout 0\.\d+ holds out enough",
            ["kid"],
        ),
        (("--train.early-stop",), "Stops early when the held-out loss has turned", ["fid", "kid"]),
        (("--train.early-stop", "--data.holdout", "0.03"), r"No early stopping: \d held-out images are too few", ["kid"]),
    ],
)
def test_what_cannot_be_scored_is_stated_at_the_start_and_the_rest_is_scored(
    place: Path, words: tuple[str, ...], line: str, metrics: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [w for w in words if w in ("--watch.copies", "--train.early-stop")]
    keys = SMALL | dict(zip(SCORED[::2], SCORED[1::2], strict=True)) | {"--watch.preview-every": "0"}
    rest = [w for w in words if w not in flags]
    keys |= dict(zip(rest[::2], rest[1::2], strict=True))
    train(resolve("garments", [w for pair in keys.items() for w in pair] + flags), "run", progress=False)
    err = capsys.readouterr().err
    assert re.search(line, err), err
    scores = list(read_jsonl(Path("run/scores.jsonl"))) if Path("run/scores.jsonl").exists() else []
    assert [row["metric"] for row in scores] == metrics
    assert all(row["interval"] for row in scores if row["metric"] == "kid")
    assert bool(load_run(Path("run")).of("copies")) == (words == ("--watch.copies",))
    assert Path("run/samples/copies.png").exists() == (words == ("--watch.copies",))
    assert load_run(Path("run")).of("finished")


def test_a_disk_without_room_for_the_checkpoints_is_refused_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage())
    with pytest.raises(OSError, match=r"run needs about .* MiB for checkpoints, and 0 MiB are free"):
        started("run")
    assert not Path("run").exists()


@pytest.mark.filterwarnings("ignore:the floor is taken at")
@pytest.mark.parametrize("what", ["preview", "score", "held-out loss"])
def test_what_fails_later_warns_and_training_ends_as_without_it(place: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    started("plain", "--watch.extractor", "none", "--watch.preview-every", "0")
    target = {
        "preview": "alphabar.sampling.preview.watched", "score": "alphabar.evaluation.hooks.sample",
        "held-out loss": "alphabar.training.hooks.image_losses",
    }[what]  # fmt: skip

    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("CUDA out of memory\nmore lines")

    monkeypatch.setattr(target, broken)
    with pytest.warns(UserWarning, match=f"no {what} after 128 images: CUDA out of memory. Training goes on"):
        started("run", *SCORED)
    assert (load_checkpoint(Path("run/checkpoints/last")).ema.keys()) and load_run(Path("run")).of("finished")
    one, other = (load_checkpoint(Path(run) / "checkpoints/last").model.fingerprint for run in ("run", "plain"))
    assert one == other
    assert [e["why"] for e in read_jsonl(Path("run/events.jsonl")) if e["event"] == "failed"] == ["CUDA out of memory"]
    app(["report", "run", "--out", "page.html"], result_action="return_value")
    assert f"No {what} after 128 images: CUDA out of memory." in Path("page.html").read_text()


def test_a_resumed_run_goes_on_without_scores_that_cannot_be_taken(place: Path) -> None:
    started("run", "--watch.preview-every", "0")
    with pytest.warns(UserWarning, match="no score after 0 images.*no extractor at"):
        started("run", "--watch.extractor", "gone.safetensors", resume=True)
    small_training(np.load("set.npy"), Path("second"), images=128)
    with pytest.warns(UserWarning, match="no preview after 128 images.*preview_n 0"):
        small_training(np.load("set.npy"), Path("second"), images=128, resume=True, hooks=[Preview(64, 0)])


def test_an_extractor_of_other_images_is_refused_before_any_is_drawn(pixels: NDArray[np.uint8]) -> None:
    evaluator = ImageEval("bundled", pixels, floor_images=255 - pixels, cache=False)
    with pytest.raises(ValueError, match="wants uint8"):
        evaluator.check_shape((1, 8, 8), "uint8", 20, ("kid",))


def test_an_error_of_a_hook_that_does_not_only_watch_ends_the_training(pixels: NDArray[np.uint8], folder: Path) -> None:
    class Stops(Hook):
        def on_interval(self, training: Training) -> None:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        small_training(pixels, folder, hooks=[Stops()])


def test_one_held_out_image_has_no_standard_error(pixels: NDArray[np.uint8], folder: Path) -> None:
    from alphabar.core.run import Run
    from alphabar.training.loop import train as loop
    from tests.fixtures.training import small_model, small_recipe

    loop(small_model(), pixels, np.arange(9), small_recipe(images=32), Run(folder), heldout=pixels[-1:], hooks=[HeldOutLoss(32)],
         progress=False)  # fmt: skip
    text = (folder / "events.jsonl").read_text()
    assert '"se": null' in text and "NaN" not in text


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    from alphabar.core.files import append_jsonl

    append_jsonl(tmp_path / "a.jsonl", {"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": (float("-inf"),)}})
    assert (tmp_path / "a.jsonl").read_text() == '{"a": null, "b": [null, 1.0], "c": {"d": [null]}}\n'
