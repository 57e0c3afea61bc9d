"""A run gets another length: its weights are those that it had, the rate is continuous, and kills change no bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.core.files import read_jsonl
from alphabar.core.run import Run
from alphabar.training.auto import auto_recipe
from alphabar.training.config import Recipe, TrainRecipe, resolve
from alphabar.training.lengthen import last_state, length_in_images, with_length
from alphabar.training.optim import rate, rate_at
from alphabar.verbs.train import recipe_images, train
from tests.fixtures.training import InterruptAt, assert_same_weights

TINY = (
    "--train.images 128 --train.batch 16 --train.warmup 16 --train.log-every 16 --train.checkpoint-every 48 "
    "--train.heldout-every 64 --watch.preview-every 0 --model.channels 8 --model.groups 8"
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    np.save(
        path := tmp_path_factory.mktemp("set") / "squares.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    )
    return resolve("garments", [*TINY.split(), "--data.set", str(path)])


def of_length(recipe: Recipe, images: int, *earlier: int) -> Recipe:
    return recipe.with_(train={"images": images, "earlier_lengths": earlier})


def stopped(recipe: Recipe, run: Path, at: int, **how: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(recipe, run, progress=False, hooks=[InterruptAt(at)], **how)


@pytest.mark.parametrize("policy", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("at", [320, 640])
def test_the_rate_is_continuous_and_ends_as_it_would(policy: Any, at: int) -> None:
    """Ten times the images per step: 64 steps of the first length, 128 of the second."""
    before = TrainRecipe(images=640, batch=10, warmup=100, policy=policy)
    after = TrainRecipe(images=1280, batch=10, warmup=100, policy=policy, earlier_lengths=(at, 640))
    start = at // 10
    rates = [rate_at(after, step)[0] for step in range(128)]
    assert rates[:start] == [rate_at(before, step)[0] for step in range(start)]
    warm = start + (128 - start) // 10
    assert rates[warm:] == [rate(policy, step, 128, after.lr, warmup=10)[0] for step in range(warm, 128)]
    assert abs(rates[start] - rates[start - 1]) < 0.2 * after.lr, "one step of the way, not all of it"
    twice = TrainRecipe(images=2560, batch=10, warmup=100, policy=policy, earlier_lengths=(at, 640, 900, 1280))
    assert [rate_at(twice, step)[0] for step in range(90)] == rates[:90]


def test_a_finished_run_goes_on_from_its_weights_and_kills_change_no_bit(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("killed", "straight"):
        train(recipe, tmp_path / name, progress=False)
    longer = of_length(recipe, 320)
    train(longer, tmp_path / "straight", resume=True, new_length=True, progress=False)
    stopped(longer, tmp_path / "killed", 144, resume=True, new_length=True)
    assert resolve(tmp_path / "killed/recipe.toml").train.earlier_lengths == (128, 128)
    train(resolve(tmp_path / "killed/recipe.toml"), tmp_path / "killed", resume=True, progress=False)
    train(of_length(recipe, 320, 128, 128), tmp_path / "at_once", progress=False)
    assert_same_weights(tmp_path / "killed", tmp_path / "straight")
    assert_same_weights(tmp_path / "at_once", tmp_path / "straight")
    (event,) = [e for e in read_jsonl(tmp_path / "straight/events.jsonl") if e["event"] == "length"]
    assert (event["images"], event["earlier"], event["now"]) == (128, 128, 320)


def test_a_run_that_ended_before_a_checkpoint_of_its_new_length_is_resumed(recipe: Recipe, tmp_path: Path) -> None:
    """recipe.toml has the new length then, and the checkpoint the old fingerprint. The best one is still known."""
    run = tmp_path / "run"
    train(recipe, run, progress=False)
    before = (run / "checkpoints/last/state.json").read_text()
    longer = with_length(Run(run), resolve(run / "recipe.toml"), 320)
    (run / "recipe.toml").write_text(longer.toml(places=False))
    train(of_length(recipe, 640), run, resume=True, new_length=True, progress=False)
    assert resolve(run / "recipe.toml").train.earlier_lengths == (128, 128), "no step was taken under the length 320"
    assert before != (run / "checkpoints/last/state.json").read_text()


def test_a_stopped_run_gets_another_length_twice(recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(recipe, run, 64)
    stopped(of_length(recipe, 320), run, 160, resume=True, new_length=True)
    train(of_length(recipe, 192), run, resume=True, new_length=True, progress=False)  # shorter is a length, too
    assert resolve(run / "recipe.toml").train.earlier_lengths == (64, 128, 160, 320)
    train(of_length(recipe, 192, 64, 128, 160, 320), tmp_path / "at_once", progress=False)
    assert_same_weights(run, tmp_path / "at_once")


def test_lengths_that_cannot_be_are_refused_with_the_way_out(recipe: Recipe, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    train(recipe, run, progress=False)
    before = (run / "recipe.toml").read_bytes()
    with pytest.raises(ValueError, match=r"has seen 128 images, and 64 is the length of the whole training: .* above 128"):
        train(of_length(recipe, 64), run, resume=True, new_length=True)
    with pytest.raises(ValueError, match=r"train\.images 128, not 640: leave train\.images out .*--images N for another length"):
        train(of_length(recipe, 640), run, resume=True)
    with pytest.raises(ValueError, match=r"--minutes 0\.0001 is the length of the whole training: give more than"):
        train(recipe, run, resume=True, minutes=0.0001)
    with pytest.raises(ValueError, match="new length of a resumed run"):
        train(recipe, tmp_path / "other", minutes=3)
    with pytest.raises(ValueError, match="give pairs"):
        of_length(recipe, 640, 64)
    assert (run / "recipe.toml").read_bytes() == before
    train(recipe, run, resume=True, progress=False)
    assert "is finished; --images N" in capsys.readouterr().err


def test_an_edited_recipe_is_refused_by_the_name_of_the_key(recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(recipe, run, progress=False)
    file = run / "recipe.toml"
    file.write_text(file.read_text().replace("clip = 1.0", "clip = 2.0"))
    with pytest.raises(ValueError, match=r"trained with train\.clip 1\.0, and .*recipe\.toml has 2\.0: write that into"):
        train(resolve(file), run, resume=True, progress=False)


def test_minutes_are_of_the_whole_training_and_the_planned_ones_change_nothing(recipe: Recipe, tmp_path: Path) -> None:
    images, run = recipe_images(recipe), Run(tmp_path / "run")
    keys = {"model": {"channels": (8,), "groups": 8}, "train": {"batch": 16}, "watch": {"preview_every": 0}}
    plan = auto_recipe(images, recipe, keys, minutes=0.01)
    model = train(plan, run.path, images=images, progress=False)
    stored = resolve(run.recipe)
    assert length_in_images(run, stored, images, 0.01) == stored.train.images
    minutes = last_state(run)["seconds"] / 60 + 0.05
    train(stored, run.path, images=images, resume=True, minutes=minutes, progress=False)
    longer = resolve(run.recipe)
    assert longer.train.images > stored.train.images and longer.train.earlier_lengths == (stored.train.images,) * 2
    assert length_in_images(run, longer, images, minutes) == longer.train.images
    assert model.image_shape == (1, 8, 8)
