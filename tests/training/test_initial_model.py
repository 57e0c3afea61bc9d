"""The model at the start of a training: `train.init_from` copies the weights of another run."""

import json
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.data.image_set import load
from alphabar.denoiser.model import build, save_weights
from alphabar.denoiser.to_diffusers import export_diffusers
from alphabar.training.checkpoint import load_model
from alphabar.training.config import Recipe, resolve
from alphabar.training.hooks import Hook, Training
from alphabar.training.initial_model import cost, initial_model, new_model
from alphabar.verbs.train import train

SMALL = ["--model.channels", "16", "--train.images", "96", "--train.batch", "32", "--watch.preview-every", "0"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.save(tmp_path / "set.npy", np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype=np.uint8))
    return tmp_path / "set.npy"


@pytest.fixture
def first(images: Path, tmp_path: Path) -> Path:
    """A trained run."""
    train(recipe(images), tmp_path / "first", progress=False)
    return tmp_path / "first"


def recipe(images: Path, *tokens: str) -> Recipe:
    return resolve("garments", [*SMALL, "--data.set", str(images), *tokens])


def test_training_starts_from_the_averaged_weights_of_a_run(images: Path, first: Path, tmp_path: Path) -> None:
    same_but_source = ["--train.lr", "0", "--model.dropout", "0.1"]
    wanted = recipe(images, "--train.init-from", str(first), *same_but_source)
    second = train(wanted, tmp_path / "second", progress=False)  # with learning rate 0 the weights stay at their initial values
    source = load_model(first)
    assert {k: v.tolist() for k, v in second.state_dict().items()} == {k: v.tolist() for k, v in source.state_dict().items()}
    assert json.loads((tmp_path / "second" / "data.json").read_text())["begun_with"] == source.fingerprint
    assert wanted.fingerprint("x") != recipe(images, *same_but_source).fingerprint("x")


def test_images_of_another_size_can_start_from_the_bundled_weights(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", np.zeros((4, 32, 32, 1), np.uint8))
    wanted = resolve("garments", ["--data.set", str(tmp_path / "set.npy"), "--train.init-from", "bundled"])
    model = initial_model(wanted, load(str(tmp_path / "set.npy"), "train"))
    assert model.image_shape == (1, 32, 32)
    assert all((a == b).all() for a, b in zip(model.parameters(), load_model("bundled").parameters(), strict=True))


@pytest.mark.slow
def test_a_pipeline_of_diffusers_gives_initial_weights(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    unet2d = ["--model.network", "unet2d", "--model.channels", "16", "--model.groups", "4", "--schedule.kind", "linear"]
    source = new_model(recipe(images, *unet2d), (1, 8, 8))
    export_diffusers(source, tmp_path / "pipeline")
    init = ["--train.init-from", f"diffusers:{tmp_path / 'pipeline'}"]
    assert initial_model(recipe(images, *unet2d, *init), load(str(images), "train")).fingerprint == source.fingerprint
    other = recipe(images, *unet2d, *init, "--schedule.beta-max", "0.01")
    with pytest.raises(ValueError, match=r"\(schedule is .*'beta_max': 0.02.* there, .*'beta_max': 0.01.* here\)"):
        initial_model(other, load(str(images), "train"))


LINEAR = [float(b) for b in np.linspace(1e-4, 0.02, 1000, dtype=np.float32)]


@pytest.mark.parametrize(
    ("there", "same"),
    [
        ({"kind": "betas", "curve": "linear"}, True),
        ({"kind": "betas", "curve": "given", "given": LINEAR}, True),
        ({"kind": "linear", "beta_max": 0.0201}, False),
        ({"kind": "betas", "curve": "scaled_linear"}, False),
        ({"kind": "betas", "curve": "linear", "zero_snr": True}, False),
        ({"kind": "linear", "steps": 999}, False),
        ({"kind": "cosine"}, False),
    ],
)
def test_schedules_agree_where_they_give_a_time_the_same_noise(
    there: dict[str, Any], same: bool, images: Path, tmp_path: Path
) -> None:
    """`there` is another description of the recipe's linear schedule, or another schedule."""
    here = recipe(images, "--schedule.kind", "linear", "--train.init-from", str(tmp_path / "weights.safetensors"))
    save_weights(tmp_path / "weights.safetensors", build(here.model, there, (1, 8, 8), 0))
    with nullcontext() if same else pytest.raises(ValueError, match=r"schedule is \{.*\} there, \{'kind': 'linear'.*\} here\)"):
        initial_model(here, load(str(images), "train"))


class Interrupt(Hook):
    def on_step(self, training: Training) -> None:
        if training.images == 32:
            signal.raise_signal(signal.SIGINT)


def test_a_resumed_run_does_not_need_the_run_it_was_initialised_from(images: Path, first: Path, tmp_path: Path) -> None:
    wanted = recipe(images, "--train.init-from", str(first))
    uninterrupted = train(wanted, tmp_path / "uninterrupted", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(wanted, tmp_path / "interrupted", hooks=[Interrupt()], progress=False)
    shutil.rmtree(first)
    resumed = train(wanted, tmp_path / "interrupted", resume=True, progress=False)
    assert resumed.fingerprint == uninterrupted.fingerprint


def test_weights_of_another_network_are_refused_before_a_run_is_started(images: Path, first: Path, tmp_path: Path) -> None:
    other = recipe(images, "--train.init-from", str(first), "--model.channels", "32", "--model.prediction", "eps")
    with pytest.raises(ValueError, match=r"prediction is v there, eps here; .*channels is \[16\] there, \[16, 32\] here"):
        train(other, tmp_path / "second", progress=False)
    with pytest.raises(FileNotFoundError, match="there is no run at"):
        cost(recipe(images, "--train.init-from", str(tmp_path / "nowhere")))
    assert not (tmp_path / "second").exists()
