"""The page that draws: its noise is NumPy's, its pixels are Python's, and it works from a file, by keyboard, without requests."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.core.seeds import START, STEP, generator
from alphabar.denoiser.model import Model, build, save_weights
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.to_onnx import rounded
from alphabar.report.live_page import check_live, live_samplers, write_live
from alphabar.report.page import TEMPLATES
from alphabar.report.report_page import write_report
from alphabar.sampling.fitted import run_tuned
from alphabar.sampling.sample import sample
from alphabar.schedule.betas import Linear
from alphabar.schedule.continuous import Cosine
from alphabar.training.checkpoint import load_model
from alphabar.verbs.export import _title
from tests.denoiser.test_to_onnx import TINY, filled
from tests.fixtures.runs import fill
from tests.report.test_browser import ARGUMENTS, CHROMIUM, browser  # noqa: F401

FILES = ("model.bin", "wasm.bin", "worker.bin")
WORKER = (TEMPLATES / "live_worker.js").read_text()


def small(seed: int = 0, **more: Any) -> Model:
    """A model of random weights, small enough that its images are neither black nor white everywhere."""
    model = filled(build(replace(TINY, **more.pop("recipe", {})), Cosine().spec(), more.pop("shape", (3, 12, 8)), **more), seed)
    with torch.no_grad():
        for p in model.network.leave.parameters():
            p.mul_(0.25)
    return model


def test_the_samplers_of_a_page_are_those_of_sample() -> None:
    model = small()
    found = live_samplers(model)
    assert [fit.calls for fit in found] == list(range(1, 11)) and {fit.name for fit in found} == {"unipc"}
    for fit in (found[0], found[4]):
        wanted = sample(model, 3, sampler="unipc", steps=fit.calls).images.astype(int)
        got = sample(model, 3, tuned=replace(fit, model=model.fingerprint)).images.astype(int)
        assert abs(got - wanted).max() <= 1 and wanted.std() > 5
    distilled, plain = small(consistency=True), small(consistency=True)
    plain.consistency = False  # the same weights, without the refusal of other samplers
    found = live_samplers(distilled)
    assert [fit.calls for fit in found] == [1, 2, 3, 4]
    for fit in found[:2]:
        wanted = sample(distilled, 3, sampler="consistency", steps=fit.calls).images.astype(int)
        got = sample(plain, 3, sampler=lambda *a, fit=fit, **k: run_tuned(*a, fit=fit, **k), grid=fit.grid, steps=fit.calls)
        assert abs(got.images.astype(int) - wanted).max() <= 1
    bundled = {fit.calls: fit.name for fit in live_samplers(load_model("bundled"))}
    assert bundled[5] == bundled[8] == bundled[10] == "features" and bundled[1] == "unipc"


def test_what_a_page_cannot_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="5 channels, and a browser shows 1 to 4"):
        check_live(small(shape=(5, 8, 8)))
    with pytest.raises(ValueError, match=r"512 x 512, and a page draws at most 65,536 pixels"):
        check_live(small(shape=(1, 512, 512)))


@pytest.mark.slow(10)
@pytest.mark.parametrize("seed", [0, 3, 2**45 + 3])
def test_the_noise_is_that_of_numpy(browser: Any, seed: int) -> None:  # noqa: F811
    """Equal bits but for the tails (one number in 3,000), where two libraries' log1p may differ in the last bit."""
    tab = browser.new_page()
    for index, draw, stream in ((0, 0, START), (37, 5, STEP), (2**33, 2**32, STEP)):
        js = f"() => {{ {WORKER}; return Array.from(normal(40000, {seed}, {index}, {draw}, {stream})); }}"
        got = np.array(tab.evaluate(js), np.float32)
        wanted = generator(seed, index, draw, stream=stream).standard_normal(40_000, dtype=np.float32)
        assert (got != wanted).sum() <= 3 and abs(got - wanted).max() < 1e-6 and abs(wanted).max() > 3.7
    tab.close()


def opened(browser: Any, page: Path, **context: Any) -> tuple[Any, list[str]]:  # noqa: F811
    """The page when its first images are finished, and what it asked for and complained about."""
    tab = browser.new_context(**context).new_page()
    seen: list[str] = []
    tab.on("console", lambda message: seen.append(message.text))
    tab.on("pageerror", lambda error: seen.append(str(error)))
    tab.on("request", lambda request: seen.append(request.url))
    tab.goto(page.as_uri())
    drawn(tab)
    return tab, [text for text in seen if text != page.as_uri() and not text.startswith(("data:", "blob:"))]


