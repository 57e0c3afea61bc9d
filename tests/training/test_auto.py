"""The recipe that is chosen for a set and a machine: on sets of many kinds, and against what a training then takes."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alphabar
from alphabar.data.image_set import ImageSet
from alphabar.training import auto
from alphabar.training.auto import auto_recipe, network_for
from alphabar.training.config import Recipe, TrainRecipe
from alphabar.training.initial_model import copy_weights, untrained_model
from alphabar.training.intervals import expected_seconds, with_intervals
from alphabar.training.speed import Speed, activation_bytes, bf16_agrees, with_faster
from alphabar.training.stream import Batch


def noise(folder: Path, shape: tuple[int, ...], kind: str = "uint8", labels: bool = False) -> ImageSet:
    rng = np.random.default_rng(0)
    arrays = {"images": rng.integers(0, np.iinfo(kind).max, shape, endpoint=True).astype(kind)} | (
        {"labels": np.arange(shape[0]) % 3} if labels else {}
    )
    np.savez(folder / "noise.npz", **arrays)
    return alphabar.load(folder / "noise.npz", cache=folder, axes="nhwc")


@pytest.mark.parametrize("side", [8, 12, 16, 17, 28, 32, 45, 64, 100, 128, 200, 256])
def test_the_lowest_level_of_the_network_is_3_to_8_pixels_wide(side: int) -> None:
    model = network_for((3, side, side))
    lowest = side / model.patch / 2 ** (len(model.channels) - 1)
    assert 3 <= lowest <= 8
    assert all(side / model.patch / 2**level <= 16 for level in model.attention), "attention at more than 16x16 is slow"


@pytest.mark.parametrize(
    ("shape", "kind", "labels"),
    [((30, 8, 8, 1), "uint8", False), ((40, 13, 21, 3), "uint8", True), ((30, 16, 16, 5), "uint16", False)],
)
def test_every_kind_of_set_gets_a_recipe_that_trains(
    tmp_path: Path, shape: tuple[int, ...], kind: str, labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (8, 16))
    images = noise(tmp_path, shape, kind, labels)
    small = Recipe(train=TrainRecipe(batch=8), data=replace(Recipe().data, set=str(tmp_path / "noise.npz")))
    found = auto_recipe(images, small, {"train": {"images": 24}})
    assert found.recipe.train.images == 24
    assert found.recipe.model.conditional == labels
    assert found.recipe.train.augment > 0, "a small set is augmented"
    assert f"{shape[0]} images of {shape[1]}x{shape[2]}x{shape[3]}" in found.lines()[0]
    model = alphabar.train(found.recipe, tmp_path / "run", images=images, progress=False)
    assert alphabar.sample(model, 2, steps=2, progress=False).images.shape == (2, *shape[1:])
    assert (tmp_path / "run/samples/preview_0000000024.png").exists()


@pytest.mark.parametrize(
    ("minutes", "ways"),
    [
        (1, [("no", True, False)]),
        (10, [("no", False, False), ("no", True, False)]),
        (31, [("no", False, False), ("no", True, False), ("no", False, True)]),  # 12 minutes of compilation do not pay
        (120, [("no", False, True), ("no", False, False), ("no", True, False)]),
    ],
)
def test_long_trainings_measure_the_other_layout_and_compiled_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, ways: list[tuple[str, bool, bool]]
) -> None:
    def measured(recipe: Recipe, images: ImageSet, *rest: Any) -> tuple[Speed, None]:
        keys = recipe.train
        rate = 150.0 if keys.compile else 100.0 if keys.channels_last else 120.0
        return Speed(keys.precision, rate, 1e-3, 100.0, keys.channels_last, keys.compile, 720.0 * keys.compile), None

    monkeypatch.setattr("alphabar.training.speed.measure", measured)
    monkeypatch.setattr("alphabar.training.speed.best_device", lambda: "cpu")
    images, plain = noise(tmp_path, (30, 8, 8, 1)), [Speed("no", 100.0, 1e-3, 100.0)]
    found = with_faster(plain, Recipe(), images, np.arange(30), 60.0 * minutes)
    assert [(s.precision, s.channels_last, s.compile) for s in found] == ways
    best = with_intervals(Recipe(), 60 * minutes * found[0].images_a_second, found[0], 5).train
    assert (best.channels_last, best.compile) == ways[0][1:]


COMPILED = """
import sys
import numpy as np, torch, alphabar
from alphabar.training.auto import network_for
from alphabar.training.config import Recipe, TrainRecipe
from alphabar.training.speed import measure

