"""What the tab Restore of the page computes and refuses. No browser."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar import restore
from alphabar.core.types import Pixels
from alphabar.restoration.operators import Mask
from alphabar.restoration.result import Restoration
from alphabar.training.checkpoint import load_model
from alphabar.web.html import restored
from alphabar.web.playground import Playground
from alphabar.web.restoring import RestoreSetting, read_picture, restoring
from tests.web.test_playground import fill

HALF = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 8, 0)
QUICK: dict[str, Any] = {"run": "small", "calls": 4, "draws": 3}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Playground:
    folder = tmp_path_factory.mktemp("restoring")
    return Playground(fill(folder), against=str(folder / "real.npz"))


def brush(mask: Any = HALF, file: str = "") -> str:
    return json.dumps({"mask": "".join(map(str, np.ravel(mask))), "file": file})


def png(pixels: Any) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def last(play: Playground, **setting: Any) -> Restoration:
    *words, found = restoring(play, RestoreSetting(**{"brush": brush(), **QUICK, **setting}), every=0)
    assert all(w.startswith("Step ") for w in words)
    assert isinstance(found, Restoration)
    return found


def half(pixels: Pixels, play: Playground, **options: Any) -> Restoration:
    keep = torch.from_numpy(1 - HALF).float()[None, None]
    return restore(load_model(play.runs.root / "small"), pixels, task=Mask(keep), calls=4, draws=3, progress=False, **options)


def test_a_real_image_is_restored_as_restore_does_and_scored(play: Playground) -> None:
    with np.load(play.runs.root.parent / "real.npz") as file:
        original = file["images"][5:6]
    found, wanted = last(play, number=5), half(original, play, degrade=True)
    assert np.array_equal(found.draws, wanted.draws) and found.originals is not None
    assert np.array_equal(found.originals, original)
    text = restored(found)
    assert text.count("<img") == 1 + 1 + 3 + 1 + 1 and "PSNR of the mean" in text
    assert last(play, number=5, method="gibbs", draws=2).record["method"] == "gibbs"


def test_a_picture_of_a_visitor_is_the_measurement(play: Playground) -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    found = last(play, brush=brush(file=png(picture)))
    assert found.originals is None and np.array_equal(found.draws, half(picture[None, ..., None], play).draws)
    assert (found.draws[..., :4, 0] == picture[:, :4]).all()


def test_a_class_is_needed_only_where_the_run_needs_one(play: Playground) -> None:
    assert last(play, run="classes", classes="bag").record["classes"] == ["bag"]
    assert last(play, run="classes").record["classes"] is None


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"brush": brush(0 * HALF)}, "nothing is painted"),
        ({"brush": brush(0 * HALF + 1)}, "all is painted"),
        ({"brush": ""}, "nothing is painted"),
        ({"brush": None}, "wanted text of at most 6 MB"),
        ({"brush": "[" * 100_000}, "what the brush sent is not valid JSON"),
        ({"brush": " " * 7_000_000}, "wanted text of at most 6 MB"),
        ({"brush": json.dumps({"mask": [0, 1], "file": ""})}, "the mask is none of 8 x 8 pixels"),
        ({"brush": brush(HALF[:4])}, "the mask is none of 8 x 8 pixels"),
        ({"brush": brush(3 * HALF)}, "the mask is none of 8 x 8 pixels"),
        ({"brush": brush(file="data:,<script>")}, "did not arrive whole"),
        ({"brush": brush(file=png(np.zeros((9, 8), np.uint8)))}, r"has 9 x 8 pixels .* and this run makes 8 x 8"),
        ({"brush": brush(file=png(np.zeros((8, 8, 3), np.uint8)))}, r"images of 3 channel\(s\), and the model makes 1"),
        ({"brush": brush(file=png(np.zeros((8, 8), np.uint16)))}, "your picture is uint16, and this run was trained on uint8"),
        ({"brush": brush(file="data:," + base64.b64encode(b"GIF89a").decode())}, "your picture"),
        ({"number": 300}, "number of the real image = 300: give a whole number from 0 to 299"),
        ({"draws": 65}, "draws = 65"),
        ({"calls": "many"}, "calls = 'many'"),
        ({"calls": 1000, "draws": 64}, "64 draws of 1000 calls are 64,000"),
        ({"method": "telea"}, "method 'telea': choose"),
        ({"run": "../outside"}, "lies outside"),
        ({"classes": "cat"}, "trained without classes"),
    ],
)
def test_what_cannot_be_restored_is_refused(play: Playground, setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        last(play, **setting)


def test_a_picture_is_measured_before_it_is_decoded(play: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    Image.new("L", (4000, 4000)).save(out, "PNG")
    monkeypatch.setattr("alphabar.web.restoring.decode", None)
    with pytest.raises(ValueError, match="has 4000 x 4000 pixels"):
        read_picture(out.getvalue(), load_model(play.runs.root / "small"))


def test_without_real_images_a_picture_is_asked_for(play: Playground) -> None:
    with pytest.raises(ValueError, match="there is no real image for this run: choose a picture"):
        last(Playground(play.runs.root))


def test_closing_stops_the_work(play: Playground) -> None:
    stream = restoring(play, RestoreSetting(brush=brush(), run="small", calls=200, draws=60), every=0)
    assert str(next(stream)).startswith("Step 1 of")
    stream.close()
