"""Images to be scored, wherever they lie: which ones they are, and which ones a run was trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.core.files import read_jsonl
from alphabar.core.run import Run
from alphabar.data.image_set import load
from alphabar.data.split import HOLDOUT, holdout
from alphabar.data.values import to_values
from alphabar.evaluation.image_eval import ImageEval
from alphabar.sampling.sample_set import SampleSet, open_samples
from alphabar.sampling.samples import Samples
from alphabar.training.config import resolve
from alphabar.verbs.compare import compare_report
from alphabar.verbs.memorisation import find_copies, training_images
from alphabar.verbs.options import CompareOptions, ScoreReportOptions
from alphabar.verbs.score import like_classes, score, score_report
from alphabar.verbs.train import train
from tests.fixtures.runs import untrained_extractor
from tests.fixtures.sets import Linear


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))


def pictures(n: int, seed: int = 0, high: int = 256, dtype: str = "uint8") -> Any:
    return np.random.default_rng(seed).integers(0, high, (n, 8, 8, 1)).astype(dtype)


def saved(path: Path, n: int = 20, **more: Any) -> Samples:
    made = Samples(pictures(n), {"seed": 3, "first_index": 0, "n": n, "nfe": 2.0, **more})
    made.save(path)
    return made


def test_a_part_of_a_path_that_has_brackets(tmp_path: Path) -> None:
    made = saved(tmp_path / "s[1].npz")
    for text, start, stop in (("s[1].npz", 0, 20), ("s[1].npz[5:]", 5, 20), ("s[1].npz[:7]", 0, 7), ("s[1].npz[5:99]", 5, 20)):
        opened = open_samples(tmp_path / text)
        np.testing.assert_array_equal(opened.pixels, made.images[start:stop])
        assert opened.record is not None
        assert (opened.record["first_index"], opened.record["n"]) == (start, stop - start)
    opened = open_samples(tmp_path / "s[1].npz[5:]", n=4)
    np.testing.assert_array_equal(opened.pixels, made.images[5:9])
    for part in ("[20:]", "[7:7]"):
        with pytest.raises(ValueError, match="is empty"):
            open_samples(f"{tmp_path}/s[1].npz{part}")


@pytest.mark.parametrize("n", [0, -1])
def test_no_images_are_not_all_images_and_not_all_but_one(tmp_path: Path, n: int) -> None:
    saved(tmp_path / "s.npz")
    for what in (str(tmp_path / "s.npz"), "bundled"):
        with pytest.raises(ValueError, match=f"n = {n}: give the number of images"):
            open_samples(what, n=n)


def test_a_model_has_no_parts() -> None:
    with pytest.raises(ValueError, match=r"bundled\[5:9\]: a part can be taken of stored images only"):
        open_samples("bundled[5:9]")


def test_samples_that_some_were_taken_from_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "s.npz", n=20)
    saved(tmp_path / "cut.npz", n=20)
    with np.load(tmp_path / "cut.npz", allow_pickle=False) as file:
        arrays = dict(file)
    np.savez(tmp_path / "cut.npz", **{**arrays, "images": arrays["images"][1:]})
    with pytest.raises(ValueError, match="holds 19 images, but its record is of 20"):
        open_samples(tmp_path / "cut.npz")
    made = Samples(pictures(5), {"seed": 3, "first_index": 0, "n": 5})
    made.save(f"{tmp_path}/pngs/")
    assert len(open_samples(tmp_path / "pngs").pixels) == 5
    next((tmp_path / "pngs").glob("*3.png")).unlink()
    with pytest.raises(ValueError, match="holds 4 images, but its record is of 5"):
        open_samples(tmp_path / "pngs")


def test_a_damaged_npz_is_a_value_error(tmp_path: Path) -> None:
    saved(tmp_path / "s.npz")
    whole = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"s\.npz"):
        open_samples(tmp_path / "s.npz")


def test_what_a_run_was_trained_on_is_in_its_recipe(tmp_path: Path) -> None:
    """Other shares, limits and ranges than the usual ones: taken for granted, they put trained images among the unseen."""
    np.save(tmp_path / "a.npy", pictures(200, high=4096, dtype="uint16"))
    name = str(tmp_path / "a.npy")
    run = Run(tmp_path / "run")
    run.recipe.parent.mkdir(parents=True)
    made = resolve(
        "garments",
        ["--data.set", name, "--data.limit", "150", "--data.holdout", "0.4", "--data.range", "0", "4095", "--train.flip"],
    )
    run.recipe.write_text(made.toml())
    whole = load(name, value_range=(0, 4095))
    images, kept, heldout, flip = training_images(run.recipe.parent, name, None)
    assert len(images) == 150
    assert images.value_range == (0.0, 4095.0)
    assert flip
    want = holdout(whole.limited(150).pixels, 0.4)
    np.testing.assert_array_equal(kept, want[0])
    np.testing.assert_array_equal(heldout, want[1])
    # no run, or one that was trained on something else
    np.save(tmp_path / "b.npy", pictures(200, 1))
    for place, other in ((None, name), (run.recipe.parent, str(tmp_path / "b.npy"))):
        images, kept, heldout, flip = training_images(place, other, None)
        assert len(images) == 200
        assert images.value_range is None
        assert not flip
        np.testing.assert_array_equal(heldout, holdout(images.pixels, HOLDOUT)[1])


def test_copies_are_found_at_the_declared_range(tmp_path: Path) -> None:
    """The training images are read as the real ones are: else copies are 16 times as bright as what they were made of."""
    np.save(tmp_path / "a.npy", pictures(400, high=4096, dtype="uint16"))
    reading = {"value_range": (0, 4095)}
    real = load(tmp_path / "a.npy", **reading)
    kept, _ = holdout(real.pixels)
    record = {"seed": 0, "first_index": 0, "n": 60, "value_range": [0.0, 4095.0]}
    opened = SampleSet("copies", real.pixels[kept[:60]], record)
    evaluator = ImageEval(DeepLinear(), real)
    found = find_copies(evaluator, opened, str(tmp_path / "a.npy"), reading=reading)
    assert found.pixels.verdict == "copies found"
    np.testing.assert_array_equal(found.train[:60], real.pixels[kept[:60]])
    assert np.rint(to_values(found.train, real.value_range)).max() <= 4095
    with pytest.raises(ValueError, match=r"samples' range is \(0.0, 4095.0\)"):
        find_copies(evaluator, opened, str(tmp_path / "a.npy"))
    with pytest.raises(ValueError, match=r"samples' range is None"):
        find_copies(evaluator, replace(opened, record={**record, "value_range": None}), str(tmp_path / "a.npy"), reading=reading)


class DeepLinear(Linear):
    """`Linear` of any depth."""

    def features(self, pixels: Any) -> Any:
        scale = np.iinfo(pixels.dtype).max
        return super().features(pixels.astype(np.float64) * (255 / scale))


def test_the_extractor_is_the_third_argument_or_an_option(tmp_path: Path) -> None:
    saved(tmp_path / "s.npz")
    np.save(tmp_path / "real.npy", pictures(20))
    for arguments, keywords in ((("nowhere.safetensors",), {}), ((), {"extractor": "nowhere.safetensors"})):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            score(tmp_path / "s.npz", str(tmp_path / "real.npy"), *arguments, **keywords)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 200 images, of which about 50 are held out, and its extractor."""
    folder = tmp_path_factory.mktemp("small")
    np.save(folder / "set.npy", pictures(200))
    untrained_extractor().save(folder / "extractor.safetensors")
    keys = "--train.images 32 --train.batch 16 --model.channels 8 --model.embedding 8 --model.groups 4 --watch.preview-every 0"
    words = [*keys.split(), "--data.set", str(folder / "set.npy"), "--data.holdout", "0.25"]
    train(resolve("garments", words), folder / "run", progress=False)
    return folder