images = alphabar.load("noise.npz", cache="cache", axes="nhwc")
recipe = Recipe(model=network_for((1, 8, 8), 8), train=TrainRecipe(batch=16, images=64))
speed, _ = measure(recipe.with_(train={"compile": True}), images, np.arange(30))
assert speed.compile and speed.prepare_seconds > 0 and speed.seconds(0) == speed.prepare_seconds
plain, compiled = (
    alphabar.train(recipe.with_(train=keys), str(k), images=images, progress=False).state_dict()
    for k, keys in enumerate([{"compile": False}, speed.keys])
)
for name in plain:
    torch.testing.assert_close(compiled[name], plain[name], rtol=1e-3, atol=1e-4)
"""


@pytest.mark.slow(60)
def test_compiled_code_is_measured_for_one_size_and_trains(tmp_path: Path) -> None:
    """In another process: torch's compiler cannot trace the checks of types that tests add."""
    noise(tmp_path, (30, 8, 8, 1))
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "does not work here" not in done.stderr


def test_minutes_decide_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (8,))
    images = noise(tmp_path, (30, 8, 8, 1))
    found = auto_recipe(images, Recipe(train=TrainRecipe(batch=8)), minutes=2)
    rate = found.speeds[0].images_a_second
    assert 0.8 * rate * 120 < found.recipe.train.images < rate * 120, "the rest for sheets, held-out losses and scores"
    assert 0.9 * 120 < found.seconds < 1.05 * 120, "intervals are whole steps, so that not every length can be met"
    assert found.speeds[0].images_a_second == max(s.images_a_second for s in found.speeds)
    assert found.recipe.train.precision == found.speeds[0].precision


@pytest.mark.parametrize("call", [1e-4, 1e-3, 1e-2, 5e-2])
@pytest.mark.parametrize("minutes", [1, 2, 5, 30])
def test_a_short_training_is_looked_at_less(call: float, minutes: float) -> None:
    """Sheets, held-out losses and scores take at most a quarter of any training; one of half an hour has all of them."""
    speed = Speed("no", 1 / (3.2 * call), call, 100.0)
    length = speed.images_a_second * 60 * minutes
    recipe = with_intervals(Recipe().with_(watch={"copies": True}), length, speed, 600)
    steps = recipe.train.images / speed.images_a_second
    assert expected_seconds(recipe, speed, 600) < 1.25 * steps
    assert recipe.train.heldout_every * 24 >= recipe.train.images
    assert minutes < 30 or (recipe.train.heldout_every * 7 <= recipe.train.images and recipe.watch.score_every)
    fixed = recipe.with_(watch={"preview_n": 64, "heldout_n": 512}, train={"heldout_every": recipe.train.images // 24})
    assert call < 1e-2 or minutes > 2 or expected_seconds(fixed, speed, 600) > 1.5 * steps, "what a long training has"


def test_the_default_budget_grows_with_the_root_of_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (8,))
    monkeypatch.setattr("alphabar.training.speed.COMPILED_FROM", math.inf)
    images = noise(tmp_path, (100, 8, 8, 1))
    found = auto_recipe(images, Recipe(train=TrainRecipe(batch=8)))
    assert found.recipe.train.images == pytest.approx(4200 * found.trained_on**0.5, abs=508)
    watch, train = found.recipe.watch, found.recipe.train
    assert 0 < watch.preview_first <= watch.preview_every <= train.images
    assert train.checkpoint_every <= train.images / 4
    assert train.warmup <= train.images / 10


def test_less_memory_means_parts_of_batches_then_recomputed_activations_then_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (16,))
    images = noise(tmp_path, (30, 32, 32, 1))
    recipe = replace(Recipe(), model=replace(network_for((1, 32, 32), 16), conditional=False))
    model = untrained_model(recipe, images)
    each, least = activation_bytes(model, recompute=False), activation_bytes(model, recompute=True)
    assert least < 0.6 * each

    def given(free: float) -> tuple[int, bool]:
        monkeypatch.setattr(auto, "free_memory", lambda: free / auto.MEMORY_SHARE)
        train = auto_recipe(images, Recipe(), {"train": {"images": 64, "batch": 64}}).recipe.train
        return train.accumulate, train.recompute

    assert given(65 * each) == (1, False)
    assert given(33 * each) == (2, False)
    accumulate, recompute = given(5 * least)
    assert recompute and accumulate >= 16
    with pytest.raises(ValueError, match=r"for a single image, .*: --size 16x16 would fit"):
        given(0.5 * least)


@pytest.mark.parametrize(
    ("total", "device", "batch", "accumulate"),
    [(1e6, "cpu", 64, 4), (500_000, "cpu", 32, 2), (250_000, "cpu", 16, 1), (100, "cpu", 16, 1), (100, "cuda", 64, 4)],
)
def test_short_trainings_on_a_cpu_take_smaller_batches_and_so_more_steps(
    monkeypatch: pytest.MonkeyPatch, total: float, device: str, batch: int, accumulate: int
) -> None:
    monkeypatch.setattr(auto, "best_device", lambda: device)
    train = auto._in_steps(Recipe(train=TrainRecipe(accumulate=4)), total).train
    assert (train.batch, train.accumulate) == (batch, accumulate)
    assert auto._in_steps(Recipe(train=TrainRecipe(batch=8)), total).train.batch == 8


