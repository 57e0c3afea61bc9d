"""The demo with a network and an extractor so small that it takes seconds, and a short one with the bundled files."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.core.machine import machine
from alphabar.denoiser.model import Model, build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import Score
from alphabar.features.classifier import Classifier
from alphabar.features.extractor import BUNDLED as BUNDLED_EXTRACTOR
from alphabar.features.extractor import Extractor
from alphabar.report.demo_page import intervals_in_words, table, write_demo
from alphabar.report.words import bracket, kid, sig
from alphabar.results.demo import SETTINGS, Demo, DemoResult, DemoSetting
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import BUNDLED as BUNDLED_MODEL
from alphabar.verbs import demo as demo_module
from alphabar.verbs.demo import as_image_set, bundled_images, demo
from tests.report.test_page import Page, fetches_nothing

SMALL = (
    DemoSetting("ddpm", 12),
    DemoSetting("ddpm", 12, plan="every(3, last=2)"),
    DemoSetting("ddim", 2, scored=True),
    DemoSetting("ddim", 4, scored=True),
    DemoSetting("ddim", 4, 1.0, scored=True),
)
CALLS = [12, 6, 2, 4, 4]  # every(3, last=2) of 12: steps 0 3 6 9 10 11


@pytest.fixture(scope="module")
def model() -> Model:
    recipe = ModelRecipe(channels=(8,), blocks=1, groups=4, embedding=16)
    return build(recipe, {"kind": "cosine"}, (1, 8, 8)).eval()


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    architecture: dict[str, Any] = {"in_channels": 1, "widths": [4], "dim": 6, "classes": 2}
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        network = Classifier(**architecture)
    network.fold()
    return Extractor("tiny", architecture, network.state_dict(), image_shape=(1, 8, 8))


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "MEASURE", 0.0)
    monkeypatch.setattr(demo_module, "WORK", 0)  # too little to find out whether bfloat16 is faster


@pytest.fixture
def small(model: Model, extractor: Extractor, images: Any) -> dict[str, Any]:
    return {"model": model, "extractor": extractor, "images": images, "settings": SMALL, "n": 20, "few": 3, "device": "cpu"}


def test_page_results_and_table(small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = demo(out=tmp_path / "demo", **small)
    assert path == tmp_path / "demo" / "index.html"
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert results["finished"]
    assert results["machine"]["cpu"] == machine()["cpu"]
    assert [s["record"]["nfe"] for s in results["settings"]] == CALLS  # as counted, not as asked for
    assert [s["record"]["n"] for s in results["settings"]] == [3, 3, 20, 20, 20]
    assert {s["record"]["seed"] for s in results["settings"]} == {0}
    assert [len(s["scores"]) for s in results["settings"]] == [0, 0, 2, 2, 2]

    # the scores are those of the samples that lie beside the page, against one half of the images
    evaluator = ImageEval(small["extractor"], small["images"])
    made = Samples.load(tmp_path / "demo" / "samples" / "ddim_4_eta_1.npz")
    score = results["settings"][4]["scores"][0]
    assert score["value"] == pytest.approx(evaluator.fid(made).value, rel=1e-9)
    assert (score["n_reference"], score["floor_n"]) == (30, 20)
    assert {s["floor"] for part in results["settings"] for s in part["scores"] if s["metric"] == "fid"} == {score["floor"]}

    page = Page(path)
    fetches_nothing(page)
    assert len(page.all("img")) == len(SMALL) + 2  # a row a setting, one of real images, one from noise to image
    (plot,) = page.all("svg")
    assert f"{sig(score['value'])} at 4 calls" in (plot["aria-label"] or "")
    assert machine()["cpu"] in page.text
    assert not (tmp_path / "demo" / "unfinished.json").exists()

    out = capsys.readouterr().out
    assert "DDPM, every(3, last=2)" in out
    assert sig(score["value"]) in out
    assert f"{sig(score['floor'])} {bracket(score['floor_interval'])}" in out
    whole = " ".join(out.split())
    assert score["interval"] is None  # 20 images are too few for one
    reason = f"No interval, FID: {score['note'].removeprefix('no interval: ')}."
    assert reason in whole and reason in page.text
    kid_score = results["settings"][4]["scores"][1]
    shown = f"{kid(kid_score['value'])} {bracket(tuple(kid_score['interval']), kid)}"
    assert shown in whole and shown in page.text
    sentence = "In brackets: 95 % intervals, KID's for the distance of the two distributions, at any number of images."
    assert sentence in whole and sentence in page.text
    assert str(path) in out.replace("\n", "")
    assert "alphabar train fashion_mnist" in out


def made_up(metric: str, value: float, **about: Any) -> Score:
    return Score(metric, value, 640, 5_000, 0.59, 640, "half", "e", {}, "r", "real", **about)


def test_intervals_in_the_table_at_80_columns(small: dict[str, Any]) -> None:
    from rich.console import Console

    record = {"eta": 1.0, "nfe": 50.0, "seconds_per_image": 0.0123, "n": 640}
    samples = Samples(np.zeros((1, 8, 8, 1), np.uint8), record)
    fid = made_up("fid", 1.644, interval=(1.312, 2.031), floor_interval=(0.55, 0.63))
    pair = made_up("kid", 0.01234, interval=(0.0105, 0.0152))
    settings = [
        DemoResult(DemoSetting("ddpm", plan="every(3, last=50)"), samples),
        DemoResult(DemoSetting("ddim", 50, 1.0, scored=True), samples),
    ]
    settings[1].scores = (fid, pair)
    made = Demo(1.0, 0, 8, as_image_set(small["images"]), {"n": 640}, settings)
    console = Console(width=80, file=io.StringIO())
    console.print(table(made))
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1.64 [1.31, 2.03]" in out and "12.34 [10.50, 15.20]" in out
    assert "0.59 [0.55, 0.63]" in out
    assert "…" not in out and max(len(line.rstrip()) for line in out.splitlines()) <= 80
    results = intervals_in_words(made)
    assert results[0].startswith(
        "In brackets: 95 % intervals, FID's for its expectation at these numbers of images, KID's for the"
    )
    assert results[1:] == ["No interval, KID of real images: one draw of 640 real images is not enough."]


def test_the_rows_share_their_seeds(small: dict[str, Any], tmp_path: Path) -> None:
    demo(out=tmp_path / "a", **small)
    demo(out=tmp_path / "b", **small | {"settings": (SMALL[3],), "n": 10})
    a, b = (Samples.load(tmp_path / f / "samples" / "ddim_4_eta_0.npz").images for f in "ab")
    assert np.abs(a[:10].astype(int) - b.astype(int)).max() <= 1


class Interrupting:
    """A model that is stopped by Ctrl-C after some images, and counts what it is called for."""

    def __init__(self, model: Model, after: float) -> None:
        self.model, self.left, self.images = model, after, 0
        self.schedule, self.image_shape, self.fingerprint = model.schedule, model.image_shape, model.fingerprint

    def __call__(self, x: Any, sigma: Any) -> Any:
        if x.any():  # the speed is measured on zeros
            self.left -= len(x)
            self.images += len(x)
            if self.left < 0:
                raise KeyboardInterrupt
        return self.model(x, sigma)


def test_ctrl_c_keeps_what_was_made_and_the_same_command_continues(
    small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo(out=tmp_path / "whole", **small)
    interrupting = Interrupting(small["model"], after=3 * 18 + 20 * 4)  # the third scored step of the fourth setting
    with pytest.raises(KeyboardInterrupt):
        demo(out=tmp_path / "cut", **small | {"model": interrupting})
    page = Page(tmp_path / "cut" / "index.html")
    fetches_nothing(page)
    assert "stopped before its end" in page.text
    assert len(page.all("img")) == 3 + 1
    results = json.loads((tmp_path / "cut" / "results.json").read_text())
    assert not results["finished"]
    assert len(results["settings"]) == 3

    continued = Interrupting(small["model"], after=float("inf"))
    demo(out=tmp_path / "cut", **small | {"model": continued})
    assert continued.images == 20 * 4 + 20 * 4 + 3 * 10  # two settings, and the images from noise to image
    for setting in SMALL:
        whole, cut = (Samples.load(tmp_path / f / "samples" / f"{setting.key}.npz").images for f in ("whole", "cut"))
        np.testing.assert_array_equal(whole, cut)
    err = capsys.readouterr().err
    assert "continuing the demo" in err and re.search(r"\d settings are drawn already", err)


def test_another_demo_in_the_same_folder_starts_from_nothing(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        demo(out=tmp_path, **small | {"model": Interrupting(small["model"], after=3 * 18 + 20 * 4)})
    demo(out=tmp_path, **small | {"seed": 1})
    results = json.loads((tmp_path / "results.json").read_text())
    assert {s["record"]["seed"] for s in results["settings"]} == {1}


def test_a_distilled_model_draws_for_its_settings(small: dict[str, Any], tmp_path: Path) -> None:
    other = build(
        ModelRecipe(channels=(8,), blocks=1, groups=4, embedding=16), {"kind": "cosine"}, (1, 8, 8), 1, consistency=True
    )
    settings = (SMALL[2], DemoSetting("distilled", 1, scored=True), DemoSetting("distilled", 2, scored=True))
    demo(out=tmp_path, **small | {"settings": settings, "distilled": other.eval()})
    results = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert [(s["record"]["sampler"], s["record"]["nfe"]) for s in results[1:]] == [("consistency", 1), ("consistency", 2)]
    assert [s["record"]["model"] for s in results] == [small["model"].fingerprint, other.fingerprint, other.fingerprint]
    assert "distilled model" in Page(tmp_path / "index.html").text


def test_too_few_images_are_refused_before_the_work(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"n = 6: FID takes more images than the extractor has features \(6\)"):
        demo(out=tmp_path, **small | {"n": 6})
    assert not list(tmp_path.iterdir())


def _speed(seconds_a_call: float) -> dict[str, Any]:
    return {
        "seconds_a_call": seconds_a_call, "seconds_a_call_few": seconds_a_call, "seconds_a_feature": 0.0, "few": 8,
        "calls_few": 2000, "calls_scored": 170, "scored": 6, "real": 5000,
    }  # fmt: skip


def test_the_number_of_images_follows_the_speed() -> None:
    assert demo_module.images_that_fit(_speed(1e-6), 2.5, 640) == 2000  # no more than is of use
    assert demo_module.images_that_fit(_speed(1.0), 2.5, 640) == 640  # no fewer than a score needs
    fitting = demo_module.images_that_fit(_speed(0.7e-3), 2.5, 640)
    assert 640 < fitting < 2000
    spent = 8 * 2000 * 0.7e-3 + 1.05 * fitting * 170 * 0.7e-3
    assert 150 - 1.05 * 40 * 170 * 0.7e-3 < spent <= 150  # as many as fit, to the next 40


def test_a_continued_demo_promises_the_time_that_is_left() -> None:
    speed = _speed(1e-2) | {"calls": {s.key: 100 for s in SETTINGS}}
    whole, rest = (demo_module.expectation(speed, 640, SETTINGS, done) for done in ((), [SETTINGS[0].key]))
    minutes = [float(re.findall(r"about ([0-9.]+) minutes", text)[0]) for text in (whole, rest)]
    cost = (640 if SETTINGS[0].scored else 8) * 100 * 1e-2 / 60
    assert minutes[0] - minutes[1] == pytest.approx(cost, abs=0.11)


def test_a_message_says_that_a_machine_is_slow() -> None:
    assert "this machine is slow" in demo_module.expectation(_speed(1e-2), 640, SETTINGS)
    assert "this machine is slow" not in demo_module.expectation(_speed(1e-4), 640, SETTINGS)


def test_the_settings_are_those_of_the_story() -> None:
    ddim = [s for s in SETTINGS if s.sampler == "ddim"]
    assert {(s.steps, s.eta) for s in ddim if s.scored} == {(k, e) for k in (10, 25) for e in (0.0, 1.0)}
    assert [s.steps for s in SETTINGS if s.sampler == "tuned"] == [5, 10]
    assert [s.steps for s in SETTINGS if s.sampler == "distilled"] == [1, 2]
    assert [s.plan for s in SETTINGS if not s.scored] == [None, "every(3, last=50)", "progressive"]
    assert len({s.key for s in SETTINGS}) == len(SETTINGS)


def test_a_demo_that_made_nothing_still_has_a_page(images: Any, tmp_path: Path) -> None:
    empty = Demo(1.0, 0, 4, as_image_set(images), {"n": 20, "speed": {"seconds_a_call": 0.001}, "extractor": "e",
                                                      "model": None, "reference": "r"})  # fmt: skip
    page = Page(write_demo(empty, tmp_path))
    assert "No images had been sampled" in page.text
    assert "Nothing was scored" in page.text


def test_the_bundled_test_images() -> None:
    real = bundled_images()
    assert real.pixels.shape == (10_000, 28, 28, 1)
    assert real.labels is not None
    assert np.bincount(real.labels).tolist() == [1_000] * 10
    assert real.classes is not None
    assert real.classes[9] == "Ankle boot"


@pytest.mark.slow(20)
@pytest.mark.skipif(
    not (BUNDLED_MODEL.exists() and BUNDLED_EXTRACTOR.exists()), reason="the bundled model or extractor is not in this tree"
)
def test_a_short_demo_from_the_bundled_files(tmp_path: Path) -> None:
    few = bundled_images().pixels[:1_200]
    settings = (DemoSetting("ddpm", 5), DemoSetting("ddim", 3, scored=True))
    demo(out=tmp_path, images=few, settings=settings, n=520, few=2, device="cpu")
    results = json.loads((tmp_path / "results.json").read_text())
    fid, kid = results["settings"][1]["scores"]
    assert fid["value"] > fid["floor"] > 0
    assert kid["value"] > kid["floor"]
