"""What goes wrong in other tools must not go wrong here: one test per fault, through the public interface.

Faults that a module's own tests hold (16-bit files, sizes, two processes, ranks of covariances, copies) are not repeated.
"""

import inspect
import json
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import alphabar
from alphabar.data.contact_sheet import contact_sheet, shown
from alphabar.data.images import to_model
from alphabar.data.values import to_depth
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.kid import kid
from alphabar.evaluation.score import METRICS, PROTOCOL, ProtocolError, Score
from alphabar.features.load import load_extractor
from alphabar.features.module_extractor import ModuleExtractor
from alphabar.sampling.sample_set import SampleSet
from alphabar.training.config import resolve
from alphabar.training.initial_model import new_model
from alphabar.training.stream import Stream
from alphabar.verbs import score as score_verb
from tests.fixtures.sets import Linear, image_set, stripes

RECORD = {"sampler": "ddim", "eta": 0.0, "steps": 10, "nfe": 10.0, "seed": 3, "first_index": 0, "n": 60, "model": "abc"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def evaluator() -> ImageEval:
    return ImageEval(Linear(), stripes(300, 0), floor_images=stripes(200, 1))


@dataclass
class Deep(Linear):
    """`Linear` of any depth and any number of channels; keeps what it was given."""

    def __post_init__(self) -> None:
        self.given: list[NDArray[Any]] = []

    def features(self, pixels: NDArray[Any]) -> Tensor:
        self.given.append(np.array(pixels))
        flat = ((to_model(pixels) + 1) / 2).double().flatten(1)
        matrix = torch.from_numpy(np.random.default_rng(self.seed).standard_normal((flat.shape[1], self.dim)))
        return (flat @ matrix).float()


# ---- pixels


def test_16_bit_images_are_not_scored_as_black_and_white() -> None:
    """S1: clipped at 255, sets that differ above it score the same; here 16 bits score as 8 do, and differ."""
    real, pool, eight = stripes(300, 0), stripes(200, 1), stripes(80, 5).pixels
    deep = ImageEval(Deep(), image_set(to_depth(real.pixels, "uint16")), floor_images=to_depth(pool.pixels, "uint16"))
    plain = ImageEval(Deep(), real, floor_images=pool)
    images = to_depth(eight, "uint16")
    assert (images[eight > 0] > 255).all()  # all of it would be white
    for a, b in zip(deep.score(images), plain.score(eight), strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-4, abs=1e-4), a.metric
    assert deep.fid(images).value < 0.1 * deep.fid(images // 2 + 256).value
    with pytest.raises(ValueError, match="16-bit images that 8 bits cannot hold"):
        plain.fid(images + np.uint16(1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_neither_wrap_nor_truncate(evaluator: ImageEval, dtype: Any) -> None:
    """S6: (images * 255).byte() turns 1.004 into 0, and 63 of 256 levels into the level below after a round trip by [-1, 1]."""
    images = np.tile(np.arange(256, dtype=np.uint8), 81).reshape(-1, 9, 12, 3)
    back = (to_model(images).numpy().astype(dtype) + 1) / 2
    assert ((back * 255).astype(np.uint8).transpose(0, 2, 3, 1) != images).any()  # cutting would lose levels
    own = Deep()
    own_evaluator = ImageEval(own, stripes(300, 0), floor_images=stripes(200, 1), cache=False)
    value = own_evaluator.kid(back).value
    np.testing.assert_array_equal(own.given[0], images)
    assert value == own_evaluator.kid(images).value
    assert value == own_evaluator.kid((images / 255).astype(dtype)).value  # as other libraries save them
    for wrong, what in ((1.004, "1.004"), (-0.01, "-0.01"), (1.01, "1.01")):
        off = back.copy()
        off.flat[7] = wrong
        with pytest.raises(ValueError, match=what):
            evaluator.kid(off)
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluator.kid(np.full((9, 9, 12, 3), np.nan, dtype))


class Means(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :, :4].mean((2, 3)), x[:, :, :, ::3].std((2, 3))], 1)


def test_scores_by_two_resizes_do_not_subtract() -> None:
    """S7: a resize with antialiasing gives another FID under the same name; here it is another extractor, and is named."""
    original, clean = (
        ImageEval(
            ModuleExtractor(Means(), "means", 6, resize=kind, size=(16, 16), device="cpu"),
            stripes(90, 0), floor_images=stripes(90, 1),
        )
        for kind in ("original", "clean")
    )  # fmt: skip
    a, b = original.fid(stripes(60, 5).pixels), clean.fid(stripes(60, 5).pixels)
    assert a.value != b.value
    assert a.preprocessing["resize"] != b.preprocessing["resize"]
    with pytest.raises(ProtocolError) as error:
        a - b
    assert error.value.field == "extractor"
    with pytest.raises(ProtocolError) as error:  # and still named where an extractor kept its fingerprint
        a - replace(b, extractor=a.extractor)
    assert error.value.field == "preprocessing"
    assert float(a - Score.from_json(json.dumps(a.to_json()))) == 0  # what was read back is the same protocol


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_five_channels_that_are_not_square_of_any_depth(dtype: str) -> None:
    """A2.4: grey, many channels, unlike sides and 16 bits go through every metric, and reach the extractor unchanged."""
    real, pool, images = (to_depth(stripes(n, k, (6, 10, 5)).pixels, dtype) for n, k in ((120, 0), (100, 1), (60, 5)))
    own = Deep()
    own_evaluator = ImageEval(own, image_set(real), floor_images=pool, cache=False)
    scores = own_evaluator.score(images)
    assert {s.metric for s in scores} == set(METRICS)
    assert all(np.isfinite(s.value) for s in scores)
    assert own.given[0].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(own.given[0], images)


def test_pictures_show_the_pixels_and_not_their_range() -> None:
    """S17: trackers stretch an image to its own range; here dark is dark and every level is what it was."""
    dark = np.random.default_rng(0).integers(0, 11, (6, 9, 12, 3)).astype(np.uint8)
    sheet = np.asarray(contact_sheet(dark, columns=3, pad=0))
    for k, image in enumerate(dark):
        row, column = divmod(k, 3)
        np.testing.assert_array_equal(sheet[9 * row : 9 * row + 9, 12 * column : 12 * column + 12], image)
    np.testing.assert_array_equal(shown(to_depth(dark, "uint16"), (0.0, 1.0)), dark)
    assert isinstance(contact_sheet(dark), Image.Image)


# ---- metrics


def test_a_collapsed_model_has_precision_and_no_recall() -> None:
    """S8: swapped, a model that makes one kind of image has the recall of a perfect one."""
    evaluator = ImageEval(Linear(6), stripes(400, 0), floor_images=stripes(300, 1))
    two = stripes(900, 5)
    assert two.labels is not None
    one = two.pixels[two.labels == 0][:300]
    values = {s.metric: s for s in evaluator.score(one, metrics=("precision", "recall", "density", "coverage"))}
    assert values["precision"].value > 0.85
    assert values["recall"].value < 0.7
    assert values["coverage"].value < 0.7
    both = {s.metric: s for s in evaluator.score(two.pixels[:300], metrics=("recall", "coverage"))}
    for metric in ("recall", "coverage"):
        assert both[metric].value > 0.85
        assert values[metric].interval[1] < both[metric].interval[0]  # type: ignore[index]


@pytest.mark.slow(5)
def test_the_error_of_kid_is_that_of_the_estimate() -> None:
    """S9: a spread over subsets is up to 3 times the error of KID, and moves with the subsets' size and from call to call."""
    rng = np.random.default_rng(0)
    for n, m in ((60, 90), (240, 360)):
        found = [kid(rng.standard_normal((n, 6)), rng.standard_normal((m, 6)) * 1.1 + 0.3) for _ in range(300)]
        true = np.std([e.value for e in found], ddof=1)  # known to 4 %
        estimated = np.sqrt(np.mean([e.variance for e in found]))
        assert estimated == pytest.approx(true, rel=0.15)


def test_kid_has_no_subsets_and_leaves_random_states_alone() -> None:
    rng = np.random.default_rng(0)
    assert not {"subsets", "subset_size", "seed"} & set(inspect.signature(kid).parameters)
    x, y = rng.standard_normal((300, 6)), rng.standard_normal((200, 6))
    state = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index,union-attr]
    first, *rest = (kid(x, y, block=block).estimate() for block in (1024, 1024, 64))
    assert first == rest[0]
    assert first.se == pytest.approx(rest[1].se, rel=1e-4)
    assert (np.random.get_state()[1] == state[0]).all()  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), state[1])