@pytest.mark.parametrize(
    ("shape", "keys", "words"),
    [
        ((1, 9, 20, 1), {}, ["1 image of 9x20x1 without classes; none is held out (25% by content).", " passes)"]),
        ((4, 8, 8, 2), {"data": {"holdout": 0.3}}, ["4 images of 8x8x2 without classes; 1 is held out (30% by content)."]),
        ((30, 8, 8, 1), {"train": {"images": 3}}, ["8 images (0.3 passes)"]),
        ((30, 40, 16, 1), {"train": {"images": 24}}, ["attention at 10x4"]),
        ((8, 8, 128, 1), {"train": {"images": 3}}, ["alphabar autoencoder train SET"]),
    ],
)
def test_the_plan_is_in_words_that_are_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], keys: dict[str, Any], words: list[str]
) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (8,))
    monkeypatch.setattr(
        "alphabar.training.speed.measure",
        lambda r, i, *rest: (Speed(r.train.precision, 4321.0, 1e-5, 512.0), untrained_model(r, i)),
    )
    text = "\n".join(auto_recipe(noise(tmp_path, shape), Recipe(train=TrainRecipe(batch=8)), keys).lines())
    for one in (*words, "4,321 images/s", "About 0.5 GiB"):
        assert one in text, text
    assert ("as latents" in text) == (max(shape[1:3]) >= 128)


@pytest.mark.parametrize(("side", "channels"), [(128, 3), (128, 12), (64, 8), (20, 64)])
def test_a_planned_network_has_room_for_every_value_of_a_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, channels: int
) -> None:
    monkeypatch.setattr(
        "alphabar.training.speed.measure",
        lambda r, i, *rest: (Speed(r.train.precision, 1e-6, 1e-5, 512.0), untrained_model(r, i)),  # so slow: the narrowest
    )
    model = auto_recipe(noise(tmp_path, (4, side, side, channels)), Recipe(train=TrainRecipe(batch=4)), minutes=1).recipe.model
    assert model.channels[0] > channels * model.patch**2


def test_classes_copies_and_depth_are_in_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (8,))
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (30, 8, 8, 1)).astype(np.uint16)
    pixels[1] = pixels[0]
    small = Recipe(train=TrainRecipe(batch=8))
    lines = [
        auto_recipe(alphabar.load(pixels, labels=labels, size=size), small, {"train": {"images": 8}}).lines()[0]
        for labels, size in ((np.zeros(30, np.int64), None), (np.arange(30) % 2, "6"))
    ]
    assert lines[0].startswith("30 images of 8x8x1 (16 bit) in 1 class; 1 is a copy of another; ")
    assert lines[1].startswith("30 images of 6x6x1 (16 bit, crop to 6x6) in 2 classes; 1 is a copy of another; ")


@pytest.mark.parametrize("more", [0.0, 0.3, 1.0], ids=["as many operations a second", "wide ones more", "GPU: equal times"])
def test_the_widest_network_that_is_fast_enough_is_found(more: float) -> None:
    """Networks whose operations a second grow with a power of their size: as if each of them had been measured."""
    gflops = [0.5, 1.1, 2.0, 4.5, 8.0]
    rates = [100.0 / (g / 0.5) ** (1 - more) for g in gflops]
    for wanted in (5.0, 9.0, 30.0, 70.0, 99.0, 200.0):
        found, k = dict[int, list[Speed]](), 0
        while k not in found:
            found[k] = [Speed("no", rates[k], 0.0, 0.0)]
            k = auto._widest(gflops, found, wanted)
        assert k == max((i for i, rate in enumerate(rates) if rate >= wanted), default=0)
        assert len(found) <= 3, "the narrowest, the middle one and the one that is taken"


def test_where_the_widest_network_does_not_fit_a_narrower_one_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(tmp_path, (30, 32, 32, 1))
    needed = [
        activation_bytes(untrained_model(replace(Recipe(), model=network_for((1, 32, 32), width)), images), recompute=True)
        for width in (8, 64)
    ]
    monkeypatch.setattr(auto, "WIDTHS", (8, 64))
    monkeypatch.setattr(auto, "free_memory", lambda: sum(needed) / 2 / auto.MEMORY_SHARE)
    assert auto_recipe(images, Recipe(), {"train": {"images": 64}}).recipe.model.channels[0] == 8


