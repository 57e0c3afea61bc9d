import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from alphabar.core.files import read_jsonl
from alphabar.sampling.sample import sample
from alphabar.training.config import Recipe, resolve, shipped
from alphabar.verbs.train import train


@pytest.mark.parametrize("name", shipped())
def test_a_resolved_recipe_reads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = resolve(name)
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.toml())
    assert resolve(file) == recipe
    assert resolve(file).fingerprint("x") == recipe.fingerprint("x")
    assert set(tomllib.loads(recipe.toml())) == {"data", "model", "schedule", "train", "watch", "track"}


def test_first_line_of_a_shipped_recipe_says_what_it_costs() -> None:
    for path in shipped().values():
        assert path.read_text().startswith("# ")


def test_the_lessons_recipes_are_the_lessons() -> None:
    v2, v3 = resolve("ddpm_v2"), resolve("ddpm_v3")
    assert (v2.model.channels, v2.model.groups, v2.data.pad) == ((16, 32, 64, 128), 8, 2)
    assert (v2.schedule.beta_max, v2.schedule.steps, v2.train.batch, v2.train.lr, v2.train.eps) == (0.02, 1000, 512, 1e-2, 1e-5)
    assert (v2.train.policy, v2.train.optimizer, v2.model.init) == ("one_cycle", "adam", "lesson")
    assert (v3.model.channels, v3.schedule.beta_max, v3.model.data_range, v3.train.optimizer) == (
        (32, 64, 128, 256),
        0.01,
        0.5,
        "adamw",
    )


def test_every_key_can_be_typed() -> None:
    recipe = resolve("garments", ["--train.lr", "1e-3", "--model.channels", "8", "16", "--model.attention", "1"])
    assert recipe.train.lr == 1e-3
    assert recipe.model.channels == (8, 16)
    assert recipe.model.attention == (1,)
    assert replace(recipe, model=resolve("garments").model, train=resolve("garments").train) == resolve("garments")


def test_a_misspelt_key_dies_with_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--train\.lrr.*Did you mean --train\.lr"):
        resolve("garments", ["--train.lrr", "1e-3"])
    file = tmp_path / "bad.toml"
    file.write_text("[train]\nlrr = 1\n")
    with pytest.raises(ValueError, match=r"unknown key train\.lrr; did you mean train\.lr\?"):
        resolve(file)
    file.write_text("[train]\nlr = 'fast'\n")
    with pytest.raises(ValueError, match="fast"):
        resolve(file)
    file.write_text("train = 3\n")
    with pytest.raises(ValueError, match=r"write \[train\]"):
        resolve(file)
    with pytest.raises(ValueError, match="neither a file nor one of cifar10, ddpm_v2, ddpm_v3, edm, flow, garments"):
        resolve("garment")


def test_what_is_only_watched_does_not_change_the_fingerprint() -> None:
    recipe = Recipe()
    watched = replace(recipe, watch=replace(recipe.watch, preview_every=1))
    trained = replace(recipe, train=replace(recipe.train, lr=1.0))
    assert recipe.fingerprint("x") == watched.fingerprint("x") != trained.fingerprint("x")
    assert recipe.fingerprint("x") != recipe.fingerprint("y")


@pytest.mark.parametrize("name", ["ddpm_v2", "ddpm_v3"])
def test_the_lessons_recipes_train(name: str, small_data: Path, tmp_path: Path) -> None:
    """Whole networks, two steps of eight images: the loss is that of a network that says nothing yet, then less."""
    pytest.importorskip("diffusers")
    small = [
        "--train.images",
        "16",
        "--train.batch",
        "8",
        "--train.log_every",
        "8",
        "--watch.preview_every",
        "0",
        "--watch.score_every",
        "0",
    ]
    recipe = resolve(name, small)
    model = train(recipe, tmp_path / "run", progress=False)
    losses = [e["loss"] for e in read_jsonl(tmp_path / "run/events.jsonl") if e["event"] == "loss"]
    assert losses[0] == pytest.approx(1.0, abs=0.1)  # eps has variance 1, and the last convolution starts at zero
    assert len(losses) == 2
    assert model.image_shape == (1, 32, 32)
    samples = sample(model, 2, sampler="ddpm", steps=2, progress=False)
    assert samples.images.shape == (2, 28, 28, 1)
    assert model.data_range == {"ddpm_v2": 1.0, "ddpm_v3": 0.5}[name]
