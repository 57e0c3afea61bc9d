"""`alphabar extractor train` without labels and `alphabar extractor check`."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from alphabar.cli.extractor import TrainOptions
from alphabar.cli.extractor import train as train_extractor
from alphabar.features import simclr
from alphabar.features.extractor import read_extractor
from tests.cli.test_cli import alphabar

TINY = ["--self-supervised", "--epochs", "1", "--widths", "8", "16", "--batch", "64"]


def unlabelled(folder: Path, n: int = 160) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(n):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return folder


@pytest.mark.slow(7)
def test_an_extractor_is_trained_without_labels_and_checked(small_data: Path, tmp_path: Path) -> None:
    record = json.loads(
        alphabar("extractor", "train", "fashion_mnist", "--out", "x/x.safetensors", *TINY, "--json", cwd=tmp_path).stdout
    )
    assert record["method"] == "self-supervised: SimCLR"
    path = tmp_path / "x" / "x.safetensors"
    command = ["extractor", "check", str(path), "--against", "fashion_mnist:test", "--n", "64", "--json"]
    assert read_extractor(path).check_result == "not checked"
    found = json.loads(alphabar(*command, cwd=tmp_path).stdout)
    assert found["marked"]
    assert (tmp_path / "x_check.png").exists()
    checked = read_extractor(path)
    assert checked.check_result == found["verdict"]
    assert checked.fingerprint == record["fingerprint"]
    assert checked.check_result_of("fid") == "not checked"  # 64 images are too few for it


@pytest.mark.slow(6)
def test_a_check_takes_the_size_from_the_extractor(tmp_path: Path) -> None:
    """Images of several sizes: that of the extractor and the way to it need not be typed again."""
    unlabelled(tmp_path / "photos")
    for k in range(40):
        Image.new("RGB", (20, 14), (k, 0, 0)).save(tmp_path / "photos" / f"wide{k}.png")
    size = ("--size", "12", "--fit", "stretch")
    alphabar("extractor", "train", "photos/", "--out", "x.safetensors", *TINY, *size, cwd=tmp_path)
    command = ("extractor", "check", "x.safetensors", "--against", "photos/", "--n", "32", "--corruptions", "contrast", "--json")
    found = json.loads(alphabar(*command, cwd=tmp_path).stdout)
    assert "stretch" in found["reference_name"]
    assert "8, 8, 3" in alphabar(*command, "--size", "8", cwd=tmp_path, ok=False).stderr  # what is typed holds


def test_a_set_without_labels_says_what_to_type(tmp_path: Path) -> None:
    unlabelled(tmp_path / "photos")
    done = alphabar("extractor", "train", "photos/", "--out", "x.safetensors", cwd=tmp_path, ok=False)
    assert "has no labels" in done.stderr
    assert "alphabar extractor train SET --self-supervised --out PATH" in done.stderr
    assert not (tmp_path / "x.safetensors").exists()
    alphabar("extractor", "train", "photos/", "--out", "x.safetensors", *TINY, cwd=tmp_path)
    assert read_extractor(tmp_path / "x.safetensors").image_shape == (3, 12, 12)


def test_an_option_of_the_other_way_to_train_is_refused(tmp_path: Path) -> None:
    for words, option in ((["--temperature", "0.1"], "--temperature"), (["--self-supervised", "--shift", "2"], "--shift")):
        done = alphabar("extractor", "train", "fashion_mnist", "--out", "x.safetensors", *words, cwd=tmp_path, ok=False)
        assert f"{option} is an option of training" in done.stderr


def test_a_stopped_training_writes_no_extractor_and_keeps_its_state(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the middle: the views of the third batch are where it falls."""
    seen = []

    def interrupted(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(len(x))
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return x

    monkeypatch.setattr(simclr, "views", interrupted)
    out = tmp_path / "x.safetensors"
    with pytest.raises(SystemExit) as stopped:
        train_extractor("fashion_mnist", out=out, self_supervised=True, options=TrainOptions(epochs=1, batch=64, widths=(8,)))
    assert stopped.value.code == 130
    assert "stopped after 192 images; the same command continues" in capsys.readouterr().err
    assert not out.exists() and (tmp_path / "x.part" / "state.npz").exists()
