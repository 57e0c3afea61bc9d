"""Recipes: what is read and written, which keys decide the fingerprint, and what is refused."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from alphabar.core.files import read_jsonl
from alphabar.sampling.sample import sample
from alphabar.training.config import Recipe, resolve, shipped
from alphabar.verbs.train import train

# Fingerprints of commit 4f58efb for images "x". A run can only be resumed while they stay the same.
FINGERPRINTS = {
    "cifar10": "96d65410cb4e0601", "ddpm_v2": "a948e2cf207a19a5", "ddpm_v3": "754c2c03f698e9db", "edm": "b5b815afe155171e",
    "flow": "231e8a5125031fbe", "garments": "bd51393946f6b581",
}  # fmt: skip


@pytest.mark.parametrize("name", shipped())
def test_a_resolved_recipe_reads_back_equal(name: str, tmp_path: Path) -> None:
    recipe = resolve(name)
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.toml())
    assert resolve(file) == recipe
    assert resolve(file).fingerprint("x") == recipe.fingerprint("x") == FINGERPRINTS[name]
    assert set(tomllib.loads(recipe.toml())) == {"data", "model", "schedule", "train", "watch", "track"}


def test_keys_that_were_added_later_count_only_when_they_are_set() -> None:
    assert Recipe().fingerprint("x") == "723b464d04bad8f4"
    tokens = "--train.init-from bundled --train.gamma 3 --train.parallel fsdp --model.conditional --data.range 0 9"
    assert resolve("garments", tokens.split()).fingerprint("x") == "26c69056845db5d7"


def test_a_recipe_with_an_old_key_opens(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(resolve("garments", ["--train.init-from", "bundled"]).toml().replace("init_from", "begin"))
    assert resolve(file) == resolve("garments", ["--train.init-from", "bundled"])


def test_the_first_line_of_a_shipped_recipe_says_what_it_costs() -> None:
    for path in shipped().values():
        assert path.read_text().startswith("# ")


def test_the_lessons_recipes_have_the_lessons_settings() -> None:
    v2, v3 = resolve("ddpm_v2"), resolve("ddpm_v3")
    assert (v2.model.channels, v2.model.groups, v2.data.pad) == ((16, 32, 64, 128), 8, 2)
    assert (v2.schedule.beta_max, v2.schedule.steps, v2.train.batch, v2.train.lr, v2.train.eps) == (0.02, 1000, 512, 1e-2, 1e-5)
    assert (v2.train.policy, v2.train.optimizer, v2.model.init) == ("one_cycle", "adam", "lesson")
    assert (v3.model.channels, v3.model.data_range) == ((32, 64, 128, 256), 0.5)
    assert (v3.schedule.beta_max, v3.train.optimizer) == (0.01, "adamw")


def test_every_key_can_be_set_on_the_command_line() -> None:
    recipe = resolve("garments", ["--train.lr", "1e-3", "--model.channels", "8", "16", "--model.attention", "1"])
    assert (recipe.train.lr, recipe.model.channels, recipe.model.attention) == (1e-3, (8, 16), (1,))
    assert replace(recipe, model=resolve("garments").model, train=resolve("garments").train) == resolve("garments")


def test_a_misspelt_key_is_refused_with_the_most_similar_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--train\.lrr.*Did you mean --train\.lr"):
        resolve("garments", ["--train.lrr", "1e-3"])
    file = tmp_path / "bad.toml"
    for text, message in (
        ("[train]\nlrr = 1\n", r"unknown key train\.lrr; did you mean 'lr'\?"),
        ("[train]\nlr = 'fast'\n", "fast"),
        ("train = 3\n", r"write \[train\]"),
        ("train", "is not a TOML file"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            resolve(file)
    with pytest.raises(ValueError, match="neither a file nor one of cifar10, ddpm_v2, ddpm_v3, edm, flow, garments"):
        resolve("garment")


def test_keys_that_change_no_weight_do_not_change_the_fingerprint() -> None:
    recipe = Recipe()
    watched = replace(recipe, watch=replace(recipe.watch, preview_every=1))
    trained = replace(recipe, train=replace(recipe.train, lr=1.0))
    assert recipe.fingerprint("x") == watched.fingerprint("x") != trained.fingerprint("x")
    assert recipe.fingerprint("x") != recipe.fingerprint("y")


SMALL = "--train.images 16 --train.batch 8 --train.log_every 8 --watch.preview_every 0 --watch.score_every 0"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm_v2", "ddpm_v3"])
def test_the_lessons_recipes_train(name: str, small_data: Path, tmp_path: Path) -> None:
    """Whole networks, two steps of eight images. The first loss is the variance of eps, since the last convolution is zero."""
    pytest.importorskip("diffusers")
    model = train(resolve(name, SMALL.split()), tmp_path / "run", progress=False)
    losses = [e["loss"] for e in read_jsonl(tmp_path / "run/events.jsonl") if e["event"] == "loss"]
    assert losses[0] == pytest.approx(1.0, abs=0.1)
    assert len(losses) == 2
    assert model.image_shape == (1, 32, 32)
    samples = sample(model, 2, sampler="ddpm", steps=2, progress=False)
    assert samples.images.shape == (2, 28, 28, 1)
    assert model.data_range == {"ddpm_v2": 1.0, "ddpm_v3": 0.5}[name]
