"""`alphabar app` from end to end: the real server, and Chromium as its visitor."""

import base64
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar import restore
from alphabar.cli.main import main
from alphabar.restoration.operators import Mask
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model
from alphabar.web.html import sheet
from tests.verbs.test_tune import run_of
from tests.web.test_playground import fill, small

pytestmark = pytest.mark.slow(120)
pytest.importorskip("gradio", reason="the page needs gradio: pip install 'alphabar[app]'")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
needs_browser = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no chromium here: apt-get install chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT = 120_000  # milliseconds: the machine may be busy


@dataclass
class Server:
    url: str
    process: "subprocess.Popen[str]"
    log: Path
    temporary: Path
    root: Path

    def folders(self) -> list[Path]:
        """The private folders of visitors that hold files for download."""
        return [p for p in self.temporary.glob("alphabar-app-*/*") if p.is_dir() and re.fullmatch("[0-9a-f]{64}", p.name)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(root: Path, temporary: Path, *arguments: str) -> Server:
    temporary.mkdir(exist_ok=True)
    port, log = free_port(), temporary / "log.txt"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADIO_")}
    environment |= {"TMPDIR": str(temporary), "ALPHABAR_CACHE": str(temporary / "cache")}
    environment |= {"GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SERVER_NAME": "0.0.0.0"}  # to no avail
    command = [sys.executable, "-m", "alphabar", "app", str(root), "--port", str(port), *arguments]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, text=True, cwd=root.parent)
    end = time.monotonic() + 120
    while f"http://127.0.0.1:{port}" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    return Server(f"http://127.0.0.1:{port}", process, log, temporary, root)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("app")
    root = fill(folder)
    arguments = ("--against", str(folder / "real.npz"), "--extractor", str(folder / "extractor.safetensors"))
    running = start(root, folder / "temporary", *arguments)
    yield running
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert list(running.temporary.glob("alphabar-app-*")) == []  # nothing is left behind
    raised = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*", running.log.read_text(), re.MULTILINE)
    assert [e for e in raised if "is not in the list of choices" not in e] == []  # gradio's own refusals, which it prints


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[..., Any]]:
    """Opens the page as a new visitor. Afterwards: nothing was asked of any other machine, and no script failed."""
    contexts, elsewhere, errors = [], [], []

    def open_page(width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        own = (f"{server.url}/", "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(own) else elsewhere.append(r.url))
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(server.url)
        page.wait_for_selector("#cost-A p")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert errors == []


def choose(page: Any, name: str, value: str) -> None:
    page.click(f"#{name} input")
    page.get_by_role("option", name=value, exact=True).click()
    page.get_by_role("option").first.wait_for(state="detached")  # the list fades; the next choice would find its options too


def set_up(page: Any, *, run: str = "small", amount: int = 4, n: int = 4, seed: int = 0, side: str = "A", **texts: str) -> None:
    """Fills in a setting as a visitor does."""
    choose(page, f"run-{side}", run)
    if "sampler" in texts:
        choose(page, f"sampler-{side}", texts.pop("sampler"))
    page.fill(f"#amount-{side} input", str(amount))
    page.fill("#n input", str(n))
    page.fill("#seed input", str(seed))
    for name, text in texts.items():
        page.fill(f"#{name}-{side} :is(textarea, input)", text)


def draw(page: Any) -> list[str]:
    """Presses Draw, waits for the end, and returns the captions of A on the way."""
    page.evaluate("document.querySelector('#state p').dataset.old = 'yes'")  # until it is written anew
    page.click("#draw")
    captions: list[str] = []
    end = time.monotonic() + WAIT / 1000
    while time.monotonic() < end:
        # In this order: the caption at the end is the last one.
        done = page.evaluate("/Done|Refused/.test(document.querySelector('#state p:not([data-old])')?.innerText)")
        words = page.evaluate("document.querySelector('#show-A figcaption')?.innerText ?? ''")
        if words and words not in captions:
            captions.append(words)
        if done:
            return captions
        page.wait_for_timeout(20)
    raise AssertionError(captions)


def shown(page: Any, side: str = "A") -> Any:
    """The pixels of the picture in the page."""
    source = page.get_attribute(f"#show-{side} img", "src")
    kind, data = source.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def expected(server: Server, run: str = "small", n: int = 4, **arguments: Any) -> Any:
    return sample(load_model(server.root / run), n, progress=False, channels_last=True, **arguments).images


def download(page: Any, name: str, folder: Path) -> Path:
    page.wait_for_selector(f"#{name}:not([disabled])")
    with page.expect_download() as waiting:
        page.click(f"#{name}")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


@needs_browser
def test_images_form_step_by_step_and_are_those_of_sample(visit: Any, server: Server, tmp_path: Path) -> None:
    page = visit()
    set_up(page, run="bundled", amount=40, n=16, seed=3)
    page.wait_for_function("document.querySelector('#cost-A').innerText.includes('40 steps, 40 calls an image; 16 images: 640')")
    captions = draw(page)
    steps = [int(m[1]) for words in captions if (m := re.match(r"step (\d+) of 40, \d+ calls?, \d+\.\d s$", words))]
    assert len(steps) >= 3
    assert steps == sorted(steps)
    assert re.match(r"16 images, 40 calls an image, \d+\.\d s \(\d+ ms an image\)$", captions[-1])
    images = sample(load_model("bundled"), 16, steps=40, seed=3, progress=False, channels_last=True).images
    np.testing.assert_array_equal(shown(page), np.asarray(sheet(images)))  # without loss, to the last pixel
    assert page.get_attribute("#show-A img", "alt") == "16 images, setting A"


@needs_browser
def test_two_settings_from_the_same_noise_and_all_that_can_be_taken_home(visit: Any, server: Server, tmp_path: Path) -> None:
    page = visit()
    assert not page.is_visible("#side-B")
    page.check("#both input")
    page.wait_for_selector("#side-B", state="visible")
    set_up(page, amount=5, n=5, seed=9)
    set_up(page, side="B", run="small", sampler="heun", amount=9, n=5, seed=9)
    draw(page)
    wanted = {"A": {"sampler": "ddim", "steps": 5}, "B": {"sampler": "heun", "steps": 5}}
    for side, arguments in wanted.items():
        images = expected(server, n=5, seed=9, **arguments)
        np.testing.assert_array_equal(shown(page, side), np.asarray(sheet(images)))
        taken = Samples.load(download(page, f"npz-{side}", tmp_path))
        np.testing.assert_array_equal(taken.images, images)
        assert taken.record["sampler"] == arguments["sampler"]
        assert page.inner_text(f"#show-{side} figcaption").startswith(f"5 images, {taken.record['nfe']:g} calls an image")
        np.testing.assert_array_equal(np.asarray(Image.open(download(page, f"png-{side}", tmp_path))), shown(page, side))
    assert Samples.load(tmp_path / "B.npz").record["nfe"] == 9
    page.fill("#seed input", "10")
    draw(page)  # the files of the drawing before are not taken for those of this one
    again = Samples.load(download(page, "npz-A", tmp_path))
    np.testing.assert_array_equal(again.images, expected(server, n=5, seed=10, steps=5))
    page.fill("#seed input", "9")
    draw(page)
    page.click("#again-B button")
    words = shlex.split(page.input_value("#command-B textarea"))
    assert words[:3] == ["alphabar", "sample", str(server.root / "small")]
    assert words[-2:] == ["--out", "B.npz"]
    (tmp_path / "again").mkdir()
    subprocess.run([sys.executable, "-m", "alphabar", *words[1:]], cwd=tmp_path / "again", check=True, capture_output=True)
    lines = page.input_value("#python-B textarea").replace("B.npz", "python.npz")
    subprocess.run([sys.executable, "-c", lines], cwd=tmp_path / "again", check=True, capture_output=True)
    for name in ("B.npz", "python.npz"):
        np.testing.assert_array_equal(Samples.load(tmp_path / "again" / name).images, Samples.load(tmp_path / "B.npz").images)


@needs_browser
def test_an_impossible_request_is_answered_in_the_page_which_stays_usable(visit: Any, server: Server) -> None:
    page = visit()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"eta": "2"}, "eta = 2.0: give a number from 0"),
        ({"eta": "", "plan": "evry(3)"}, "did you mean 'every'"),
        ({"plan": "", "sampler": "euler", "eta": "0.5"}, "takes no eta"),
        ({"eta": "", "sampler": "tuned"}, "has no fitted sampler of 4 calls"),
        ({"sampler": "ddim", "n": 100_000}, "images = 100000: give a whole number from 1 to 256"),
        ({"amount": 10**15}, "calls = 1000000000000000: give"),
        ({"run": "broken"}, "is not a safetensors file"),
        ({"run": "stolen"}, "lies outside"),
    ]
    for request, words in wrong:
        set_up(page, **request)
        page.wait_for_function("w => document.querySelector('#cost-A [role=alert]')?.innerText.includes(w)", arg=words)
        draw(page)
        assert words in page.inner_text("#show-A [role=alert]")
        assert page.is_disabled("#npz-A")
    page.click("#more-A button")
    set_up(page, guidance="2")
    page.wait_for_function("document.querySelector('#cost-A').innerText.includes('guidance leads towards a class')")
    set_up(page, run="classes", guidance="2", classes="shoe, coat")
    page.wait_for_function("document.querySelector('#cost-A').innerText.includes('4 steps, 8 calls an image')")
    draw(page)
    images = expected(server, "classes", steps=4, classes=[0, 2], guidance=2.0, seed=0)
    np.testing.assert_array_equal(shown(page), np.asarray(sheet(images)))


