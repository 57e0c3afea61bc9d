"""`train.init_from`: training that begins with the weights of another run."""

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
from alphabar.training.cost import cost
from alphabar.training.hooks import Hook, Training
from alphabar.training.initial_model import initial_model, new_model
from alphabar.verbs.train import train

SMALL = ["--model.channels", "16", "--train.images", "96", "--train.batch", "32", "--watch.preview-every", "0"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.save(tmp_path / "set.npy", np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype=np.uint8))
    return tmp_path / "set.npy"


def recipe(images: Path, *tokens: str) -> Recipe:
    return resolve("garments", [*SMALL, "--data.set", str(images), *tokens])


def test_training_begins_with_the_averaged_weights_of_a_run(images: Path, tmp_path: Path) -> None:
    first = train(recipe(images), tmp_path / "first", progress=False)
    wanted = recipe(images, "--train.init-from", str(tmp_path / "first"), "--train.lr", "0", "--model.dropout", "0.1")
    second = train(wanted, tmp_path / "second", progress=False)  # at rate 0 the weights stay what they began with
    assert {k: v.tolist() for k, v in second.state_dict().items()} == {k: v.tolist() for k, v in first.state_dict().items()}
    assert json.loads((tmp_path / "second" / "data.json").read_text())["begun_with"] == first.fingerprint
    assert wanted.fingerprint("x") != recipe(images, "--train.lr", "0", "--model.dropout", "0.1").fingerprint("x")


def test_images_of_another_size_begin_with_the_bundled_weights(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", np.zeros((4, 32, 32, 1), np.uint8))
    wanted = resolve("garments", ["--data.set", str(tmp_path / "set.npy"), "--train.init-from", "bundled"])
    model = initial_model(wanted, load(str(tmp_path / "set.npy"), "train"))
    assert model.image_shape == (1, 32, 32)
    assert all((a == b).all() for a, b in zip(model.parameters(), load_model("bundled").parameters(), strict=True))


def test_a_pipeline_of_diffusers_is_a_beginning(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    own = ["--model.network", "unet2d", "--model.channels", "16", "--model.groups", "4", "--schedule.kind", "linear"]
    first = new_model(recipe(images, *own), (1, 8, 8))
    export_diffusers(first, tmp_path / "pipeline")
    begun = recipe(images, *own, "--train.init-from", f"diffusers:{tmp_path / 'pipeline'}")
    second = initial_model(begun, load(str(images), "train"))
    assert second.fingerprint == first.fingerprint
    other = recipe(images, *own, "--schedule.beta-max", "0.01", "--train.init-from", f"diffusers:{tmp_path / 'pipeline'}")
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
    """Whatever they are called: "there" is another description of, or another schedule than, the recipe's linear one."""
    now = recipe(images, "--schedule.kind", "linear", "--train.init-from", str(tmp_path / "weights.safetensors"))
    save_weights(tmp_path / "weights.safetensors", build(now.model, there, (1, 8, 8), 0))
    with nullcontext() if same else pytest.raises(ValueError, match=r"schedule is \{.*\} there, \{'kind': 'linear'.*\} here\)"):
        initial_model(now, load(str(images), "train"))


def test_a_run_that_goes_on_needs_its_beginning_no_more(images: Path, tmp_path: Path) -> None:
    train(recipe(images), tmp_path / "first", progress=False)
    begun = recipe(images, "--train.init-from", str(tmp_path / "first"))
    whole = train(begun, tmp_path / "whole", progress=False)

    class Stop(Hook):
        def on_step(self, training: Training) -> None:
            if training.images == 32:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(begun, tmp_path / "broken", hooks=[Stop()], progress=False)
    shutil.rmtree(tmp_path / "first")
    gone_on = train(begun, tmp_path / "broken", resume=True, progress=False)
    assert gone_on.fingerprint == whole.fingerprint


def test_weights_of_another_network_are_refused_and_nothing_is_begun(images: Path, tmp_path: Path) -> None:
    train(recipe(images), tmp_path / "first", progress=False)
    other = recipe(images, "--train.init-from", str(tmp_path / "first"), "--model.channels", "32", "--model.prediction", "eps")
    with pytest.raises(ValueError, match=r"prediction is v there, eps here; .*channels is \[16\] there, \[16, 32\] here"):
        train(other, tmp_path / "second", progress=False)
    with pytest.raises(FileNotFoundError, match="there is no run at"):
        cost(recipe(images, "--train.init-from", str(tmp_path / "nowhere")))
    assert not (tmp_path / "second").exists()
