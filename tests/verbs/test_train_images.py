"""`alphabar.train` with images of every kind, with and without a recipe, and the refusals of its arguments."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import alphabar
from alphabar.core.run import Run
from alphabar.denoiser.model import Model
from alphabar.training.config import resolve

SQUARES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
LABELS = np.arange(40) % 2
SMALL = alphabar.Recipe.named("garments").with_(
    train={"batch": 32, "log_every": 32}, model={"channels": (8,), "groups": 8}, watch={"preview_every": 0}
)


class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return len(SQUARES)

    def __getitem__(self, k: int) -> tuple[Any, int]:
        return torch.from_numpy(SQUARES[k]).movedim(-1, 0), int(LABELS[k])


def hugging_face() -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"image": [Image.fromarray(s[..., 0]) for s in SQUARES], "label": LABELS.tolist()})


def weights(model: Model) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in model.state_dict().items()}


@pytest.fixture(scope="module")
def from_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """A run on the file of the squares, by the earlier form of the call."""
    folder = tmp_path_factory.mktemp("squares")
    np.savez(folder / "squares.npz", images=SQUARES, labels=LABELS)
    recipe = SMALL.with_(data={"set": str(folder / "squares.npz")}, train={"images": 64}, model={"conditional": True})
    return folder, alphabar.train(recipe, folder / "run", progress=False)


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        (lambda: SQUARES, LABELS), (lambda: torch.from_numpy(SQUARES).movedim(-1, 1), LABELS.tolist()),
        (lambda: [Image.fromarray(s[..., 0]) for s in SQUARES], LABELS), (Pairs, None), (hugging_face, None),
    ],
    ids=["array", "tensor", "list", "torch", "hugging face"],
)  # fmt: skip
def test_images_in_memory_give_the_weights_of_the_same_images_in_a_file(
    source: Any, labels: Any, from_file: tuple[Path, Model], tmp_path: Path
) -> None:
    images = source()
    model = alphabar.train(
        images, out=tmp_path / "run", recipe=SMALL, images=64, labels=labels, model={"conditional": True}, progress=False
    )
    assert weights(model) == weights(from_file[1])
    stored = resolve(Run(tmp_path / "run").recipe)
    assert (stored.train.images, stored.model.conditional) == (64, True)
    assert type(images).__name__ in stored.data.set  # not another set's name
    longer = alphabar.train(images, out=tmp_path / "run", images=96, labels=labels, resume=True, progress=False)
    assert resolve(Run(tmp_path / "run").recipe).train.images == 96
    assert weights(longer) != weights(model)
    assert longer.home == tmp_path / "run"


def test_a_set_that_has_a_name_and_a_named_recipe(from_file: tuple[Path, Model], tmp_path: Path) -> None:
    keys = {"train": {"batch": 32, "log_every": 32}, "model": {"channels": (8,), "groups": 8, "conditional": True}}
    model = alphabar.train(
        from_file[0] / "squares.npz", tmp_path / "run", recipe="garments", images=64, watch={"preview_every": 0}, progress=False,
        **keys,
    )  # fmt: skip
    assert weights(model) == weights(from_file[1])
    assert alphabar.sample("bundled", 1, steps=1, progress=False).images.shape == (1, 28, 28, 1)
    again = alphabar.sample(tmp_path / "run", 2, steps=3, progress=False)
    assert (again.images == alphabar.sample(model, 2, steps=3, progress=False).images).all()


def test_without_a_recipe_one_is_planned_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys: dict[str, Any] = {"model": {"channels": (8, 8), "groups": 8}, "watch": {"preview_every": 0}}
    alphabar.train(SQUARES, out=tmp_path / "run", images=128, **keys)
    shown = capsys.readouterr().out
    assert shown.startswith("40 images of 8x8x1 without classes; ")
    assert "128 images (" in shown
    assert (tmp_path / "run" / "plan.json").exists()
    stored = resolve(Run(tmp_path / "run").recipe)
    assert (stored.train.images, stored.model.channels) == (128, (8, 8))
    with pytest.raises(FileExistsError, match="already holds a run"):  # before planning
        alphabar.train(SQUARES, out=tmp_path / "run", images=128)
    alphabar.train(SQUARES, out=tmp_path / "run", images=160, resume=True, progress=False)


def test_a_plan_trains_on_the_images_that_it_was_made_for(from_file: tuple[Path, Model], tmp_path: Path) -> None:
    keys = {"train": {"images": 64}, "model": {"channels": (8, 8), "groups": 8}, "watch": {"preview_every": 0}}
    images = alphabar.load(from_file[0] / "squares.npz")
    plan = alphabar.auto_recipe(images, keys=keys)
    assert plan.recipe.data.set == str(from_file[0] / "squares.npz")
    assert alphabar.train(plan, tmp_path / "run", progress=False).image_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "no run folder: write"),
        ({"out": "r"}, TypeError, "no images: write"),
        ({"source": SMALL, "recipe": SMALL, "out": "r"}, TypeError, "two recipes"),
        ({"source": SQUARES, "images": SQUARES, "out": "r"}, TypeError, "images is ndarray: pass the images first"),
        ({"source": SQUARES, "out": "r", "minuts": 3}, ValueError, "alphabar.train: unknown key minuts"),
        ({"source": SQUARES, "out": "r", "train": {"lrr": 3}}, ValueError, "unknown key train.lrr; did you mean 'lr'"),
        ({"source": SQUARES, "out": "r", "minutes": 1, "images": 32}, ValueError, "1 minutes and 32 images"),
        ({"source": SMALL, "out": "r", "minutes": 1, "images": SQUARES}, ValueError, "minutes = 1 is the new length"),
        ({"source": "squares", "labels": [1], "out": "r"}, ValueError, "labels are for images in memory"),
        ({"source": "no/such/set", "out": "r"}, FileNotFoundError, "there is no set no/such/set"),
        ({"source": SQUARES, "out": "r", "resume": True}, FileNotFoundError, "there is no run at r to resume"),
        ({"source": SQUARES, "out": "r", "recipe": "garmens"}, ValueError, "recipe garmens is neither a file"),
    ],
)
def test_refusals(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        alphabar.train(**arguments)
    assert not (tmp_path / "r").exists()