@needs_browser
def test_a_run_that_came_since_the_start_is_offered(visit: Any, server: Server) -> None:
    run_of(small(9), server.root / "newcomer")
    try:
        page = visit()
        set_up(page, run="newcomer", amount=3)
        draw(page)
        np.testing.assert_array_equal(shown(page), np.asarray(sheet(expected(server, "newcomer", steps=3, seed=0))))
    finally:
        shutil.rmtree(server.root / "newcomer")


@needs_browser
def test_one_wrong_setting_of_two_stops_both_and_is_named(visit: Any) -> None:
    page = visit()
    page.check("#both input")
    set_up(page)
    set_up(page, side="B", eta="7")
    draw(page)
    assert "eta = 7.0" in page.inner_text("#show-B [role=alert]")
    assert "since the other setting cannot be" in page.inner_text("#show-A")


@needs_browser
def test_two_visitors_at_once_get_their_own_images(visit: Any, server: Server, tmp_path: Path) -> None:
    pages = {seed: visit() for seed in (11, 12)}
    for seed, page in pages.items():
        set_up(page, sampler="ddpm", amount=150, n=16, seed=seed)
    for page in pages.values():
        page.click("#draw")
    for page in pages.values():  # both are at work at the same time
        page.wait_for_function("/step \\d+ of 150/.test(document.querySelector('#show-A figcaption')?.innerText)")
    for page in pages.values():
        page.wait_for_function("document.querySelector('#state').innerText.includes('Done')")
    for seed, page in pages.items():
        folder = tmp_path / str(seed)
        folder.mkdir()
        images = expected(server, n=16, sampler="ddpm", steps=150, seed=seed)
        np.testing.assert_array_equal(shown(page), np.asarray(sheet(images)))
        taken = Samples.load(download(page, "npz-A", folder))
        np.testing.assert_array_equal(taken.images, images)
        assert taken.record["seed"] == seed


