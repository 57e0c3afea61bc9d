"""Latents on every door of the command line: what shows or scores images takes the images, and the rest is refused by name."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alphabar
from alphabar.cli.main import main
from alphabar.core.run import Run
from alphabar.data.image_set import load
from alphabar.evaluation.hooks import ScoreSamples
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.extractor import read_extractor
from alphabar.sampling.samples import Samples
from alphabar.verbs.autoencoder import encode
from alphabar.verbs.train import train, watching
from tests.denoiser.test_autoencoder import autoencoder
from tests.fixtures.sets import Linear, stripes

COMMON = [
    "--train.images=64", "--train.batch=16", "--model.channels=8", "--model.groups=8", "--model.patch=1",
    "--train.ema-snapshots=4", "--data.holdout=0.3",
]  # fmt: skip
SCORED = ["--extractor", "e.safetensors", "--metrics", "kid"]
SHAPE = (9, 12, 3)
DOORS = {
    "sample": ["sample", "run", "--n", "4", "--steps", "2", "--out", "s.npz"],
    "score": ["score", "run", "--against", "latents:test", "--n", "12", "--steps", "2", "--trained-on", "latents", *SCORED],
    "held out": ["score", "run", "--n", "12", "--steps", "2", *SCORED],
    "checkpoint": ["score", "run/checkpoints/last", "--against", "latents:test", "--n", "12", "--steps", "2", *SCORED],
    "compare": ["compare", "run", "pixels", "--against", "latents:heldout", "--n", "12", "--steps", "2", *SCORED],
    "compare images": ["compare", "run", "pixels", "--against", "images:heldout", "--n", "12", "--steps", "2", *SCORED],
    "sweep": ["sweep", "run", "--against", "latents:test", "--samplers", "ddim", "--calls", "2", "--n", "12", *SCORED],
    "tune": ["tune", "run", "--calls", "2", "--fit", "grid", "--n", "8"],
    "ema": ["ema", "run", "--against", "latents:test", "--lengths", "0.1", "--n", "20", "--steps", "2", *SCORED[:2]],
    "loss": ["loss", "run", "--trained-on", "latents", "--n", "8"],
    "data": ["data", "latents", "--sheet", "sheet.png"],
    "report": ["report", "run", "pixels", "--out", "page.html"],
    "extractor train": [
        *("extractor", "train", "latents", "--epochs", "1", "--batch", "16", "--widths", "4", "--dim", "4"),
        *("--out", "x.safetensors"),
    ],
    "extractor check": ["extractor", "check", "e.safetensors", "--against", "latents:test", "--corruptions", "blur", "--n", "40"],
    "autoencoder check": ["autoencoder", "check", "a.safetensors", "--against", "latents:test"],
    "experiment": ["experiment", "rates.toml", "--out", "rates"],
    "distill": ["distill", "run", "--images", "64", "--batch", "16", "--out", "distilled"],
}  # fmt: skip

LONG = ("held out", "compare images", "sweep", "tune", "ema", "report", "experiment", "distill")
RATES = """
hypothesis = "A higher rate learns faster."
better = "high"
than = "low"
seeds = [0]
recipe = "run/recipe.toml"
budget = {images = 32}
scoring = {against = "latents:test", extractor = "e.safetensors", n = 20, steps = 2}
variants = {high = {train.lr = 1e-3}, low = {train.lr = 1e-4}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, toy_extractor: Any) -> Path:
    """A set, latents of it, a run of either, and an extractor of the images, in one folder."""
    home = tmp_path_factory.mktemp("everywhere")
    (home / "images").mkdir()
    for split, seed in (("train", 0), ("test", 1)):
        found = stripes(100, seed, SHAPE)
        np.savez(home / "images" / f"{split}.npz", images=found.pixels, labels=found.labels)
    autoencoder(channels=3, factor=2).save(home / "a.safetensors")
    toy_extractor.save(home / "e.safetensors")
    (home / "rates.toml").write_text(RATES)
    before = Path.cwd()
    os.chdir(home)
    try:
        encode("images", "a.safetensors", "latents", progress=False)
        for name, images in (("run", "latents"), ("pixels", "images")):
            train(alphabar.resolve("garments", ["--data.set", images, *COMMON]), name, progress=False)
    finally:
        os.chdir(before)
    return home