def drawn(tab: Any) -> None:
    tab.wait_for_timeout(50)
    tab.wait_for_selector("[data-ready]", timeout=120_000)
    tab.wait_for_selector("#tiles[aria-busy=false]", timeout=120_000)


def images(tab: Any, shape: tuple[int, int]) -> np.ndarray:
    found = np.array(tab.evaluate("alphabarLive.finals()"), np.uint8).reshape(16, *shape, 4)
    assert (found[..., 3] == 255).all()
    return found[..., :3]


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """The page of a small class-conditional model of padded colour images, and the model with its weights."""
    model = small(recipe={"conditional": True}, crop=1, classes=("<b>a</b>", "b & c", "d"))
    page, made = write_live(model, tmp_path_factory.mktemp("live") / "page.html", "A & B </script>")
    assert made.deviation < 1e-4
    return page, rounded(model)


@pytest.mark.slow(60)
def test_the_pixels_are_those_of_python(browser: Any, conditional: tuple[Path, Model]) -> None:  # noqa: F811
    page, model = conditional
    tab, seen = opened(browser, page)
    assert seen == []
    samplers = {fit.calls: fit for fit in live_samplers(model)}

    def wanted(calls: int, seed: int, classes: Any) -> np.ndarray:
        return sample(model, 16, tuned=samplers[calls], seed=seed, classes=classes).images

    start = int(tab.locator("#calls").input_value()) + 1
    found = images(tab, (10, 6)).astype(int)
    assert abs(found - wanted(start, 0, "all")).max() <= 1 and found.std() > 5
    tab.locator("#calls").press("Home")
    tab.locator("#calls").press("ArrowRight")  # by keyboard
    assert tab.locator("#calls").get_attribute("aria-valuetext") == "2 network calls, sampler unipc"
    tab.locator("#seed").fill("35184372088835")
    tab.locator("#seed").press("Enter")
    tab.locator("#class").select_option(label="b & c")
    drawn(tab)
    found = images(tab, (10, 6)).astype(int)
    assert abs(found - wanted(2, 2**45 + 3, 1)).max() <= 1
    assert tab.locator("#tiles button").nth(3).get_attribute("aria-label") == f"image 3 of seed {2**45 + 3}, b & c"
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save as PNG").click()
    assert download.value.suggested_filename.endswith(".png") and download.value.path().read_bytes()[:4] == b"\x89PNG"
    tab.context.close()


@pytest.mark.slow(30)
def test_the_ends_of_the_way_are_the_chosen_images(browser: Any, conditional: tuple[Path, Model]) -> None:  # noqa: F811
    tab, _ = opened(browser, conditional[0])
    tab.locator("#tiles button").nth(5).press("Enter")
    tab.locator("#tiles button").nth(8).press("Enter")
    assert [tab.locator("#tiles button").nth(k).get_attribute("data-end") for k in (5, 8, 0)] == ["A", "B", None]

    def pixels(canvas: str) -> list[int]:
        data = "c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
        return list(tab.evaluate(f"(() => {{ const c = {canvas}; return Array.from({data}) }})()"))

    tiles = "document.querySelectorAll('#tiles canvas')"
    for key, place in (("Home", 5), ("End", 8)):
        tab.locator("#between").press(key)
        tab.wait_for_timeout(3000)
        off = np.abs(np.array(pixels("document.getElementById('middle')")) - np.array(pixels(f"{tiles}[{place}]")))
        assert off.max() <= 1
    tab.context.close()


@pytest.mark.slow(30)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_scrolls_one_way(browser: Any, conditional: tuple[Path, Model], scheme: str) -> None:  # noqa: F811
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab, _ = opened(browser, conditional[0], viewport={"width": 390, "height": 800}, color_scheme=scheme, bypass_csp=True)
    found = axe.Axe().run(tab).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.context.close()


@pytest.mark.slow(60)
def test_the_bundled_page_is_small_and_draws_fitted_samples(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    page, _ = write_live(load_model("bundled"), tmp_path / "page.html", "Garments")
    assert page.stat().st_size < 12e6
    assert (
        re.search(r"""(src|href)=["'](?!data:|blob)""", re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S)) is None
    )
    tab, seen = opened(browser, page)
    assert seen == []
    wanted = sample(load_model("bundled"), 16, sampler="tuned", steps=5).images.astype(int)
    assert abs(images(tab, (28, 28)).astype(int) - wanted).max() <= 1
    tab.context.close()