@needs_browser
def test_stop_stops_and_the_next_drawing_begins_at_once(visit: Any, server: Server) -> None:
    page = visit()
    set_up(page, amount=1000, n=200)
    page.click("#draw")
    page.wait_for_selector("#show-A figcaption")
    page.click("#stop")
    page.wait_for_function("document.querySelector('#state').innerText.includes('Stopped')")
    page.wait_for_timeout(500)
    before = page.inner_text("#show-A figcaption")
    page.wait_for_timeout(1500)
    assert page.inner_text("#show-A figcaption") == before
    set_up(page, amount=3)
    draw(page)
    np.testing.assert_array_equal(shown(page), np.asarray(sheet(expected(server, steps=3, seed=0))))


@needs_browser
def test_files_of_a_visitor_who_left_are_removed(visit: Any, server: Server) -> None:
    before = set(server.folders())
    page = visit()
    set_up(page)
    draw(page)
    page.wait_for_selector("#npz-A:not([disabled])")
    (mine,) = set(server.folders()) - before
    assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    assert stat.S_IMODE(mine.parent.stat().st_mode) == 0o700
    page.context.close()
    end = time.monotonic() + 60
    while mine.exists() and time.monotonic() < end:
        time.sleep(0.2)
    assert not mine.exists()


@needs_browser
def test_scores_come_with_intervals_and_a_comparison(visit: Any) -> None:
    page = visit()
    page.click("#scoring > button")
    page.wait_for_selector("#n-scored input")
    page.check("#both input")
    set_up(page, amount=6)
    set_up(page, side="B", amount=2)
    page.fill("#n-scored input", "80")
    page.click("#score")
    page.wait_for_selector("#result table")
    rows = page.locator("#result tbody tr").all_inner_texts()
    assert [row.split("\t")[0].strip() for row in rows] == ["A, FID", "A, KID", "B, FID", "B, KID"]
    assert all(re.search(r"\S+ to \S+", row) for row in rows)
    assert "80 images against" in page.inner_text("#result caption")
    assert "Compared image by image" in page.inner_text("#result")
    assert re.search(r"FID: (A is|not decided)", page.inner_text("#result"))
    page.fill("#n-scored input", "100000")
    page.click("#score")
    page.wait_for_selector("#result [role=alert]")
    assert "give a whole number from 1 to 10,000" in page.inner_text("#result")


