"""The commands on a small set, in this process, where torch is loaded already; one test runs the program in a console."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from alphabar.cli.main import app, main
from alphabar.core.files import read_jsonl
from alphabar.training import auto
from alphabar.training.config import resolve
from alphabar.training.hooks import HeldOutLoss, Training

TINY = shlex.split(
    "--model.channels 8 --model.embedding 16 --watch.preview_every 256 --watch.preview_n 4 --watch.preview_steps 2 "
    "--train.log_every 64 --train.checkpoint_every 128 --train.heldout_every 256"
)


def safe_header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def alphabar(*arguments: str, cwd: Path, ok: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs a command in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else int(e.code is not None)
    done = subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


@pytest.fixture
def run(small_data: Path, tmp_path: Path) -> Path:
    """A run trained on 512 images, scored on the way."""
    alphabar(
        *("train", "fashion_mnist", "--recipe", "garments", "--out", "run", "--images", "512", *TINY),
        *("--watch.score_every", "512", "--watch.score_n", "520"), cwd=tmp_path,
    )  # fmt: skip
    return tmp_path / "run"


def test_train_sample_score_report(run: Path) -> None:
    here = run.parent
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    checkpoint = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}
    assert {"recipe.toml", "machine.json", "events.jsonl", "scores.jsonl", "samples/preview_0000000512.png"} <= names
    assert {f"checkpoints/{which}/{f}" for which in ("last", "best") for f in checkpoint} <= names
    kinds = [e["event"] for e in read_jsonl(run / "events.jsonl")]
    assert {"loss", "heldout", "preview", "score", "finished"} <= set(kinds)

    record = json.loads(alphabar("sample", "run", "--n", "520", "--steps", "3", "--out", "s.npz", "--json", cwd=here).stdout)
    assert (record["n"], record["nfe"], record["sampler"]) == (520, 3.0, "ddim")
    with np.load(here / "s.npz", allow_pickle=False) as file:
        assert file["images"].shape == (520, 28, 28, 1)
    with Image.open(here / "s.png") as sheet:
        assert sheet.width > 280

    scores = json.loads(alphabar("score", "s.npz", "--against", "fashion_mnist:test", "--json", cwd=here).stdout)
    assert [s["metric"] for s in scores][:3] == ["fid", "fid_infinity", "kid"]
    assert scores[0]["value"] > 10 * scores[0]["floor"] > 0  # a hardly trained model
    assert (scores[0]["n"], scores[0]["n_reference"], scores[0]["nfe"]) == (520, 600, 3.0)

    page = Path(alphabar("report", "run", "--out", "page.html", cwd=here).stdout.splitlines()[0])
    text = (here / page).read_text()
    assert "<html" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert text.count("data:image/png") >= 1


def stop_after(intervals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends Ctrl-C to this process when the held-out loss is measured for the `intervals`-th time."""
    calls = []
    measure = HeldOutLoss.on_interval

    def interrupted(self: HeldOutLoss, training: Training) -> None:
        measure(self, training)
        calls.append(training.images)
        if len(calls) == intervals:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(HeldOutLoss, "on_interval", interrupted)


def images_of_losses(run: Path) -> list[int]:
    return [e["images"] for e in read_jsonl(run / "events.jsonl") if e["event"] == "loss"]


