"""Image sets, samples, scores and models in a notebook, and as sequences."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import alphabar
from alphabar import Samples
from alphabar.data.images import to_model
from alphabar.evaluation.score import Score


def pixels(n: int = 70, kind: Any = np.uint8, c: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, (n, 6, 5, c), endpoint=True).astype(kind)


def both() -> list[Any]:
    record = {"sampler": "ddim", "nfe": 2.5, "seed": 7, "n": 70, "first_index": 10}
    return [alphabar.load(pixels(), axes="nhwc"), Samples(pixels(), record)]


@pytest.mark.parametrize("of", [0, 1], ids=["image set", "samples"])
def test_a_sequence_of_images(of: int) -> None:
    made, raw = both()[of], pixels()
    assert len(made) == 70 and len(list(made)) == 70
    np.testing.assert_array_equal(made[3], raw[3])
    np.testing.assert_array_equal(made[-1], raw[-1])
    np.testing.assert_array_equal(np.asarray(made), raw)
    np.testing.assert_array_equal(np.asarray(made.pil(4)), raw[4])
    assert np.asarray(made, dtype=np.float32).dtype == np.float32
    assert made.tensor().equal(to_model(raw))
    part = made[2:9:3]
    assert type(part) is type(made)
    np.testing.assert_array_equal(np.asarray(part), raw[[2, 5, 8]])
    with pytest.raises(IndexError):
        made[70]


def test_a_part_keeps_labels_and_the_addresses_of_its_noise() -> None:
    labelled = alphabar.load(pixels(), axes="nhwc", labels=np.arange(70) % 7)
    assert labelled[3:6].labels.tolist() == [3, 4, 5] and labelled[3:6].fingerprint != labelled.fingerprint
    samples = both()[1]
    assert samples[2:9:3].record["indices"] == [12, 15, 18] and samples[2:9:3].record["n"] == 3
    assert samples[5:8].record["first_index"] == 15 and "indices" not in samples[5:8].record
    assert samples[2:9:3][1:].record["indices"] == [15, 18]


def test_a_part_keeps_the_classes_that_images_take_in_turns() -> None:
    samples = Samples(pixels(3), {"n": 3, "first_index": 0, "seed": 0, "classes": [4, 5, 6]})
    part = samples[1:].record  # image k has the class number k % 3 of the list
    assert (part["classes"], part["first_index"], part["n"]) == ([4, 5, 6], 1, 2)


def test_a_part_of_samples_is_what_sample_draws(tmp_path: Path) -> None:
    model = alphabar.load_model("bundled")
    whole, again = (alphabar.sample(model, n, steps=2, progress=False, **more) for n, more in ((4, {}), (2, {"indices": [1, 2]})))
    np.testing.assert_array_equal(np.asarray(whole[1:3]), np.asarray(again))
    assert {k: whole[1:3].record[k] for k in ("n", "first_index", "seed")} == {
        k: again.record[k] for k in ("n", "first_index", "seed")
    }


@pytest.mark.parametrize("of", [0, 1], ids=["image set", "samples"])
def test_shown_in_a_notebook(of: int) -> None:
    made = both()[of]
    picture = Image.open(io.BytesIO(made._repr_png_()))
    assert picture.mode == "RGB" and picture.size == made[:64].sheet(scale=2).size
    text = made._repr_html_()
    assert re.match(r'<figure><img src="data:image/png;base64,[^"<>]+" alt="', text)
    assert "70 images of 6x5x3" in text and "the first 64 are shown" in text and "<script" not in text
    if of:
        assert "ddim, 2.5 network calls each, seed 7" in text


def test_names_are_escaped() -> None:
    assert "<b>" not in Samples(pixels(2), {"sampler": "<b>x"})._repr_html_()


def test_16_bit_images_of_many_channels_are_shown() -> None:
    made = Samples(pixels(3, np.uint16, 5), {})
    assert Image.open(io.BytesIO(made._repr_png_())).size[0] > 2 * 4 * 5
    assert made.tensor().shape == (3, 5, 6, 5)


def test_a_score_is_a_row_with_its_interval() -> None:
    score = Score("fid", 2.0, 9, 9, 1.0, 9, "half", "e", {}, "r", "<real>", interval=(1.5, 4.0))
    row = score._repr_html_()
    assert "FID 2" in row and "&lt;real&gt;" in row
    x = {k: float(v) for k, v in re.findall(r'(x1|x2|cx)="([\d.]+)"', row)}
    assert x["x1"] < x["cx"] < x["x2"] == 196.0  # the end of the interval is the highest value
    assert 'stroke-width="4"' not in Score("fid", 2.0, 9, 9, None, None, "half", "e", {}, "r", "real")._repr_html_()


def test_a_model_says_what_it_is() -> None:
    model = alphabar.load_model("bundled")
    lines = str(model).splitlines()
    assert len(lines) == 5 and model.fingerprint in lines[0] and "images of 28x28x1, uint8" in lines[1]
    assert "Conv2d" in repr(model)