@needs_browser
def test_the_keyboard_is_enough(visit: Any) -> None:
    page = visit()
    set_up(page, amount=2)
    page.focus("#seed input")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.closest('[id]')?.id"))
        if reached[-1] == "draw":
            break
    assert reached[-1] == "draw", reached
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#state').innerText.includes('Done')")


@needs_browser
@pytest.mark.parametrize(("width", "height", "scheme"), [(1280, 900, "light"), (390, 800, "dark")])
def test_axe_finds_no_fault_and_nothing_runs_over_the_edge(visit: Any, width: int, height: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    def faults() -> dict[str, list[str]]:
        return {v["id"]: [node["html"][:160] for node in v["nodes"]] for v in Axe().run(page).response["violations"]}

    page = visit(width, height, scheme)
    page.check("#both input")
    set_up(page, amount=2)
    set_up(page, side="B", amount=2, eta="7")
    draw(page)
    assert faults() == {}
    set_up(page, side="B", eta="")
    draw(page)
    for name in ("again-A", "more-A", "scoring"):
        page.click(f"#{name} > button")
    page.fill("#n-scored input", "80")
    page.click("#score")
    page.wait_for_selector("#result table")
    assert faults() == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelector('#show-A img').removeAttribute('alt')")
    assert "image-alt" in faults()  # it does look


@needs_browser
def test_a_part_of_a_picture_is_painted_and_restored(visit: Any, server: Server, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit()
    page.get_by_role("tab", name="Restore").click()
    choose(page, "restore-run", "small")
    page.fill("#restore-number input", "3")
    page.fill("#restore-calls input", "4")
    page.fill("#restore-draws input", "3")
    page.wait_for_function("document.querySelector('#brush figcaption')?.innerText.startsWith('image 3 of real')")
    page.wait_for_function("document.querySelector('#brush canvas').width == 8")

    def restored() -> Any:
        page.evaluate("document.querySelector('#restore-state p').dataset.old = 'yes'")
        page.click("#restore")
        page.wait_for_function("/Done|Refused/.test(document.querySelector('#restore-state p:not([data-old])')?.innerText)")
        if page.inner_text("#restore-state").strip() == "Refused.":
            return page.inner_text("#restored [role=alert]")
        with np.load(download(page, "restored-npz", tmp_path)) as file:
            return dict(file)

    assert "nothing is painted" in restored()
    page.fill("#brush-size", "2")
    box = page.locator("#brush canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.5)
    page.mouse.up()
    mask = np.array([*json.loads(page.evaluate("window.alphabarBrush()"))["mask"]]).reshape(8, 8) == "1"
    assert mask[3:5, 2:6].all() and not mask[0].any() and not mask[:, [0, 7]].any()
    with np.load(server.root.parent / "real.npz") as file:
        original = file["images"][3:4]
    model, keep = load_model(server.root / "small"), torch.from_numpy(~mask).float()[None, None]
    wanted = restore(model, original, task=Mask(keep), degrade=True, calls=4, draws=3, progress=False)
    np.testing.assert_array_equal(restored()["draws"], wanted.draws)
    assert page.locator("#restored img").count() == 7
    assert "PSNR of the mean" in page.inner_text("#restored")
    assert "draw 3 of image 0" in download(page, "restored-html", tmp_path).read_text()
    faults = {v["id"]: [node["html"][:160] for node in v["nodes"]] for v in Axe().run(page).response["violations"]}
    assert faults == {}

    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(picture[:4]).save(tmp_path / "low.png")
    Image.fromarray(picture).save(tmp_path / "mine.png")
    page.set_input_files("#brush-file", tmp_path / "low.png")
    page.wait_for_function("document.querySelector('#brush-note').innerText.includes('4 x 8 pixels')")
    page.set_input_files("#brush-file", tmp_path / "mine.png")
    page.wait_for_selector("#brush img[alt='your picture']")
    page.click("[data-fill=half]")
    assert (restored()["draws"][..., :4, 0] == picture[:, :4]).all()


# ---- what no browser sends


def ask(url: str, data: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status), answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code), error.read().decode(errors="replace")


SETTING = ["small", "ddim", 3, "calls", "", "", "", "", "", "", "last"]


def call(server: Server, setting: list[Any], n: Any = 2, seed: Any = 0) -> str:
    """What the server answers to a request that was written by hand."""
    code, text = ask(f"{server.url}/gradio_api/call/draw", {"data": [False, n, seed, *setting, *SETTING]})
    assert code == 200, text
    return ask(f"{server.url}/gradio_api/call/draw/{json.loads(text)['event_id']}")[1]


@pytest.mark.parametrize(
    "setting",
    [
        ["../outside", *SETTING[1:]],
        ["/etc", *SETTING[1:]],
        ["link", *SETTING[1:]],
        ["stolen", *SETTING[1:]],
        [{"run": "small"}, *SETTING[1:]],
        ["small", "nonsense", *SETTING[2:]],
        ["small", "ddim", 10**30, *SETTING[3:]],
        ["small", "ddim", "DROP", *SETTING[3:]],
        ["small", "ddim", 3, "calls", ["eta"], *SETTING[5:]],
        ["small", "ddim", 3, "calls", "", "x" * 100_000, *SETTING[6:]],
        ["small", "ddim", 3, "calls", "", "<script>alert(1)</script>", *SETTING[6:]],
    ],
    ids=lambda setting: f"{setting!r:.60}",
)
def test_a_hostile_request_is_refused_and_the_app_lives_on(server: Server, setting: list[Any]) -> None:
    answer = call(server, setting)
    assert "<img" not in answer
    assert "<script>" not in answer
    assert re.search(r"role=\\\"alert|event: error|not in the list", answer), answer
    assert "<img" in call(server, SETTING)


@pytest.mark.parametrize(("n", "seed"), [(10**18, 0), (-5, 0), (2.5, 0), ("many", 0), (None, 0), (2, -1), (2, 2**60), ([1], {})])
def test_hostile_numbers_are_refused_with_what_is_allowed(server: Server, n: Any, seed: Any) -> None:
    answer = call(server, SETTING, n, seed)
    assert "give a whole number from" in answer or "event: error" in answer
    assert "<img" not in answer


@pytest.mark.parametrize("brush", ["", "[[[[", {"mask": 1}, "x" * 100_000, '{"mask": "01", "file": "<script>"}'])
def test_a_hostile_brush_is_refused(server: Server, brush: Any) -> None:
    data = {"data": ["small", 0, "gibbs", 3, 2, "", 0, brush]}
    code, text = ask(f"{server.url}/gradio_api/call/restore", data)
    assert code == 200, text
    answer = ask(f"{server.url}/gradio_api/call/restore/{json.loads(text)['event_id']}")[1]
    assert "<img" not in answer and "<script>" not in answer
    assert re.search(r"role=\\\"alert|event: error", answer), answer


def test_no_file_is_served_but_what_was_made_for_download(server: Server) -> None:
    inside = server.root / "notes" / "secret.txt"
    log = server.log
    for path in (
        "/etc/passwd",
        str(inside),
        str(log),
        f"{server.root}/small/checkpoints/last/ema.safetensors",
        "../../etc/passwd",
    ):
        code, text = ask(f"{server.url}/gradio_api/file={path}")
        assert code in (403, 404), path
        assert "root:" not in text
        assert "not for the page" not in text
    for path in (
        "upload",
        "file=http://127.0.0.1/",
        "file=https://example.org/",
        "proxy=https://example.org/",
        "component_server",
    ):
        assert ask(f"{server.url}/gradio_api/{path}", {} if path in ("upload", "component_server") else None)[0] == 404, path
    assert ask(f"{server.url}/monitoring")[0] in (403, 404)


def test_another_sites_script_may_not_use_the_page(server: Server) -> None:
    data = {"data": [False, 2, 0, *SETTING, *SETTING]}
    own = server.url.removeprefix("http://")
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://evil.example:{own.rpartition(':')[2]}", "host": f"evil.example:{own.rpartition(':')[2]}"},
        {"host": "evil.example"},
    ):
        assert ask(f"{server.url}/gradio_api/call/draw", data, headers)[0] == 403, headers
    assert ask(f"{server.url}/gradio_api/call/draw", data, {"origin": server.url})[0] == 200


# ---- the command


def command(*arguments: str, cwd: Path, code: str = "pass") -> "subprocess.CompletedProcess[str]":
    program = f"import sys; {code}; sys.argv[0] = 'alphabar'; from alphabar.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=240)


def test_without_gradio_the_command_says_what_to_install(tmp_path: Path) -> None:
    done = command("app", "--port", str(free_port()), cwd=tmp_path, code="sys.modules['gradio'] = None")
    assert done.returncode == 2
    assert "pip install 'alphabar[app]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_and_a_missing_root_end_in_a_message(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = server.url.rpartition(":")[2]
    done = command("app", "--port", taken, cwd=tmp_path)
    assert done.returncode == 2
    assert f"cannot listen at 127.0.0.1, port {taken}" in done.stderr
    for words, message in (
        (["app", str(tmp_path / "nowhere")], f"there is no folder {tmp_path / 'nowhere'}"),
        (["app", str(tmp_path), "--port", "70000"], "alphabar: port = 70000"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert message in capsys.readouterr().err


def test_another_host_than_this_machine_is_warned_of_and_ctrl_c_ends_well(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    log = tmp_path / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "alphabar", "app", "--host", "0.0.0.0", "--port", str(free_port())],
            cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
    end = time.monotonic() + 120
    while "http://" not in log.read_text() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    words = log.read_text()
    assert "warning: 0.0.0.0 is more than this machine: everyone" in words
    assert "runs under runs; Ctrl-C stops it" in words
    assert "Traceback" not in words
    assert list(tmp_path.glob("alphabar-app-*")) == []


def test_help_opens_with_two_commands_and_says_that_it_is_for_this_machine(tmp_path: Path) -> None:
    done = command("app", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert len(re.findall(r"^\W*alphabar app\b", done.stdout, re.MULTILINE)) >= 2
    assert "127.0.0.1" in done.stdout
