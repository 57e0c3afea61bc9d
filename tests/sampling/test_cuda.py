"""On a GPU: the same images as on the CPU, every way of running a call, trainings, scores and fits. Skipped without one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alphabar.core.files import read_jsonl
from alphabar.core.machine import best_device
from alphabar.core.run import Run
from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.runtime.fast_model import speed_up
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.load import load_extractor
from alphabar.fitting.options import TuneOptions
from alphabar.sampling.sample import sample
from alphabar.training.checkpoint import load_checkpoint, load_model
from alphabar.training.loop import train
from alphabar.verbs.tune import tune
from tests.fixtures.runs import untrained_extractor
from tests.fixtures.training import small_model, small_recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 keeps ten bits of what is multiplied: off, so that sums alone differ."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    g = np.random.default_rng(0)
    return g.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8) // 2 + np.arange(8, dtype=np.uint8)[None, None, :, None] * 16


def test_the_bundled_model_draws_the_images_of_the_cpu() -> None:
    for sampler, steps in (("ddim", 10), ("ddpm", 20), ("tuned", 5), ("unipc", 8)):
        here = sample(load_model("bundled"), 8, sampler=sampler, steps=steps, progress=False)
        there = sample(load_model("bundled").to(GPU), 8, sampler=sampler, steps=steps, batch=3, progress=False)
        off = np.abs(here.images.astype(int) - there.images.astype(int))
        assert off.max() <= 1 and (off > 0).mean() < 0.01, sampler
        assert there.record["device"].startswith("cuda")


@pytest.mark.parametrize("method", ["eager", "channels_last", "cuda_graphs", "compile", "auto"])
def test_every_way_of_running_a_call(method: str) -> None:
    model = load_model("bundled").to(GPU)
    wanted = sample(model, 70, steps=5, batch=64, progress=False)
    got = sample(model, 70, steps=5, batch=64, fast=method, progress=False)
    off = np.abs(got.images.astype(int) - wanted.images.astype(int))
    assert off.max() <= 1 and (off > 0).mean() < 0.01
    if method != "auto":
        assert got.record["fast"]["method"] == method


def test_a_recorded_call_holds_its_weights_and_leaves_its_answers_alone() -> None:
    model = load_model("bundled").to(GPU)
    fast = speed_up(model, "cuda_graphs", batch=16)
    x, sigma = torch.randn(16, *model.image_shape, device=GPU), torch.rand(16, device=GPU) + 0.1
    with torch.no_grad():
        wanted = model(x, sigma)
    torch.cuda.empty_cache()
    junk = [torch.full((1 << 20,), math.nan, device=GPU) for _ in range(64)]  # over whatever was let go
    first = fast(x, sigma)
    fast(-x, sigma)
    assert torch.allclose(first, wanted, atol=1e-4) and len(junk) == 64


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"optimizer": "muon"}, {"ema_snapshots": 2}, {"accumulate": 2}])
def test_a_training_falls_and_nearly_repeats(changes: dict[str, object], pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    recipe = small_recipe(images=256, **changes)
    run = Run(tmp_path / "gpu")
    train(small_model(), pixels, np.arange(180), recipe, run, heldout=pixels[180:], progress=False)
    losses = [e["loss"] for e in read_jsonl(run.events) if e["event"] == "loss"]
    assert all(math.isfinite(v) for v in losses) and losses[-1] < losses[0]
    second = Run(tmp_path / "again")
    train(small_model(), pixels, np.arange(180), recipe, second, progress=False)
    again = [e["loss"] for e in read_jsonl(second.events) if e["event"] == "loss"]
    assert again == pytest.approx(losses, rel=2e-2)  # not the same bits: some backward passes add in any order
    assert load_checkpoint(run.checkpoint()).state["images"] == 256


def test_dropout_and_classes_on_the_gpu(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    recipe = ModelRecipe(channels=(16, 16), embedding=16, conditional=True, dropout=0.2)
    model = build(recipe, {"kind": "cosine"}, (1, 8, 8), 0, classes=("a", "b"), augment=9)
    training = small_recipe(images=128, augment=0.3)
    made = train(model, pixels, np.arange(180), training, Run(tmp_path / "r"), labels=np.arange(200) % 2, progress=False)
    drawn = sample(made.to(GPU), 6, steps=4, classes=[0, 1], guidance=2.0, progress=False)
    assert drawn.images.shape == (6, 8, 8, 1) and drawn.record["nfe"] == 8


def test_features_are_those_of_the_cpu() -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), dtype=np.uint8)
    extractor = load_extractor("bundled")
    there = extractor.features(images)
    here = extractor.to("cpu").features(images)
    assert best_device() == "cuda" and torch.allclose(there, here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fit", ["grid", "solver", "images", "features"])
def test_a_fit_on_the_gpu(fit: str, pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(small_model(), pixels, np.arange(180), small_recipe(images=256), Run("run"), progress=False)
    np.save("real.npy", pixels)
    untrained_extractor(0).save("fit.safetensors")
    untrained_extractor(1).save("heldout.safetensors")
    more = (
        {"against": "real.npy", "extractor": "fit.safetensors", "heldout_extractor": "heldout.safetensors"}
        if fit == "features"
        else {}
    )
    options = TuneOptions(n=16, n_heldout=64, rounds=1, steps=2, batch=32, remember=128)
    (made,) = tune("run", [3], options, fit=fit, progress=False, **more)
    assert made.path.exists() and all(math.isfinite(v) for v in made.distance.values())


def test_a_score_of_samples_from_the_gpu(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    untrained_extractor(0).save(tmp_path / "extractor.safetensors")
    from alphabar.data.image_set import load

    np.save(tmp_path / "real.npy", pixels)
    evaluator = ImageEval(str(tmp_path / "extractor.safetensors"), load(str(tmp_path / "real.npy"), "train"), progress=False)
    drawn = sample(small_model().to(GPU), 100, steps=3, progress=False)
    assert all(math.isfinite(s.value) for s in evaluator.measure(drawn.images, drawn.record, ("fid", "kid")).scores.values())
