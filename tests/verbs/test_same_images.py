"""A set is known by its images: by any spelling, from any place and file, and other images under its name are refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alphabar.cli.main import app
from alphabar.core.files import read_jsonl
from alphabar.verbs.memorisation import training_images
from tests.fixtures.training import assert_same_weights

SMALL = [
    "--recipe",
    "garments",
    "--images",
    "128",
    "--train.batch",
    "32",
    "--model.channels",
    "8",
    "--model.embedding",
    "16",
    "--data.holdout",
    "0.5",
    "--train.warmup",
    "0",
    "--train.flip",
    "--watch.preview-every",
    "0",
    "--train.checkpoint-every",
    "64",
]


@pytest.fixture
def place(pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos/, a trained run, and the same images elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    Path("photos").mkdir()
    for k, image in enumerate(pixels[:60]):
        Image.fromarray(image[:, :, 0]).save(f"photos/{k:03d}.png")
    np.savez("copy.npz", images=pixels[:60])
    np.savez("other.npz", images=pixels[60:120])
    Path("link").symlink_to("photos")
    shutil.copytree("photos", "deeper/renamed")
    return tmp_path


def command(*words: str) -> None:
    app(["train", *words], result_action="return_value")


SPELLINGS = ["photos", "photos/", "./photos", "{here}/photos", "link", "deeper/renamed", "copy.npz"]


def test_every_spelling_of_a_set_has_the_split_of_the_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("photos", "--out", "run", *SMALL)
    want = training_images("run", "photos", None)
    assert want.flip and 20 < len(want.heldout) < 40
    capsys.readouterr()
    for run in ("run", "run/checkpoints/last", "run/checkpoints/last/ema.safetensors"):
        for spelling in SPELLINGS:
            found = training_images(run, spelling.format(here=place), None)
            assert found.flip and found.heldout.tolist() == want.heldout.tolist(), (run, spelling)
    assert capsys.readouterr().err == ""
    assert not training_images("run", "other.npz", None).flip
    assert "run was trained on other images than other.npz: 17% of the images" in capsys.readouterr().err


@pytest.mark.parametrize("spelling", SPELLINGS[1:])
def test_a_run_is_resumed_wherever_its_images_are(place: Path, spelling: str) -> None:
    command("photos", "--out", "whole", *SMALL)
    command("photos", "--out", "run", *SMALL)
    shutil.rmtree("run/checkpoints/last")
    Path("run/checkpoints/last.old").rename("run/checkpoints/last")  # of image 64
    spelling = spelling.format(here=place)
    if spelling in ("copy.npz", "deeper/renamed"):
        shutil.move("photos", "away")
    command(spelling, "--out", "run", "--resume")
    assert_same_weights(place / "run", place / "whole")
    moved = [e["set"] for e in read_jsonl(Path("run/events.jsonl")) if e["event"] == "moved"]
    assert moved == [Path(spelling).name]
    command(spelling, "--out", "run", "--resume", "--data.set", spelling)


def test_a_set_that_is_renamed_in_the_recipe_of_a_run_is_the_same_set(place: Path) -> None:
    command("photos", "--out", "whole", *SMALL)
    command("photos", "--out", "run", *SMALL)
    shutil.rmtree("run/checkpoints/last")
    Path("run/checkpoints/last.old").rename("run/checkpoints/last")
    shutil.move("photos", "moved")
    recipe = Path("run/recipe.toml")
    recipe.write_text(recipe.read_text().replace('set = "photos"', 'set = "moved"'))
    command("moved", "--out", "run", "--resume")
    assert_same_weights(place / "run", place / "whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["other.npz"], r"other.npz holds other images \(60, fingerprint \w+\) than those that run was trained on"),
        (["photos", "--seed", "3"], r"run was started with train.seed 0, not 3: leave train.seed out"),
        (
            ["photos", "--images", "64"],
            r"and 64 is the length of the whole training: give --images above 128",
        ),
        (["photos", "--data.holdout", "0.2"], r"data.holdout 0.5, not 0.2"),
        (["photos", "--train.lr", "0.1", "--model.channels", "16"], r"model.channels \[8\], not \[16\]; train.lr 0.002, not 0.1"),
        (["photos", "--recipe", "flow"], r"model.prediction 'v', not 'flow'"),
        (["photos", "--alpha", "white"], r"data.alpha 'refuse', not 'white'"),
        (["photos", "--data.limit", "10"], r"data.limit 0, not 10"),
    ],
)
def test_what_is_named_at_resume_and_differs_is_refused(place: Path, words: list[str], message: str) -> None:
    command("photos", "--out", "run", *SMALL)
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    with pytest.raises(ValueError, match=message):
        command(*words, "--out", "run", "--resume")
    assert before == {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    command("photos", "--out", "run", "--resume", *SMALL)  # the same command with --resume


def test_the_command_that_continues_can_be_pasted(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move("photos", "my photos")

    def stopped(*args: object, **options: object) -> None:
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr("alphabar.verbs.train.train_loop", stopped)
    with pytest.raises(SystemExit):
        command("my photos", "--out", "my {run}", *SMALL)
    assert re.search(r"continue with: alphabar train 'my photos' --out 'my \{run\}' --resume\n", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        command("my photos", "--out", "my {run}", "--no-early-stop", *SMALL)
    assert "--resume --no-early-stop\n" in capsys.readouterr().err
