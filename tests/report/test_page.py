"""The page: whole, self-contained, escaped, and written whatever a run lacks."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.core.files import append_jsonl
from alphabar.core.progress import duration
from alphabar.report.png import strip
from alphabar.report.report_page import write_report
from alphabar.report.words import bracket, count, kid, sig
from alphabar.training.config import Recipe
from tests.fixtures.runs import MakeRun, score
from tests.results.test_runs import FAULTS

VOID = {"meta", "link", "img", "br", "hr", "input", "use"}


class Page(HTMLParser):
    """Checks nesting and keeps tags, ids and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.html)
        assert self.open == []
        ids = [a["id"] for _, a in self.tags if "id" in a]
        assert len(ids) == len(set(ids)), "an id was given twice"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def fetches_nothing(page: Page) -> None:
    """No tag, attribute or style that makes a browser ask for a file."""
    assert not [a for a in page.all("script") if a]  # the page's own is in the page
    assert not page.all("iframe")
    for _, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), value
    assert set(re.findall(r"url\((.)", page.html)) <= {"#"}
    assert "@import" not in page.html
    for image in page.all("img"):
        assert image["alt"]
        assert (image["src"] or "").startswith("data:image/png;base64,")


def test_one_run(make_run: MakeRun, tmp_path: Path) -> None:
    out = write_report([make_run(previews=5)], tmp_path / "deep" / "page.html")
    page = Page(out)
    fetches_nothing(page)
    sheets = [a for a in page.all("img") if (a["alt"] or "").startswith("Sheet of")]
    assert [a["alt"] for a in sheets] == [
        f"Sheet of samples after {n} images of training." for n in ("12,800", "38,400", "64,000")
    ]
    shown = base64.b64decode((sheets[0]["src"] or "").split(",")[1])
    assert shown == (tmp_path / "garments" / "samples" / "preview_0000012800.png").read_bytes()
    plots = [a["aria-label"] or "" for a in page.all("svg")]
    assert len(plots) == 5
    assert plots[0].startswith("Training loss against images seen: from 0.4")
    assert "Held-out loss: from" in plots[0]
    assert "64,000 of 64,000 images seen" in page.text
    assert "1:49:03" in page.text
    assert "as many real images (the floor), 1.1" in page.text
    assert "train.ema_half_life" in page.text
    assert len(page.all("h1")) == 1
    assert "the run has no trajectory, and no checkpoint to sample one from" in page.text