@pytest.mark.slow(30)
def test_the_page_of_a_distilled_model_draws_what_python_draws(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    model = small(consistency=True)
    page, made = write_live(model, tmp_path / "page.html", "Shapes, distilled")
    assert made.deviation < 1e-4
    tab, seen = opened(browser, page)
    assert seen == []
    for key, calls in (("Home", 1), ("ArrowRight", 2)):
        tab.locator("#calls").press(key)
        drawn(tab)
        wanted = sample(rounded(model), 16, sampler="consistency", steps=calls).images.astype(int)
        assert abs(images(tab, (12, 8)).astype(int) - wanted).max() <= 1 and wanted.std() > 5
    tab.context.close()


@pytest.mark.slow(30)
def test_a_report_draws_in_the_browser(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    model, run = small(), fill(tmp_path / "shapes", images=6_400, every=640, previews=1)
    weights = run / "checkpoints" / "last" / "ema.safetensors"
    weights.parent.mkdir(parents=True)
    save_weights(weights, model)
    (weights.parent / "state.json").write_text('{"images": 6400}')
    tab, seen = opened(browser, write_report([run], tmp_path / "page.html", draw=False, live=True))
    assert seen == [] and tab.locator("h1").inner_text() == "shapes"
    calls = int(tab.locator("#calls").input_value()) + 1
    wanted = sample(rounded(model), 16, sampler="unipc", steps=calls).images.astype(int)
    assert abs(images(tab, (12, 8)).astype(int) - wanted).max() <= 1
    tab.context.close()


def test_a_page_is_named_after_its_run() -> None:
    names = {"bundled": "Garments", "bundled/distilled": "Garments, distilled", "runs/my_cells": "my cells"}
    names |= {"runs/my_cells/distilled": "my cells, distilled", "hf:anna/shapes@main": "shapes"}
    assert {run: _title(run) for run in names} == names


@pytest.mark.slow(40)
def test_a_folder_is_served_by_any_web_server(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    page, made = write_live(small(shape=(1, 8, 8)), f"{tmp_path}/site/", "A site")
    assert {p.name for p in page.parent.iterdir()} == {"index.html", *FILES, "wasm_gpu.bin", "worker_gpu.bin"}
    assert page.stat().st_size < 100_000 and json.loads(json.dumps(made.about))["image_shape"] == [1, 8, 8]
    with served(page.parent) as address:
        tab = browser.new_page()
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        drawn(tab)
        assert {url.removeprefix(address) for url in asked if not url.startswith(("data:", "blob:"))} == {"", *FILES}
        tab.close()


@pytest.mark.slow(90)
@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_draws_on_a_gpu_where_it_can(browser: Any, tmp_path: Path, whole: bool) -> None:  # noqa: F811
    """On Chromium's software adapter; with a damaged file for WebGPU the processor draws the same."""
    model = small(recipe={"conditional": True}, crop=1, classes=("a", "b", "c"))
    page, _ = write_live(model, f"{tmp_path}/site/", "A site")
    if not whole:
        file = page.with_name("wasm_gpu.bin")
        file.write_bytes(file.read_bytes()[:1000])
    gpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    second = browser.browser_type.launch(executable_path=str(CHROMIUM), args=[*ARGUMENTS, *gpu])
    with served(page.parent) as address:
        tab = second.new_page()
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url.removeprefix(address)))
        tab.goto(address)
        drawn(tab)
        assert {"wasm_gpu.bin", "worker_gpu.bin"} < {*asked} and ("wasm.bin" in asked) == (not whole)
        assert ("on the GPU" in tab.locator("#state").inner_text()) == whole
        (fit,) = (fit for fit in live_samplers(rounded(model)) if fit.calls == int(tab.locator("#calls").input_value()) + 1)
        wanted = sample(rounded(model), 16, tuned=fit, classes="all").images.astype(int)
        assert abs(images(tab, (10, 6)).astype(int) - wanted).max() <= 1 and wanted.std() > 5
    second.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server for a folder, on a free port of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_report_draws_from_one_run_alone(tmp_path: Path) -> None:
    runs = [fill(tmp_path / name, images=6_400, every=640, previews=0) for name in ("a", "b")]
    with pytest.raises(ValueError, match="--live draws the images of one run, and these are 2"):
        write_report(runs, tmp_path / "page.html", draw=False, live=True)


def test_linear_schedules_have_samplers_too() -> None:
    assert len(live_samplers(build(ModelRecipe(channels=(8,), groups=4), Linear().spec(), (1, 8, 8)))) == 10