@pytest.mark.filterwarnings("ignore:the floor is taken at")
@pytest.mark.filterwarnings("ignore:.*warmup")
def test_a_run_is_scored_against_what_it_held_out(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, chosen, images = small_run / "run", str(small_run / "extractor.safetensors"), load(small_run / "set.npy")
    _, heldout = holdout(images.pixels, 0.25, hashes=images.hashes)
    saved(run / "s.npz", n=20, model="x", value_range=None)
    for samples, against in ((run, None), (run, f"{small_run}/set.npy:heldout"), (run / "s.npz[:15]", None)):
        found = score(str(samples), against, chosen, n=15, steps=2)
        assert [s.metric for s in found] == ["fid", "fid_infinity", "kid", "precision", "recall", "density", "coverage"]
        assert {s.reference for s in found} == {images.subset(heldout).fingerprint}
        assert {s.floor_source for s in found} == {"floor images given (set:train)"}
    saved(small_run.parent / "elsewhere.npz", n=20, value_range=None)
    with pytest.raises(
        ValueError, match="held out, and the samples lie in the folder of no run: give --against SET, or --run RUN"
    ):
        score(small_run.parent / "elsewhere.npz", f"{small_run}/set.npy:heldout", chosen)
    score(small_run.parent / "elsewhere.npz", f"{small_run}/set.npy:heldout", chosen, run=run, metrics=("kid",))
    np.save(small_run / "other.npy", pictures(90, seed=5))
    with pytest.raises(ValueError, match="was trained on other images than"):
        score(str(run), f"{small_run}/other.npy:heldout", chosen)
    with pytest.raises(ValueError, match="depends on the run"):
        load(small_run / "set.npy", "heldout")


@pytest.mark.filterwarnings("ignore:the floor is taken at")
def test_what_too_few_images_cannot_be_scored_by_is_left_out_with_the_reason(
    small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = str(small_run / "extractor.safetensors")
    np.save(small_run / "few.npy", pictures(12, seed=2))
    saved(small_run / "a.npz", n=20, value_range=None)
    found = score(small_run / "a.npz", str(small_run / "few.npy"), chosen)
    assert [s.metric for s in found] == ["kid", "precision", "recall", "density", "coverage"]
    assert "left out: FID, FID-infinity (12 reference images are too few" in capsys.readouterr().err
    with pytest.raises(ValueError, match="12 reference images are too few for FID"):
        score(small_run / "a.npz", str(small_run / "few.npy"), chosen, metrics=("fid",))
    options = CompareOptions(extractor=chosen, picture=small_run / "compare.png")
    both, _ = compare_report(str(small_run / "a.npz"), str(small_run / "a.npz"), str(small_run / "few.npy"), options)
    assert [c.metric for c in both] == ["kid", "precision", "recall", "density", "coverage"]


@pytest.mark.filterwarnings("ignore:the floor is taken at")
def test_scores_are_kept_by_the_runs_that_are_named(small_run: Path, tmp_path: Path) -> None:
    saved(tmp_path / "s.npz", n=100)
    np.save(tmp_path / "real.npy", pictures(200, 1))
    chosen = {"extractor": str(small_run / "extractor.safetensors"), "metrics": ("kid",), "picture": tmp_path / "s.png"}
    with pytest.raises(FileNotFoundError, match=r"the scores cannot be kept with .*nowhere"):
        score_report(
            str(tmp_path / "s.npz"), str(tmp_path / "real.npy"), ScoreReportOptions(keep=(tmp_path / "nowhere",), **chosen)
        )
    before = [*read_jsonl(Run(small_run / "run").scores)]
    options = ScoreReportOptions(keep=(small_run / "run",), **chosen)
    made = score_report(str(tmp_path / "s.npz"), str(tmp_path / "real.npy"), options)
    assert [*read_jsonl(Run(small_run / "run").scores)] == [*before, made.scores[0].to_json()]


def test_real_images_are_shown_of_the_classes_of_the_samples() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    images = load(pixels, labels=np.arange(12) % 3)
    assert like_classes(images, [2, 0], 5).ravel().tolist() == [2, 0, 5, 3, 8]
    assert like_classes(images, None, 3).ravel().tolist() == [0, 1, 2] == like_classes(images, [7], 3).ravel().tolist()