def test_the_last_test_for_copies_is_shown_with_its_nearest_pairs(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("a", images=64_000)
    assert "Copies of training images" not in Page(write_report([run], tmp_path / "none.html")).text
    for images, verdict in ((3000, "copies found"), (6000, "no sign of copying")):
        append_jsonl(
            run / "events.jsonl", {"event": "copies", "images": images, "verdict": verdict, "reason": f"because {images}"}
        )
    append_jsonl(run / "events.jsonl", {"event": "copies", "images": 6001, "verdict": 3})  # damaged
    Image.new("L", (30, 20)).save(run / "samples" / "copies.png")
    page = Page(write_report([run], tmp_path / "page.html"))
    fetches_nothing(page)
    assert (
        "No sign of copying after 6,000 images, in pixels: because 6000. 1 of 2 tests during training found copies." in page.text
    )
    (sheet,) = [a for a in page.all("img") if (a["alt"] or "").startswith("The samples nearest")]
    assert (sheet["width"], sheet["height"]) == ("30", "20")


def test_several_runs_show_only_what_differs(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b", lr=1e-3, end="stopped"), make_run("c", previews=0, end="diverged")]
    page = Page(write_report(runs, tmp_path / "page.html"))
    fetches_nothing(page)
    differ = page.html[page.html.index('id="differ"') : page.html.index('id="together"')]
    assert re.findall(r"<code>(.*?)</code>", differ) == ["train.lr", "0.002", "0.001", "0.002"]
    assert page.text.count("Samples during training") == 2  # c has none, and no empty place for them
    assert "Diverged: the loss became nan" in page.text
    assert "FID of the runs against images seen." in [a["aria-label"] for a in page.all("svg")]
    same = Page(write_report([runs[0], runs[2]], tmp_path / "same.html"))
    assert "The recipes of these runs are the same" in same.text


@pytest.mark.parametrize("fault", ["no recipe", "no events", "odd rows"])
def test_a_page_is_written_whatever_is_missing(make_run: MakeRun, tmp_path: Path, fault: str) -> None:
    path = make_run()
    spoil, words = FAULTS[fault]
    spoil(path)
    page = Page(write_report([path], tmp_path / "page.html"))
    fetches_nothing(page)
    assert words in page.text


def test_a_run_without_events(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.toml").write_text(Recipe().toml())
    page = Page(write_report([tmp_path / "empty"], tmp_path / "page.html"))
    assert not page.all("svg")
    for words in ("No events", "No scores yet"):
        assert words in page.text
    for empty in ("Samples during training", "Loss", "FID", "KID"):
        assert f">{empty}<" not in page.html


def test_a_broken_preview_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run(previews=2)
    first, last = sorted((path / "samples").glob("*.png"))
    first.write_bytes(first.read_bytes()[:200])
    last.write_bytes(b"<svg onload=alert(1)>")
    page = Page(write_report([path], tmp_path / "page.html"))
    assert page.all("img") == []
    assert f"{first.name} cannot be read" in page.text
    assert f"{last.name} cannot be read" in page.text


def test_text_is_escaped(make_run: MakeRun, tmp_path: Path) -> None:
    nasty = "<script>alert(1)<"  # a slash cannot be in a folder's name
    path = make_run(nasty)
    recipe = path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('set = "fashion_mnist"', 'set = "</title><img src=x onerror=alert(2)>"'))
    (path / "machine.json").write_text('{"cpu": "<b>\\"&", "cores": "<i>", "versions": {"</pre><script>": 1}}')
    append_jsonl(path / "scores.jsonl", {"images": 70_000, **score("fid", 2.0), "sampler": {"sampler": "<u>", "plan": "<s>"}})
    append_jsonl(path / "scores.jsonl", {"images": 70_000, "metric": "<em>", "value": 1.0})
    page = Page(write_report([path, make_run("plain")], tmp_path / "page.html"))
    assert not {"script", "b", "i", "u", "s", "em"} & {tag for tag, _ in page.tags}
    assert not [a for _, a in page.tags if "onerror" in a]
    assert nasty in page.text
    fetches_nothing(page)


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alphabar report runs/garments"):
        write_report([], tmp_path / "page.html")


@pytest.mark.parametrize("channels", [1, 3])
def test_strip_has_transparent_gaps_and_the_pixels_unchanged(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4, channels), dtype=np.uint8)
    pixels[0] = 255  # as white as the paper
    picture = strip(pixels)
    again = np.asarray(Image.open(io.BytesIO(_png(picture))))
    alpha = again[..., -1]
    assert alpha.shape == (6, 5 * 5 - 1)  # gaps between images, none round them
    wanted = np.zeros_like(alpha)
    for k in range(5):
        box = (slice(0, 6), slice(5 * k, 4 + 5 * k))
        wanted[box] = 255
        np.testing.assert_array_equal(again[box][..., :channels], pixels[k])
    np.testing.assert_array_equal(alpha, wanted)


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(None, "–"), (0.0, "0"), (12.345, "12.3"), (0.00012, "0.00012")],
        *[(1234.5, "1,234"), (-0.0005, "−0.0005"), (3e-7, "3e−07"), (999.9, "1,000")],
    ],
)
def test_sig(value: float | None, text: str) -> None:
    assert sig(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "unknown"), (0.00123, "1.23 ms"), (3.21, "3.2 s"), (59.7, "0:01:00"), (75, "0:01:15"), (6543.2, "1:49:03")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_bracket() -> None:
    assert bracket((1.314, 2.0)) == "[1.31, 2]"
    assert bracket((-0.0001, 0.00123), kid) == "[−0.10, 1.23]"
    assert bracket(None) == ""


def test_scores_are_shown_with_their_intervals(make_run: MakeRun, tmp_path: Path) -> None:
    """One score without an interval says why; metrics have their own names, and the plots their bars."""
    path = make_run()
    known = {"interval": [8.5, 11.25], "floor_interval": [1.05, 1.15], "se": 0.7, "warrant": "failed: noise"}  # old name
    append_jsonl(path / "scores.jsonl", {"images": 70_000, **score("fid", 9.0), **known})
    append_jsonl(path / "scores.jsonl", {"images": 70_000, **score("kid", 0.02), "note": "no interval: too few <images>"})
    append_jsonl(path / "scores.jsonl", {**score("fid_infinity", 8.0), "interval": [7.0, 9.0]})
    append_jsonl(path / "scores.jsonl", {"images": 70_000, **score("recall", 0.5), "interval": [0.25, 0.75]})
    page = Page(write_report([path], tmp_path / "page.html"))
    fetches_nothing(page)
    assert "9 [8.5, 11.2]" in page.text  # in the table, as the lowest of six, and under the plot
    assert "FID, lowest of 6" in page.text
    assert "as many real images: 1.1 [1.05, 1.15]" in page.text
    assert "FID-infinity8 [7, 9]" in page.text.replace("\n", "").replace("–", "")
    assert (
        "Bars: 95 % intervals, for its expectation at these numbers of images. A point without one: its record has none."
        in page.text
    )
    assert "No bars: its record has none; too few <images>." in page.text
    assert "No interval, KID: too few <images>." in page.text
    assert "for the extractor of these scores: FID: failed: noise." in page.text
    assert "except for precision, recall, density, coverage, where higher is better" in page.text
    plots = [a["aria-label"] or "" for a in page.all("svg")]
    assert any(label.startswith("FID against") and label.endswith("to 9 [8.5, 11.2].") for label in plots)
    assert any(label.startswith("recall against images seen, from 0.5 to 0.5 [0.25, 0.75]") for label in plots)
    bars = page.html.split("LineCollection_1")
    assert len(bars) == 3  # of FID and of recall


def test_kid() -> None:
    assert [kid(v) for v in (None, 0.0015, -3e-6, -0.00012)] == ["–", "1.50", "0.00", "−0.12"]


def test_count() -> None:
    assert count(1_234_567.0) == "1,234,567"
    assert count(None) == "unknown"
