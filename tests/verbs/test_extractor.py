"""The extractor of a run: trained on its images when it is first asked for, and used again."""

import os
import shutil
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.data.image_set import load
from alphabar.features import simclr
from alphabar.features.auto import plan_extractor
from alphabar.features.extractor import read_extractor
from alphabar.features.options import SimCLROptions, SupervisedOptions
from alphabar.features.simclr import train_self_supervised
from alphabar.training.config import resolve
from alphabar.verbs.extractor import FILE, extractor_for, run_of, train_beside
from alphabar.verbs.score import score
from alphabar.verbs.train import train
from tests.fixtures.sets import image_set

KEYS = "--train.images 64 --train.batch 16 --model.channels 8 --model.groups 8 --watch.preview-every 0 --train.heldout-every 0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 90 colour images without labels, next to the set's file."""
    folder = tmp_path_factory.mktemp("own")
    np.save(folder / "cells.npy", np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), np.uint8))
    train(resolve("garments", [*KEYS.split(), "--data.set", f"{folder}/cells.npy"]), folder / "run", progress=False)
    return folder / "run"


def test_auto_trains_on_the_images_of_the_run_says_so_and_is_used_again(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alphabar.features.auto.MOST_EPOCHS", 2)
    against = f"{run.parent}/cells.npy"
    first = score(run, against, "auto", n=40, steps=2)
    printed = capsys.readouterr().err
    assert "training an extractor of 16 features on " in printed and "without labels, 2 passes: about " in printed
    made = read_extractor(run / FILE)
    images = load(against)
    assert made.training_record["set_fingerprint"] == images.fingerprint
    trained, seen = made.training_record["images"], made.training_record["seen"]
    assert seen == f"{trained} training images; {90 - trained} held-out images of the set were not seen" and 60 < trained < 90
    again = score(next((run / "samples").glob("*.npz")), against, "auto", n=40)  # samples in the run's folder
    assert "training an extractor" not in capsys.readouterr().err
    assert {s.extractor for s in (*first, *again)} == {made.fingerprint}
    assert [s.value for s in first] == [s.value for s in again]


def test_auto_continues_a_training_that_was_stopped(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options of the call that was stopped, which measured speeds decide."""
    copy, images, views, calls = tmp_path / "run", load(f"{run.parent}/cells.npy"), simclr.views, list[int]()
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("extractor"))

    def stopping(*arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 8 + 3:  # the plan measures two steps in each of two precisions, with two views each
            os.kill(os.getpid(), signal.SIGINT)
        return views(*arguments, **keywords)

    monkeypatch.setattr(simclr, "views", stopping)
    monkeypatch.setattr("alphabar.features.auto.MOST_EPOCHS", 5)
    with pytest.raises(KeyboardInterrupt, match="stopped after 128 images"):
        train_beside(copy, images, progress=False)
    monkeypatch.setattr("alphabar.features.auto.MOST_EPOCHS", 7)
    made = train_beside(copy, images, progress=False)
    record = made.training_record
    options = SimCLROptions(**{f.name: record.get(f.name, getattr(made, f.name, ())) for f in fields(SimCLROptions)})
    whole = train_self_supervised(images, replace(options, widths=made.architecture["widths"]), progress=False)
    assert record["epochs"] == 5 and made.fingerprint == whole.fingerprint
    assert read_extractor(copy / FILE).fingerprint == made.fingerprint and not (copy / FILE).with_suffix(".part").exists()


def test_where_no_extractor_fits_the_message_has_the_line_to_type(run: Path, tmp_path: Path) -> None:
    images = load(f"{run.parent}/cells.npy")
    with pytest.raises(ValueError, match=r"bundled is for images of 28x28x1, and cells has 8x8x3: add --extractor auto, .*run"):
        extractor_for("bundled", images, [run])
    with pytest.raises(ValueError, match=r"x.npz belongs to no run, .*: alphabar extractor train \S*cells.npy --out .* --self-s"):
        extractor_for("auto", images, [tmp_path / "x.npz"])
    assert run_of(f"{run}/samples/some.npz[5:9]") == run and run_of("bundled") is None


def test_bundled_on_unlike_images_is_not_silent(capsys: pytest.CaptureFixture[str]) -> None:
    digits = load(np.zeros((4, 28, 28, 1), np.uint8))
    extractor_for("bundled", digits)
    assert "bundled is an extractor of garments" in capsys.readouterr().err


def test_the_plan_follows_labels_and_numbers() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    labelled, plain = image_set(pixels, np.arange(300) % 2), image_set(pixels, None)
    with_labels, without = (plan_extractor(images, 0.2, 60) for images in (labelled, plain))
    assert isinstance(with_labels.options, SupervisedOptions) and isinstance(without.options, SimCLROptions)
    assert isinstance(plan_extractor(image_set(pixels, np.arange(300) % 100), 0.2, 60).options, SimCLROptions)  # 3 of a class
    assert without.options.dim == 16 and without.options.widths == (48, 96, 192) and without.options.holdout == 0.2
    assert "300 training" not in without.line() and f"{without.trained_on} training images, without labels" in without.line()
    with pytest.raises(ValueError, match="training images are too few"):
        plan_extractor(image_set(pixels[:7], None), 0.0, 60)
