"""`distill`: images of two kinds come out of one network call; the run that it makes; and what it refuses."""

import numpy as np
import pytest

import alphabar
from alphabar.cli.main import main
from alphabar.training.config import resolve
from alphabar.verbs.distill import distill, distilled_recipe
from alphabar.verbs.options import DistillOptions
from tests.fixtures.runs import untrained_extractor

SMALL = {"channels": (32,), "groups": 8, "embedding": 32, "patch": 8}


def trained(folder, images):
    """A run of dark and bright flat images of 8x8."""
    kinds = np.random.default_rng(0).choice([40, 215], 512).astype(np.uint8)
    np.save(folder / "flat.npy", np.broadcast_to(kinds[:, None, None, None], (512, 8, 8, 1)))
    recipe = alphabar.Recipe.named("garments").with_(
        data={"set": str(folder / "flat.npy"), "holdout": 0.0}, model=SMALL, watch={"preview_every": 0, "score_every": 0},
        train={"images": images, "lr": 3e-3, "warmup": 640, "ema_half_life": 1000.0, "heldout_every": 0},
    )  # fmt: skip
    alphabar.train(recipe, folder / "run", progress=False)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("flat"), 640)


def far_from_both(samples):
    """Mean distance of the pixels from the nearer of the two kinds."""
    pixels = samples.images.astype(float)
    return float(np.minimum(abs(pixels - 40), abs(pixels - 215)).mean())


@pytest.mark.slow(15)
def test_one_call_of_the_tuned_model_gives_either_kind_and_of_the_untuned_one_their_mean(tmp_path):
    run = trained(tmp_path, 12_800)
    tuned = distill(run, images=12_800, lr=2e-3, q=(4.0, 8.0, 16.0), progress=False)
    untuned = far_from_both(alphabar.sample(alphabar.load_model(run), 200, steps=1, progress=False))
    drawn = alphabar.sample(tuned, 200, steps=1, progress=False)
    assert far_from_both(drawn) < untuned / 3
    bright = (drawn.images.mean((1, 2, 3)) > 128).mean()
    assert 0.25 < bright < 0.75  # 0.5 of the images, and both kinds are drawn


def test_the_tuned_run_stands_in_the_run_and_is_drawn_by_name(run, tmp_path, capsys):
    main_ok(["distill", str(run), "--images", "256", "--q", "4", "--out", str(tmp_path / "tuned")])
    assert f"alphabar sample {tmp_path / 'tuned'} --steps 2" in capsys.readouterr().out
    stored = alphabar.load_model(tmp_path / "tuned")
    assert stored.consistency and stored.fingerprint != alphabar.load_model(run).fingerprint
    with pytest.raises(ValueError, match="is a distilled model"):
        distill(tmp_path / "tuned")
    with pytest.raises(FileExistsError, match="--resume"):
        distill(run, tmp_path / "tuned", images=256, progress=False)


def test_the_second_stage_goes_on_from_the_bundled_distilled_model():
    recipe = distilled_recipe("bundled/distilled", DistillOptions(like=("a.safetensors", "b.safetensors"), q=(8.0, 64.0)))
    assert recipe.train.init_from == "bundled/distilled" and recipe.train.consistency == (64.0,)
    assert recipe.data.set == "fashion_mnist" and recipe.train.drawn_like == ("a.safetensors", "b.safetensors")
    with pytest.raises(ValueError, match="is a distilled model: give the run that it was made from, or --like"):
        distilled_recipe("bundled/distilled")


def test_sampler_distilled_draws_from_the_tuned_run(run, tmp_path):
    distill(run, images=64, q=(4.0,), progress=False, resume=(run / "distilled").exists())
    main_ok(["sample", str(run), "--sampler", "distilled", "--steps", "2", "--n", "2", "--out", str(tmp_path / "two.npz")])
    record = alphabar.Samples.load(tmp_path / "two.npz").record
    assert (record["sampler"], record["nfe"]) == ("consistency", 2)


def test_refusals_come_before_anything_is_written(run, tmp_path):
    with pytest.raises(ValueError, match="--out runs/distilled"):
        distill("bundled")
    with pytest.raises(ValueError, match="holds other images than those"):
        distill(run, tmp_path / "other", image_set=alphabar.load(np.zeros((40, 8, 8, 1), np.uint8)))
    assert not (tmp_path / "other").exists()


def main_ok(words):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert not end.value.code


def test_the_second_stage_is_of_a_distilled_run_and_by_extractors_with_gradients(run, tmp_path, capsys):
    files = [tmp_path / f"{k}.safetensors" for k in range(2)]
    for k, file in enumerate(files):
        untrained_extractor(k).save(file)
    first, like = distill(run, tmp_path / "first", images=64, q=(4.0, 8.0), progress=False), tuple(map(str, files))
    with pytest.raises(ValueError, match="is not distilled"):
        distill(run, tmp_path / "no", images=64, like=like, progress=False)
    with pytest.raises(ValueError, match="names an extractor twice"):
        distill(tmp_path / "first", tmp_path / "no", images=64, like=like[:1] * 2, progress=False)
    main_ok(["distill", str(tmp_path / "first"), "--like", *like, "--images", "128", "--q", "8"])
    assert f"alphabar sample {tmp_path / 'first'} --sampler distilled" in capsys.readouterr().out
    second = tmp_path / "first" / "distilled"
    recipe = resolve(second / "recipe.toml").train
    assert (recipe.drawn_like, recipe.consistency, recipe.lr) == (like, (8.0,), 3e-5)
    assert alphabar.load_model(second).fingerprint != first.fingerprint
    assert not (tmp_path / "no").exists()