def run(words: list[str]) -> int:
    try:
        main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("door", [pytest.param(d, marks=pytest.mark.slow(3)) if d in LONG else d for d in DOORS])
def test_a_run_of_latents_and_a_set_of_latents_stand_wherever_images_do(
    home: Path, door: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert run(DOORS[door]) == 0, capsys.readouterr().err
    if door == "sample":
        assert Samples.load(home / "s.npz").images.shape == (4, *SHAPE)
    if door == "extractor train":
        assert read_extractor(home / "x.safetensors").image_shape == (3, 9, 12)
    if door == "distill":
        assert alphabar.sample("distilled", 2, sampler="consistency", steps=1, progress=False).images.shape == (2, *SHAPE)
    if door == "score":  # against the images behind the latents
        row = json.loads(Run(home / "run").scores.read_text().splitlines()[-1])
        assert row["reference"] == ImageEval(Linear(), "images:test", cache=False).real.reference_fingerprint


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["export", "run", "--out", "e"], "the model makes latents, and pipelines of DDPM and DDIM make images"),
        (["score", "latents", "--against", "images:test", *SCORED], "holds latents of a set: give samples of a run"),
        (["tune", "run", "--calls", "2", "--fit", "features"], "this one makes latents: use another --fit"),
        (["loss", "run", "--trained-on", "images"], "holds images: name the folder of latents"),
        (["train", "latents", "--out", "x", "--size", "8"], "holds latents, read as they were encoded"),
    ],
)
def test_what_cannot_work_with_latents_is_refused_by_name(
    home: Path, words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert run(words) == 2
    assert reason in capsys.readouterr().err


def test_the_advice_to_train_an_extractor_can_be_typed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the set as it was typed, never its test split, and the options by which the images were read."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "images", tmp_path / "images")
    np.savez(tmp_path / "s.npz", images=stripes(8, 0, (10, 10, 3)).pixels)
    assert run(["score", "s.npz", "--against", "images:test", "--size", "10", "--fit", "pad"]) == 2
    assert "alphabar extractor train images --out extractor.safetensors --size 10x10 --fit pad" in capsys.readouterr().err


def test_latents_are_trained_on_where_their_images_are_gone_without_the_test_for_copies(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "latents", "latents")
    (tmp_path / "latents" / "private.json").unlink()
    recipe = alphabar.resolve("garments", ["--data.set", "latents", *COMMON, "--watch.copies", "--watch.score-every", "64"])
    hooks, lines = watching(recipe, recipe, load("latents"), Run("run"))
    assert "No test for copies: the images of latents/latents.json cannot be read: there is no set images." in lines
    assert not any(isinstance(hook, ScoreSamples) for hook in hooks)


@pytest.mark.slow(35)
def test_the_whole_way_from_images_to_a_report_on_latents(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An autoencoder of garments is trained, and a model on its latents: its decoded samples are nearer to real garments, by the
    bundled extractor, than those after a quarter of the training, and the report shows them."""
    monkeypatch.chdir(tmp_path)

    def output(*words: str) -> Any:
        assert run([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    network = ["--factor", "2", "--width", "16", "--blocks", "1", "--batch", "16", "--images", "6400"]
    made = output("autoencoder", "train", "fashion_mnist", *network, "--out", "a.safetensors")
    assert made["psnr"]["value"] > 18
    assert output("encode", "fashion_mnist", "--with", "a.safetensors", "--out", "latents")["shape"] == [14, 14, 4]
    keys = ["--recipe", "garments", "--model.channels", "16", "32", "--model.patch", "1", "--train.batch", "32"]
    kid = []
    for images in (1024, 8192):
        assert run(["train", "latents", *keys, "--train.warmup", "256", "--images", str(images), "--out", f"r{images}"]) == 0
        output("sample", f"r{images}", "--n", "200", "--steps", "10", "--out", f"s{images}.npz")
        assert Samples.load(tmp_path / f"s{images}.npz").images.shape == (200, 28, 28, 1)
        rows = output("score", f"s{images}.npz", "--against", "latents:test", "--metrics", "kid")
        kid.append(rows[0]["value"] if isinstance(rows, list) else rows["value"])
    assert kid[1] < 0.8 * kid[0]
    assert run(["report", "r8192", "--out", "page.html"]) == 0
    assert "data:image/png" in (tmp_path / "page.html").read_text()
