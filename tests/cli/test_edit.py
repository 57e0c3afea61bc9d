"""The commands that work on given images with a trained model: what they write, and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.cli.main import main
from alphabar.report.words import sig


def run_command(text: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(text.split())
    return int(ended.value.code or 0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 65536, (3, 28, 28), dtype=np.uint16)
    (tmp_path / "deep").mkdir()
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "deep" / f"{k}.png")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "other.png")
    return tmp_path


def test_vary_writes_images_of_the_depth_of_the_input_a_picture_and_a_gif(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "vary bundled deep --draws 2 --strength 0.5 --steps 4 --fast none --out made/v.npz --gif made/v.gif --json"
    assert run_command(text) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["n"], record["nfe"], record["pixels"], record["start"]["strength"]) == (6, 2.0, "uint16", 0.5)
    assert record["sigma"] == pytest.approx(1, abs=0.1)
    with np.load(here / "made/v.npz") as stored:
        assert stored["images"].dtype == np.uint16 and stored["images"].shape == (6, 28, 28, 1)
    with Image.open(here / "made/v.gif") as gif, Image.open(here / "made/v.png") as sheet:
        assert gif.n_frames == 2  # a step each; the picture has a line of text below three rows
        assert sheet.height > 3 * 57 + 1
    page = (here / "made/v.html").read_text()
    assert page.count("<img") == 3 * 3 and "variation 2 of image 2" in page and "uint16, 0..65535 shown as 0..255." in page
    assert run_command("vary bundled other.png --size 28 --steps 2 --fast none --out one/ --json") == 0
    assert (here / "one/000000.png").is_file() and (here / "one.png").is_file()


def test_invert_and_interpolate_write_noise_images_and_pictures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("invert bundled deep --n 2 --steps 3 --iterations 2 --out i.npz --json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["nfe"] <= 6 and record["rmse"]["value"] <= record["worst"] and record["rmse"]["interval"]
    with np.load(here / "i.npz") as stored:
        assert stored["noise"].shape == (2, 1, 28, 28) and stored["rmse"].shape == (2,)
    assert run_command("interpolate bundled 0 deep[1] --n 3 --steps 3 --iterations 1 --out w.npz --gif w.gif --json") == 0
    assert json.loads(capsys.readouterr().out)["start"]["a"] == "0:0"
    with Image.open(here / "w.gif") as gif:
        assert gif.n_frames == 4
    assert (here / "i.png").is_file() and (here / "w.png").is_file()
    page = (here / "i.html").read_text()
    assert page.count("<img") == 2 * 3 and "way back of image 1" in page and sig(record["rmse"]["value"]) in page


def test_sample_writes_how_images_form(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("sample bundled --n 3 --steps 4 --fast none --out s.npz --gif s.gif --json") == 0
    with Image.open(here / "s.gif") as gif:
        assert gif.n_frames == 4
    assert run_command("sample bundled --n 3 --steps 4 --out t.npz --gif t.png") == 2
    assert "t.png ends in '.png'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vary bundled other.png --out v.npz", "images of 30x40 pixels, and the model makes 28x28: give --size 28"),
        ("vary bundled deep --out v.npz --strength 0", "strength = 0"),
        ("vary bundled deep --out v.npz --gif v.mp4", "animations are written as .gif"),
        ("vary bundled deep --out deep/v.npz", "would lie among the images of deep"),
        ("vary bundled deep --out v.npz --classes 1", "this model was trained without classes"),
        ("vary bundled deep[7] --out v.npz", "deep holds 3 images, numbered from 0"),
        ("vary bundled missing --out v.npz", "there is no set missing"),
        ("invert bundled deep --n 4 --out v.npz", "deep holds 3 images, 4 were asked for"),
        ("interpolate bundled 0 deep --out v.npz", "deep holds 3 images: name one, as deep[0]"),
        ("interpolate bundled 0 1 --eta 0.5 --out v.npz", "adds noise at its steps"),
    ],
)
def test_wrong_input_ends_in_one_line(here: Path, capsys: pytest.CaptureFixture[str], text: str, words: str) -> None:
    assert run_command(text) == 2
    assert words in capsys.readouterr().err
    assert not list(here.glob("v.*"))
