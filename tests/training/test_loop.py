"""The loop: the loss falls, the record is complete, and options do what they promise."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alphabar.core import seeds
from alphabar.core.files import read_jsonl
from alphabar.core.progress import track
from alphabar.core.run import Run
from alphabar.data.augment import AUGMENT_DIM, Geometry
from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.schedule.noising import to_x0
from alphabar.training.checkpoint import load_model
from alphabar.training.hooks import HeldOutLoss
from alphabar.training.loop import train
from tests.fixtures.training import conditional_model, small_model, small_recipe, small_training


def losses(folder: Path) -> list[float]:
    return [e["loss"] for e in read_jsonl(folder / "events.jsonl") if e["event"] == "loss"]


def test_the_loss_falls_and_the_record_is_complete(pixels: NDArray[np.uint8], folder: Path) -> None:
    average = small_training(pixels, folder, hooks=[HeldOutLoss(320)], images=3200, policy="one_cycle", lr=4e-3)
    events = list(read_jsonl(folder / "events.jsonl"))
    heldout = [e for e in events if e["event"] == "heldout"]
    assert losses(folder)[-1] < 0.5 * losses(folder)[0]
    assert heldout[-1]["loss"] < 0.6 * heldout[0]["loss"]
    assert len(heldout[-1]["bands"]) == 5
    assert events[-1]["event"] == "finished"
    assert [e["images"] for e in events if e["event"] == "loss"] == list(range(64, 3201, 64))
    assert load_model(folder).fingerprint == average.fingerprint
    assert load_model(folder, "best").spec == average.spec


def test_the_progress_bar_shows_no_loss_before_the_first_record(
    pixels: NDArray[np.uint8], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alphabar.training.loop.track", partial(track, every=0.0))  # one line per step
    train(small_model(), pixels, np.arange(200), small_recipe(images=96, log_every=64), Run(folder), progress=True)
    printed = capsys.readouterr().err
    assert re.search(r"loss 0\.\d+", printed)
    assert "nan" not in printed


def test_a_conditional_model_learns_its_classes(folder: Path) -> None:
    """Dark images are class 0 and bright ones class 1; in pure noise only the class says which."""
    g = seeds.generator(1)
    labels = np.arange(200) % 2
    pixels = (60 + 120 * labels[:, None, None, None] + g.integers(-10, 11, (200, 8, 8, 1))).astype(np.uint8)
    recipe = small_recipe(images=3200, lr=6e-3, log_every=0, checkpoint_every=0, label_dropout=0.2)
    model = train(
        conditional_model(2), pixels, np.arange(180), recipe, Run(folder), labels=labels, heldout=pixels[180:],
        heldout_labels=labels[180:], hooks=[HeldOutLoss(1600)], progress=False,
    )  # fmt: skip
    x = 30 * seeds.starting_noise(0, range(64), (1, 8, 8))
    with torch.no_grad():
        dark, bright, either = (model(x, torch.full((64,), 30.0), torch.full((64,), k)).mean().item() for k in (0, 1, 2))
    assert dark == pytest.approx(60 / 127.5 - 1, abs=0.15) and bright == pytest.approx(180 / 127.5 - 1, abs=0.15)
    assert either == pytest.approx(120 / 127.5 - 1, abs=0.2)
    assert load_model(folder).class_names == ("0", "1")


class OnlyMirrors(Geometry):
    """Every second image mirrored, and nothing else."""

    def draw(self, rng: np.random.Generator) -> NDArray[np.float32]:
        augment = np.zeros(AUGMENT_DIM, np.float32)
        augment[0] = rng.random() < 0.5
        return augment


@pytest.mark.slow(7)
def test_augmentation_does_not_leak(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are bright on the left. Half of the training images are mirrored, and the network is conditioned on that: samples
    are mirrored only where it is asked for."""
    monkeypatch.setattr("alphabar.training.stream.Geometry", OnlyMirrors)
    pixels = np.full((100, 8, 8, 1), 40, np.uint8)
    pixels[:, :, :4] = 215
    recipe = small_recipe(images=6400, lr=1e-2, log_every=0, checkpoint_every=0, augment=0.5, ema_half_life=800)
    model = build(ModelRecipe(channels=(32,), embedding=32), {"kind": "cosine"}, (1, 8, 8), 0, augment=AUGMENT_DIM)
    model = train(model, pixels, np.arange(100), recipe, Run(folder), progress=False)
    sigma = torch.full((64,), 30.0)
    x = 30 * seeds.starting_noise(0, range(64), (1, 8, 8))
    with torch.no_grad():
        clean = model(x, sigma).mean((0, 1, 2))
        mirror = torch.zeros(64, AUGMENT_DIM)
        mirror[:, 0] = 1
        mirrored = to_x0("v", model.output(x, sigma, augment=mirror), x, sigma).mean((0, 1, 2))
    assert clean[:3].min() > 0.4 and clean[5:].max() < -0.4
    assert mirrored[:3].max() < -0.4 and mirrored[5:].min() > 0.4


def test_micro_batches_train_as_the_whole_batch(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    for k in (1, 4):
        small_training(pixels, tmp_path / str(k), images=192, accumulate=k)
    assert losses(tmp_path / "4") == pytest.approx(losses(tmp_path / "1"), rel=1e-5)
    with pytest.raises(ValueError, match=r"does not divide by 1 processes and train\.accumulate 3"):
        small_training(pixels, tmp_path / "x", accumulate=3)


def test_where_compiling_fails_training_continues_without(
    pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(network: torch.nn.Module) -> object:
        def fails(*args: object) -> None:
            raise RuntimeError("no C++ compiler was found")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    plain = small_training(pixels, tmp_path / "plain", images=64)
    with pytest.warns(UserWarning, match=r"torch.compile does not work here"):
        uncompiled = small_training(pixels, tmp_path / "compiled", images=64, compile=True)
    assert plain.fingerprint == uncompiled.fingerprint


def test_trainings_of_different_precision_run_in_one_process(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    """accelerate otherwise keeps a process's first precision."""
    last: list[float] = []
    for precision in ("no", "bf16", "no"):
        run = tmp_path / f"{len(last)}-{precision}"
        small_training(pixels, run, images=64, precision=precision)
        last.append(losses(run)[-1])
    assert last[0] == last[2] and last[1] != last[0] and last[1] == pytest.approx(last[0], rel=0.05)
