"""The page in a browser: nothing is requested, every image is shown, the slider moves, and axe finds no serious violation."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.evaluation.image_eval import ImageEval
from alphabar.report.report_page import write_report
from alphabar.sampling.sample_set import SampleSet
from alphabar.sampling.samples import Samples
from alphabar.training.config import Recipe
from alphabar.verbs.compare import compare
from tests.fixtures.runs import add_sheets, add_trajectory, drawn, fill
from tests.fixtures.sets import Linear, stripes

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.slow
ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    with api.sync_playwright() as p:  # of this module only: while it runs, no other event loop can
        chromium = p.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of five runs with sheets, trajectories and a comparison, one of them with nothing but its folder."""
    folder = tmp_path_factory.mktemp("page")
    runs = [fill(folder / f"run{k}", images=6_400, every=640, offset=0.02 * k, lr=1e-3 * (k + 1), previews=0) for k in range(4)]
    for k, run in enumerate(runs):
        add_sheets(run, [640 * (j + 1) for j in range(10)])
        add_trajectory(run, steps=10 - k)
    evaluator, real = ImageEval(Linear(), stripes(300, 0), cache=False), stripes(300, 0)
    compare(
        SampleSet("a.npz", stripes(90, 5).pixels, None, runs[0]), SampleSet("b.npz", stripes(90, 6).pixels, None), evaluator, real
    )
    (folder / "bare").mkdir()
    (folder / "bare" / "recipe.toml").write_text(Recipe().toml())
    return write_report([*runs, folder / "bare"], folder / "page.html", draw=False)


