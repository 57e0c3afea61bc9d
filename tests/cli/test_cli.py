"""The commands, run as a user runs them, on a small set."""

import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from alphabar.cli.main import main
from alphabar.core.files import read_jsonl

TINY = shlex.split(
    "--model.channels 8 --model.embedding 16 --watch.preview_every 256 --watch.preview_n 4 --watch.preview_steps 2 "
    "--train.log_every 64 --train.checkpoint_every 128 --train.heldout_every 256"
)


def safe_header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def alphabar(*arguments: str, cwd: Path, ok: bool = True) -> "subprocess.CompletedProcess[str]":
    """The program in this process, where torch is loaded already; as a process of its own it runs in other tests here."""
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
        "train",
        "fashion_mnist",
        "--out",
        "run",
        "--images",
        "512",
        *TINY,
        "--watch.score_every",
        "512",
        "--watch.score_n",
        "520",
        cwd=tmp_path,
    )
    return tmp_path / "run"


def test_train_sample_score_report(run: Path) -> None:
    here = run.parent
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    checkpoint = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}
    assert {"recipe.toml", "machine.json", "events.jsonl", "scores.jsonl", "samples/preview_0000000512.png"} <= names
    assert {f"checkpoints/{which}/{f}" for which in ("last", "best") for f in checkpoint} <= names
    kinds = [e["event"] for e in read_jsonl(run / "events.jsonl")]
    assert {"loss", "heldout", "preview", "score", "finished"} <= set(kinds)

    told = json.loads(alphabar("sample", "run", "--n", "520", "--steps", "3", "--out", "s.npz", "--json", cwd=here).stdout)
    assert (told["n"], told["nfe"], told["sampler"]) == (520, 3.0, "ddim")
    with np.load(here / "s.npz", allow_pickle=False) as file:
        assert file["images"].shape == (520, 28, 28, 1)
    with Image.open(here / "s.png") as sheet:
        assert sheet.width > 280

    scores = json.loads(alphabar("score", "s.npz", "--against", "fashion_mnist:test", "--json", cwd=here).stdout)
    assert [s["metric"] for s in scores][:3] == ["fid", "fid_infinity", "kid"]
    assert scores[0]["value"] > 10 * scores[0]["floor"] > 0  # a hardly trained model
    assert (scores[0]["n"], scores[0]["n_reference"], scores[0]["nfe"]) == (520, 600, 3.0)

    page = Path(alphabar("report", "run", "--out", "page.html", cwd=here).stdout.strip())
    text = (here / page).read_text()
    assert "<html" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert text.count("data:image/png") >= 1


def test_a_killed_training_is_resumed_by_the_same_words(small_data: Path, tmp_path: Path) -> None:
    command = ["train", "fashion_mnist", "--out", "run", "--images", "200000", *TINY, "--watch.score_every", "0"]
    process = subprocess.Popen([sys.executable, "-m", "alphabar", *command], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               env=dict(os.environ, OMP_NUM_THREADS="1"))  # fmt: skip
    last = tmp_path / "run/checkpoints/last/state.json"
    while not last.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with: alphabar train fashion_mnist --out run --resume" in err
    seen = json.loads(last.read_text())["images"]
    assert "already holds a run: add --resume" in alphabar(*command, cwd=tmp_path, ok=False).stderr
    shutil.rmtree(last.parent.with_name("last.old"), ignore_errors=True)
    shutil.copytree(last.parent, last.parent.with_name("last.old"))
    harmed = last.parent / "model.safetensors"
    harmed.write_bytes(harmed.read_bytes()[:-1])
    resumed = subprocess.Popen(
        [sys.executable, "-m", "alphabar", "train", "fashion_mnist", "--out", "run", "--resume"], cwd=tmp_path,
        stderr=subprocess.PIPE, text=True, env=dict(os.environ, OMP_NUM_THREADS="1"),
    )  # fmt: skip
    try:
        while json.loads(last.read_text())["images"] <= seen:
            assert resumed.poll() is None
    except FileNotFoundError:  # between the two renames of a checkpoint
        pass
    resumed.send_signal(signal.SIGINT)
    _, err = resumed.communicate(timeout=60)
    (line,) = [line for line in err.splitlines() if "Going on from the checkpoint before it" in line]
    assert line.startswith("alphabar: run/checkpoints/last")  # a warning is its words, not a line of code
    images = [e["images"] for e in read_jsonl(tmp_path / "run/events.jsonl") if e["event"] == "loss"]
    assert images == sorted(images)
    assert images[-1] > seen


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


def test_an_extractor_of_ones_own(small_data: Path, tmp_path: Path) -> None:
    alphabar("extractor", "train", "fashion_mnist", "--out", "x.safetensors", "--epochs", "1", cwd=tmp_path)
    alphabar("sample", "bundled", "--n", "520", "--steps", "1", "--out", "s.npz", cwd=tmp_path)
    scores = json.loads(
        alphabar(
            "score", "s.npz", "--against", "fashion_mnist:test", "--extractor", "x.safetensors", "--json", cwd=tmp_path
        ).stdout
    )
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
    out = alphabar("train", "fashion_mnist", "--out", "run", "--recipe", "garments", "--dry-run", cwd=tmp_path).stdout
    assert "gflop_a_call" in out
    assert "[schedule]" in out
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_a_score_are_refused_with_the_number(small_data: Path, tmp_path: Path) -> None:
    alphabar("sample", "bundled", "--n", "8", "--steps", "1", "--out", "s/", cwd=tmp_path)
    assert len(list((tmp_path / "s").glob("0*.png"))) == 8
    done = alphabar("score", "s/", "--against", "fashion_mnist:test", cwd=tmp_path, ok=False)
    assert "512" in done.stderr
    assert "8" in done.stderr