def test_a_stopped_training_is_resumed(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [
        "train",
        "fashion_mnist",
        "--out",
        "run",
        "--recipe",
        "garments",
        "--images",
        "768",
        *TINY,
        "--watch.score_every",
        "0",
    ]
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        stopped = alphabar(*command, cwd=tmp_path, ok=False)
    assert stopped.returncode == 130
    assert "continue with: alphabar train fashion_mnist --out run --resume" in stopped.stderr
    seen = json.loads((tmp_path / "run/checkpoints/last/state.json").read_text())["images"]
    assert seen < 768
    assert "already holds a run: add --resume" in alphabar(*command, cwd=tmp_path, ok=False).stderr
    alphabar("train", "fashion_mnist", "--out", "run", "--resume", cwd=tmp_path)
    images = images_of_losses(tmp_path / "run")
    assert images == sorted(images)
    assert images[-1] == 768


@pytest.mark.slow(10)
def test_a_damaged_checkpoint_is_resumed_from_the_one_before(run: Path) -> None:
    """In a console, where a warning is printed without the line of code that issued it."""
    last = run / "checkpoints/last"
    shutil.rmtree(last.with_name("last.old"), ignore_errors=True)
    shutil.copytree(last, last.with_name("last.old"))
    damaged = last / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    command = [sys.executable, "-m", "alphabar", "train", "fashion_mnist", "--out", "run", "--resume"]
    done = subprocess.run(
        command, cwd=run.parent, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS="1"), timeout=120
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "checkpoint before it" in line]
    assert line.startswith("alphabar: run/checkpoints/last")


@pytest.mark.slow(10)
def test_samples_of_a_folder_made_by_another_program(small_data: Path, tmp_path: Path) -> None:
    from alphabar.data.image_set import load

    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, pixels in enumerate(load("fashion_mnist", "train").pixels[:530]):
        Image.fromarray(pixels[..., 0]).save(folder / f"{k}.png")
    scores = json.loads(alphabar("score", "pictures", "--against", "fashion_mnist:test", "--json", cwd=tmp_path).stdout)
    assert scores[0]["value"] < 3 * scores[0]["floor"]  # they are real images
    assert scores[0]["nfe"] is None


def test_the_data_card(small_data: Path, tmp_path: Path) -> None:
    card = json.loads(alphabar("data", "fashion_mnist:test", "--json", cwd=tmp_path).stdout)
    assert (card["count"], card["image_shape"], card["min"], card["max"]) == (600, [1, 28, 28], 0, 255)
    assert sum(card["classes"].values()) == 600
    assert (tmp_path / card["sheet"]).exists()
    shown = alphabar("data", "fashion_mnist:test", cwd=tmp_path).stdout
    assert "None" not in shown and not re.search(r"\d\.\d{5}|[\[\]{}]", shown)  # plain figures, no Python


def test_no_command_has_two_options_of_one_name() -> None:
    commands = [((), app)]
    for path, command in commands:
        commands += [((*path, name), command[name]) for name in command if not name.startswith("-")]
        if command.default_command is not None and path:
            names = Counter(n for argument in command.assemble_argument_collection() for n in argument.names if n != "*")
            assert max(names.values()) == 1, f"{' '.join(path)}: {names.most_common(1)}"
    assert len(commands) > 25
    for option in ("--fit", "--size-fit"):  # of tune: what is fitted, and how images get their size
        assert option in {n for a in app["tune"].assemble_argument_collection() for n in a.names}