def opened(browser: Any, page: Path, scheme: str, width: int = 1400) -> tuple[Any, list[str], list[str]]:
    """A page, the messages on its console, and the other addresses that it requested."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    messages: list[str] = []
    requested: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requested.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_load_state("load")
    return tab, messages, [url for url in requested if not url.startswith("data:") and url != page.as_uri()]


def test_every_image_loads_and_nothing_is_requested(browser: Any, page_of_runs: Path) -> None:
    tab, messages, requested = opened(browser, page_of_runs, "light")
    assert messages == []
    assert requested == []
    images = tab.evaluate("[...document.images].map(i => [i.alt, i.naturalWidth])")
    assert len(images) == 4 * 8 + (11 + 10 + 9 + 8) + 4  # cells, frames, whole sheets
    assert [alt for alt, width in images if not width or not alt] == []
    assert tab.evaluate("document.querySelectorAll('svg:not([aria-label])').length") == 0
    tab.context.close()


def test_an_injected_request_is_blocked(browser: Any, page_of_runs: Path, tmp_path: Path) -> None:
    """The policy of the page forbids requests, and the console, which the test above reads, reports them."""
    page = tmp_path / "page.html"
    page.write_text(page_of_runs.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png" alt="x"></main>'))
    tab, messages, _ = opened(browser, page, "light")
    assert any("Content Security Policy" in words for words in messages)
    tab.context.close()


def shown(tab: Any) -> list[str]:
    """The source of the frame of every run that can be seen."""
    found: list[str] = tab.evaluate(
        "[...document.querySelectorAll('.frames img')].filter(i => i.checkVisibility()).map(i => i.src)"
    )
    return found


def test_mouse_and_keys_move_the_slider_and_change_the_picture(browser: Any, page_of_runs: Path) -> None:
    tab, _, _ = opened(browser, page_of_runs, "light")
    slider = tab.get_by_role("slider", name="call")
    start, seen = int(slider.input_value()), [shown(tab)]
    assert len(seen[0]) == 4  # one frame a run
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    tab.mouse.click(box["x"] + 0.95 * box["width"], box["y"] + box["height"] / 2)
    at = int(slider.input_value())
    assert at >= 9
    seen.append(shown(tab))
    for key, wanted in (("ArrowLeft", at - 1), ("ArrowDown", at - 2), ("ArrowRight", at - 1), ("Home", 0), ("End", 10)):
        slider.press(key)
        assert int(slider.input_value()) == wanted
        seen.append(shown(tab))
    assert len({one[0] for one in seen}) == len({start, at, at - 1, at - 2, 0, 10})  # the first run has a frame at every place
    assert slider.get_attribute("aria-valuetext") == "11 of 11: final images"
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") == "1 of 11: call 1 of 10, sigma 80"
    words = [tab.locator(".now-words").nth(k).inner_text() for k in range(4)]
    assert words == [f"call 1 of {10 - k}, sigma 80" for k in range(4)]
    before = shown(tab)
    slider.press("End")
    assert all(one != there for one, there in zip(before, shown(tab), strict=True))
    tab.context.close()


def test_play_runs_to_the_end(browser: Any, page_of_runs: Path) -> None:
    tab, _, _ = opened(browser, page_of_runs, "light")
    slider = tab.get_by_role("slider", name="call")
    tab.get_by_role("button", name="Play").click()
    tab.get_by_role("button", name="Pause").wait_for()
    tab.get_by_role("button", name="Play").wait_for()  # when it is done
    assert slider.get_attribute("aria-valuetext").startswith("11 of 11")
    tab.context.close()


def test_without_javascript_every_frame_is_shown(browser: Any, page_of_runs: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page_of_runs.as_uri())
    assert tab.locator(".frames img").first.is_visible()
    assert not tab.locator("#place").is_visible()
    assert tab.locator(".frames .words").nth(1).inner_text().startswith("call 2 of 10")
    context.close()


def test_a_link_opens_its_run(browser: Any, page_of_runs: Path) -> None:
    tab, _, _ = opened(browser, page_of_runs, "light")
    assert not tab.locator("#run2").is_visible()
    tab.get_by_role("link", name="run2", exact=True).click()
    tab.locator("#run2").wait_for(state="visible")
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_axe_finds_no_serious_violation(browser: Any, page_of_runs: Path, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    tab, _, _ = opened(browser, page_of_runs, scheme, width)
    tab.evaluate("document.querySelectorAll('#run0, #run4').forEach(one => one.closest('details').open = true)")
    found = axe.run(tab).response["violations"]
    bad = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    assert bad == []
    wide = tab.evaluate("document.documentElement.scrollWidth")
    assert wide <= width  # wider content scrolls in its frame
    tab.evaluate("document.querySelector('h1').style.cssText = 'color: rgb(120, 120, 120); background: rgb(150, 150, 150)'")
    again = axe.run(tab).response["violations"]
    assert "color-contrast" in {v["id"] for v in again}  # it would be found
    tab.context.close()


def test_the_page_of_twenty_runs_with_fifty_sheets_stays_small(tmp_path: Path) -> None:
    """Sheets of noise, which PNG cannot compress: a page of any other images is smaller."""
    g = np.random.default_rng(0)
    first = fill(tmp_path / "run00", images=64_000, every=1_280, previews=0)
    seen = [1_280 * (k + 1) for k in range(50)]
    for images in seen:  # 64 images of 28 x 28, each of two sizes of pixels, as `Preview` writes them
        pixels = g.integers(0, 256, (64, 28, 28, 1), dtype=np.uint8)
        Samples(pixels, {}).sheet(scale=2).save(first / "samples" / f"preview_{images:010d}.png")
    made = add_trajectory(first, steps=25, shape=(28, 28, 1))
    noise = [g.integers(0, 256, (8, 28, 28, 1), dtype=np.uint8) for _ in range(25)]
    Samples(noise[0], made.record, noise).save(first / "samples" / "trajectory.npz")
    runs = [first, *(Path(shutil.copytree(first, tmp_path / f"run{k:02d}")) for k in range(1, 20))]
    text = write_report(runs, tmp_path / "page.html", draw=False).read_text()
    assert len(text) < 20_000_000
    assert "160 of 1,000 sheets are shown" in text
    assert len(re.findall("<img ", text)) == 20 * 8 + 20 * 26 + 20
    assert text.count('<details class="run">') == 20


def test_the_frames_are_the_stored_x0_hat(tmp_path: Path) -> None:
    import base64
    import io

    from PIL import Image

    run = fill(tmp_path / "run", images=6_400, every=640, previews=0)
    add_trajectory(run, steps=5)
    text = write_report([run], tmp_path / "page.html").read_text()
    frames = re.findall(r'<li data-words="([^"]*)">.*?base64,([^"]*)"', text)
    sigmas = ("80", "8.46", "0.894", "0.0946", "0.01")
    wanted = [f"call {k + 1} of 5, sigma {sigma}" for k, sigma in enumerate(sigmas)]
    assert [words for words, _ in frames] == [*wanted, "final images"]
    for k, (_, data) in enumerate(frames):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[..., 0]
        np.testing.assert_array_equal(picture[:, 11 * 3 : 11 * 3 + 10], drawn(k, 8)[3][..., 0])
    assert "after 64,000 images of training, ddim, 5 calls, seed 0" in text
    assert (
        json.loads(re.findall(r"How these were sampled.*?<pre[^>]*>(.*?)</pre>", text, re.DOTALL)[0].replace("&#34;", '"'))[
            "seed"
        ]
        == 0
    )