def test_activations_are_counted_as_they_grow_in_memory(tmp_path: Path) -> None:
    """The count for one image, times the batch, is what autograd keeps for a batch."""
    images = noise(tmp_path, (4, 32, 32, 1))
    model = untrained_model(replace(Recipe(), model=network_for((1, 32, 32), 16)), images)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.zeros(8, 1, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model.loss(x, torch.ones(8), x).sum()
    assert sum(size for place, size in kept.items() if place not in weights) == pytest.approx(
        8 * activation_bytes(model, recompute=False), rel=0.15
    )


class Cancelling(torch.nn.Module):
    """A convolution plus 1000 minus 1000: bfloat16 keeps three digits of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.layer.bias.data.fill_(1000.0)

    def forward(self, y: torch.Tensor, t: torch.Tensor, *rest: object) -> torch.Tensor:
        return self.layer(y) - 1000


def test_bfloat16_is_refused_where_its_gradients_differ(tmp_path: Path) -> None:
    images = noise(tmp_path, (8, 16, 16, 1))
    model = untrained_model(replace(Recipe(), model=network_for((1, 16, 16), 16)), images)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    batch = Batch(images.pixels, torch.full((8,), 0.5), torch.randn(8, 1, 16, 16))
    assert bf16_agrees(model, batch)
    model.network = Cancelling()
    assert not bf16_agrees(model, batch)


def test_keys_set_by_hand_are_kept(tmp_path: Path) -> None:
    images = noise(tmp_path, (30, 8, 8, 1))
    keys = {"model": {"channels": (8, 8)}, "train": {"images": 40, "batch": 8, "lr": 7e-4, "augment": 0.0}, "track": ("trackio",)}
    recipe = auto_recipe(images, Recipe(), keys).recipe
    assert recipe == recipe.with_(**keys)
    assert recipe.model.patch == 1, "what is not set by hand is chosen"


@pytest.mark.parametrize(
    ("keys", "optimizer", "lr"),
    [({}, "muon", 4e-3), ({"optimizer": "adamw"}, "adamw", 2e-3), ({"parallel": "fsdp"}, "adamw", 2e-3)],
)
def test_muon_is_planned_where_it_works(keys: dict[str, Any], optimizer: str, lr: float, tmp_path: Path) -> None:
    images = noise(tmp_path, (30, 8, 8, 1))
    keys = {"model": {"channels": (8, 8)}, "train": {"images": 40, "batch": 8} | keys}
    train = auto_recipe(images, Recipe(), keys).recipe.train
    assert (train.optimizer, train.lr) == (optimizer, lr)


def test_fine_tuning_takes_the_network_of_the_initial_model(tmp_path: Path) -> None:
    images = noise(tmp_path, (30, 28, 28, 1))
    found = auto_recipe(images, Recipe(), {"train": {"images": 64, "init_from": "bundled"}})
    bundled = alphabar.load_model("bundled")
    assert copy_weights(untrained_model(found.recipe, images), "bundled") == bundled.fingerprint  # refuses another network


@pytest.mark.parametrize(
    ("keys", "minutes", "words"),
    [
        ({"train": {"images": 64}}, 3.0, "give one of the two"),
        ({}, 0.0, "more than 0"),
        ({}, float("nan"), "more than 0"),
        ({"train": {"lrr": 1}}, None, "unknown key train.lrr; did you mean 'lr'"),
        ({"trian": {"lr": 1}}, None, "unknown key trian"),
    ],
)
def test_keys_that_make_no_recipe_are_refused(keys: dict[str, Any], minutes: float | None, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        auto_recipe(noise(tmp_path, (30, 8, 8, 1)), Recipe(), keys, minutes=minutes)


def test_the_network_of_diffusers_is_not_augmented(tmp_path: Path) -> None:
    keys = {"model": {"network": "unet2d", "channels": (16, 16), "groups": 8}, "train": {"images": 8, "batch": 8}}
    assert auto_recipe(noise(tmp_path, (30, 8, 8, 1)), Recipe(), keys).recipe.train.augment == 0


def test_a_small_set_is_scored_tested_for_copies_and_stopped_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "WIDTHS", (8,))
    images = noise(tmp_path, (400, 8, 8, 1))
    found = auto_recipe(images, Recipe(train=TrainRecipe(batch=8)), {"train": {"images": 80_000}})
    recipe, call = found.recipe, found.speeds[0].call_seconds
    assert recipe.data.holdout == 0.25 and "held out (25% by content)" in found.lines()[0]
    assert recipe.train.early_stop and recipe.watch.copies
    scores = recipe.train.images // recipe.watch.score_every
    assert scores * recipe.watch.score_n * recipe.watch.preview_steps * call <= 0.1 * found.seconds
    by_hand = auto_recipe(images, Recipe(), {"train": {"images": 64, "early_stop": False}, "data": {"holdout": 0.1}})
    assert (by_hand.recipe.data.holdout, by_hand.recipe.train.early_stop, by_hand.recipe.watch.score_every) == (0.1, False, 0)
    assert any(line.startswith("No scores during training") for line in by_hand.lines())