@pytest.mark.slow(10)
def test_scores_by_an_extractor_that_was_trained(small_data: Path, tmp_path: Path) -> None:
    small = ("--epochs", "1", "--widths", "4", "8", "--batch", "256")
    alphabar("extractor", "train", "fashion_mnist", "--out", "x.safetensors", *small, cwd=tmp_path)
    alphabar("sample", "bundled", "--n", "520", "--steps", "1", "--out", "s.npz", cwd=tmp_path)
    command = ("score", "s.npz", "--against", "fashion_mnist:test", "--extractor", "x.safetensors", "--json")
    scores = json.loads(alphabar(*command, cwd=tmp_path).stdout)
    assert scores[0]["preprocessing"]["shape"] == [1, 28, 28]
    assert scores[0]["extractor"] == json.loads(safe_header(tmp_path / "x.safetensors")["alphabar_extractor"])["fingerprint"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["train", "fashion_mnist", "--out", "r", "--train.lrr", "1"], "Did you mean --train.lr"),
        (["train", "no_such_set", "--out", "r"], "there is no set no_such_set"),
        (["train", "fashion_mnist", "--out", "r", "--resume"], "there is no run at r to resume"),
        (["sample", "nowhere", "--out", "s.npz"], "there is no run at nowhere"),
        (["sample", "bundled", "--sampler", "ddmi", "--out", "s.npz"], "ddim"),
        (["sample", "bundled", "--eta", "2", "--out", "s.npz"], "eta = 2"),
        (["score", "nothing.npz", "--against", "fashion_mnist:test"], "there are no samples at nothing.npz"),
        (["report"], "name at least one run"),
    ],
)
def test_a_wrong_command_says_what_to_type(small_data: Path, tmp_path: Path, command: list[str], words: str) -> None:
    done = alphabar(*command, cwd=tmp_path, ok=False)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_trains_nothing(small_data: Path, tmp_path: Path) -> None:
    out = alphabar("train", "fashion_mnist", "--out", "run", "--recipe", "garments", *TINY, "--dry-run", cwd=tmp_path).stdout
    assert "gflop_a_call" in out
    assert "[schedule]" in out
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_a_score_are_refused_with_the_number(small_data: Path, tmp_path: Path) -> None:
    alphabar("sample", "bundled", "--n", "8", "--steps", "1", "--out", "s/", cwd=tmp_path)
    assert len(list((tmp_path / "s").glob("0*.png"))) == 8
    done = alphabar("score", "s/", "--against", "fashion_mnist:test", "--metrics", "fid", cwd=tmp_path, ok=False)
    assert "8 images are too few for FID" in done.stderr and "512 features" in done.stderr
    left_out = alphabar("score", "s/", "--against", "fashion_mnist:test", "--metrics", "fid", "kid", cwd=tmp_path)
    assert "left out: FID (8 images are too few" in left_out.stderr and "KID" in left_out.stdout


def test_a_recipe_is_chosen_for_the_set_and_printed_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (8,))
    np.save(tmp_path / "dots.npy", np.random.default_rng(0).integers(0, 256, (40, 9, 11, 1), dtype=np.uint8))
    words = ["train", "dots.npy", "--out", "run", "--images", "128", "--train.lr", "1e-3"]
    dry = alphabar(*words, "--dry-run", cwd=tmp_path).stdout
    assert not (tmp_path / "run").exists()
    out = alphabar(*words, cwd=tmp_path).stdout
    for line in ("40 images of 9x11x1", "U-Net with", "128 images (", "GiB of memory", "First loss after"):
        assert line in out and line in dry, "six lines of words, with --dry-run as well"
    assert "hours_here" in dry and "[schedule]" in dry
    assert "40 images of 9x11x1" in json.loads((tmp_path / "run/plan.json").read_text())["lines"][0]
    recipe = resolve(tmp_path / "run" / "recipe.toml")
    assert (recipe.train.images, recipe.train.lr, recipe.model.patch) == (128, 1e-3, 1)
    with monkeypatch.context() as patch:
        patch.setattr(
            "alphabar.training.speed.measure", None
        )  # nothing is measured for what cannot start, and nothing for what is resumed
        refused = alphabar(*words, cwd=tmp_path, ok=False)
        assert "already holds a run" in refused.stderr
        again = alphabar(*words, "--resume", cwd=tmp_path)
        refused = alphabar("train", "dots.npy", "--out", "x", "--recipe", "edm", "--minutes", "3", cwd=tmp_path, ok=False)
    assert "--recipe edm has a length: give --images N" in refused.stderr
    assert not (tmp_path / "x").exists()
    assert "run is finished; --images N or --minutes M" in again.stderr
    alphabar(*words[:4], "--resume", "--images", "256", cwd=tmp_path)
    assert resolve(tmp_path / "run" / "recipe.toml").train.earlier_lengths == (128, 128)


def test_a_tracker_of_the_recipe_is_no_misspelt_option(tmp_path: Path) -> None:
    words = ("train", "fashion_mnist", "--recipe", "garments", "--out", "r", *TINY)
    out = alphabar(*words, "--track", "trackio", "--dry-run", cwd=tmp_path).stdout
    assert 'track = [\n    "trackio",\n]' in out