def test_kid_of_few_images_has_a_value_an_interval_and_may_be_negative(evaluator: ImageEval) -> None:
    """A2.11: elsewhere KID fails below 1000 images, and a negative one confuses: here its interval reaches to 0 and beyond."""
    found = [evaluator.kid(stripes(40, 10 + k).pixels) for k in range(12)]
    assert any(s.value < 0 for s in found)
    for s in found:
        low, high = s.interval  # type: ignore[misc]
        assert low <= s.value <= high
        if s.value < 0:
            assert low < 0 < high


def test_equal_sets_score_one_and_no_distance(evaluator: ImageEval) -> None:
    """A2.11: with balls that are open, equal sets have precision 0; and FID of a set to itself is 0, not NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the short floor
        scores = {s.metric: s.value for s in evaluator.score(stripes(300, 0).pixels)}
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
    assert scores["fid"] == pytest.approx(0, abs=1e-9)
    assert scores["fid_infinity"] == pytest.approx(0, abs=1e-9)
    assert scores["kid"] <= 0
    copies = np.repeat(stripes(40, 0).pixels, 7, 0)  # every ball has radius 0
    of_copies = ImageEval(Linear(), image_set(copies), floor_images=stripes(300, 1))
    for s in of_copies.score(copies, metrics=("precision", "recall", "coverage")):
        assert s.value == 1, s.metric


class Off(Linear):
    """Features that are not n x dim."""

    def features(self, pixels: Any) -> Tensor:
        return super().features(pixels)[:, 0]


class Lame(Linear):
    """Its last feature repeats the first."""

    def features(self, pixels: NDArray[np.uint8]) -> Tensor:
        f = super().features(pixels)
        f[:, -1] = f[:, 0]
        return f


def test_fid_is_no_number_where_it_should_be_none(evaluator: ImageEval) -> None:
    """S13: 1-D features gave FID 1e-5, fewer images than features a number without a word, complex parts were dropped."""
    images = stripes(60, 5).pixels
    off = ImageEval(Off(), stripes(300, 0), floor_images=stripes(200, 1), cache=False)
    with pytest.raises(ValueError, match=r"gave features of shape \(60,\) for 60 images; its dim says \(60, 4\)"):
        off.fid(images)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (n, 9, 12, 3)).astype(np.uint8) for n in (300, 200, 61)]
    wide = ImageEval(Linear(60), image_set(noise[0]), floor_images=noise[1])
    with pytest.raises(ValueError, match="60 images are too few for FID: the extractor has 60 features, so it needs at least 61"):
        wide.fid(images)
    just = wide.fid(noise[2])
    assert just.interval is None
    assert "too few" in (just.note or "")
    lame = ImageEval(Lame(), stripes(300, 0), floor_images=stripes(200, 1)).fid(images)
    assert lame.interval is None
    assert "singular" in (lame.note or "")
    for score in (just, lame, evaluator.fid(images)):
        assert type(score.value) is float
        assert np.isfinite(score.value)
        assert score.value >= 0


def test_the_limit_of_fid_needs_no_luck() -> None:
    """C4: FID falls with n, by its estimated bias, and its limit does not; with one seed it is the same at every call."""
    evaluator = ImageEval(Linear(8), stripes(2000, 0), floor_images=stripes(2000, 1))
    blurred = np.clip(stripes(2000, 5).pixels // 2 + 50, 0, 255).astype(np.uint8)
    few, many = (dict(zip(("fid", "limit"), evaluator.score(x, metrics=("fid", "fid_infinity")), strict=True))
                 for x in (blurred[:200], blurred))  # fmt: skip
    assert few["fid"].bias > 3 * many["fid"].bias > 0  # type: ignore[operator]
    # of ten parts, which together hold the images of the whole, only the bias is left
    excess = np.mean([evaluator.fid(blurred[k : k + 200]).value for k in range(0, 2000, 200)]) - many["fid"].value
    assert excess == pytest.approx(few["fid"].bias - many["fid"].bias, rel=0.4)  # type: ignore[operator]
    low, high = few["limit"].interval  # type: ignore[misc]
    assert low <= many["limit"].value <= high
    (again,) = evaluator.score(blurred[:200], metrics=("fid_infinity",))
    assert again.value == few["limit"].value
    other = ImageEval(Linear(8), stripes(2000, 0), floor_images=stripes(2000, 1), seed=1)
    assert other.score(blurred[:200], metrics=("fid_infinity",))[0].value != few["limit"].value


# ---- where features come from


def test_real_features_are_those_of_the_very_images(cache: Path) -> None:
    """S11: elsewhere real features come from the shuffled, augmented training loader, into a file that is keyed by nothing."""
    real = stripes(60, 0, (8, 12, 3))
    made = resolve("garments", ["--train.flip", "--train.batch", "32", "--model.channels", "16", "16", "--model.embedding", "16"])
    before = real.pixels.copy()
    stream = Stream(real.pixels, np.arange(60), made.train, new_model(made, (3, 8, 12)))
    mirrored = stream.batch(0, 60).pixels
    assert not {b.tobytes() for b in mirrored} <= {b.tobytes() for b in before}  # it does augment
    np.testing.assert_array_equal(real.pixels, before)

    def fid_of(images: Any, extractor: Deep) -> Score:
        return ImageEval(extractor, images, floor_images=stripes(50, 1, (8, 12, 3))).fid(stripes(40, 5, (8, 12, 3)).pixels)

    first = Deep()
    score = fid_of(real, first)
    seen = [g for g in first.given if len(g) == 60]
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], before)  # whole, in order, once
    second = Deep()
    assert fid_of(image_set(before), second) == score
    assert second.given == []  # all read
    changed = before.copy()
    changed[7, 0, 0, 0] ^= 1
    for other in (changed, before[:-1], before[::-1].copy()):
        third = Deep()
        against = fid_of(image_set(other), third)
        assert [len(g) for g in third.given] == [len(other)]  # another entry; the rest is read
        assert (against.reference, against.n_reference) != (score.reference, score.n_reference) or against.value == score.value
    assert len(list((cache / "features").iterdir())) == 3 + 3  # images, floor, reference; and three other references


def test_samples_are_scored_at_the_depth_of_the_reference() -> None:
    """S11: fakes that are never rounded to 8 bit differ from real ones by their depth alone."""
    own = Deep()
    own_evaluator = ImageEval(own, stripes(300, 0), floor_images=stripes(200, 1), cache=False)
    images = stripes(40, 5).pixels
    between = (images + np.random.default_rng(0).uniform(-0.45, 0.45, images.shape)).clip(0, 255) / 255
    assert own_evaluator.kid(between).value == own_evaluator.kid(images).value
    np.testing.assert_array_equal(own.given[0], images)


def test_features_do_not_depend_on_the_batch() -> None:
    """A2.9: of one image alone, among 7 and among 64: below a hundred-thousandth of what images differ by."""
    extractor = load_extractor("bundled")
    with np.load(Path(alphabar.__file__).parent / "assets" / "fashion_mnist_test.npz", allow_pickle=False) as file:
        pixels = file["images"][:64].reshape(64, 28, 28, 1)
    whole = extractor.features(pixels)
    for batch in (1, 7):
        parts = torch.cat([extractor.features(pixels[k : k + batch]) for k in range(0, 64, batch)])
        assert float((parts - whole).abs().max()) < 1e-5 * float(whole.std())


# ---- the record


def test_a_record_holds_all_that_a_number_needs(evaluator: ImageEval) -> None:
    """S19, A2.1, A2.7: a number alone does not say how many images, which seeds, or whether it is the best of three."""
    row = evaluator.score(stripes(60, 5).pixels, RECORD, ("fid",))[0].to_json()
    for name in ("value", "se", "interval", "bias", "floor", "floor_interval", "nfe"):
        assert row[name] is not None, name
    assert (row["n"], row["n_reference"], row["floor_n"], row["floor_sets"], row["floor_seed"]) == (60, 300, 60, 3, 0)
    assert row["seeds"] == {"seed": 3, "first_index": 0}
    assert row["sampler"]["steps"] == 10
    assert row["sampler"]["model"] == "abc"
    assert {"alphabar", "torch", "numpy"} <= set(row["versions"])
    # every field of the protocol is in the record, and none of what is compared is in the protocol
    assert set(PROTOCOL) <= {f.name for f in fields(Score)}
    assert not set(PROTOCOL) & {"nfe", "seeds", "sampler", "value", "floor", "versions"}


def test_every_score_is_kept_and_not_the_best(tmp_path: Path, evaluator: ImageEval) -> None:
    """S18, S19: of three scores of a run all three stay, in their order, each with its seed."""
    real = stripes(300, 0)
    for seed in (2, 0, 1):
        record = {**RECORD, "seed": seed, "first_index": 0}
        score_verb.measure(evaluator, real, SampleSet("run", stripes(60, seed).pixels, record, tmp_path), ("fid",))
    rows = [Score.from_json(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row.seeds["seed"] for row in rows if row.seeds] == [2, 0, 1]
    assert len({row.value for row in rows}) == 3
