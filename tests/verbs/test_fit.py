"""A run on images of several sizes states how they got theirs, and is scored against real ones that got it alike."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import alphabar
from alphabar import likelihood, restore
from alphabar.cli.main import app
from alphabar.core.stored_values import read_object
from alphabar.data.image_set import load
from alphabar.data.split import holdout
from alphabar.sampling.sample_set import check_value_range, reading_for
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model
from alphabar.training.hooks import Hook, Training
from alphabar.verbs import score as scoring
from alphabar.verbs import train as training
from alphabar.verbs.memorisation import heldout_of, loss, with_heldout
from alphabar.verbs.options import SweepOptions
from alphabar.verbs.sweep_setting import Job, LoadedJob
from tests.fixtures.sets import Linear

SIZE = (7, 10)  # odd and not square: the network pads inside


def photos(folder: Path, n: int = 60, ending: str = "png", seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for k in range(n):
        h, w = rng.integers(8, 20, 2)
        Image.fromarray(rng.integers(0, 256, (h, w), dtype=np.uint8)).save(folder / f"{k}.{ending}")
    return folder


def command(words: str, *more: str) -> None:
    app([*words.split(), *more], result_action="return_value")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alphabar.verbs.extractor.load_extractor", lambda name: Linear())
    photos(Path("photos"))
    keys = "--train.images 64 --train.batch 32 --model.channels 8 8 --model.groups 8 --watch.preview_every 0 --data.pad 1"
    command("train photos --size 7x10 --fit pad --out run", *keys.split())
    return Path("run")


def test_a_run_carries_its_size_and_fit(run: Path) -> None:
    assert read_object(run / "data.json")["fit"] == "pad to 7x10"
    model = load_model(run)
    assert (model.fit, model.image_shape) == ("pad", (1, 9, 12))
    for named in (run, str(run), model):
        assert reading_for(named) == {"size": SIZE, "fit": "pad"}
    scores = scoring.score(str(run), "photos", n=20, steps=2, metrics=("kid",), progress=False)
    assert "photos:train, pad to 7x10" in scores[0].reference_name
    made = Samples.load(next((run / "samples").glob("*.npz")))
    assert made.record["fit"] == "pad"
    made.save("s.npz")
    assert reading_for("s.npz[3:]", {"size": None}) == {"size": SIZE, "fit": "pad"} == reading_for("s.npz", {"size": SIZE})
    job = LoadedJob.load(Job(str(run), "photos", (), SweepOptions(calls=(2,), n=20, metrics=("kid",))))
    assert job.real.title == "photos:train, pad to 7x10"
    job.check()
    assert np.isfinite(loss(str(run), "photos", n=8, progress=False).heldout[0].value)


def test_heldout_images_of_a_run_are_given_to_every_command_that_works_on_images(run: Path) -> None:
    kept = heldout_of(["run"], "photos:heldout")[0].pixels
    assert np.array_equal(with_heldout("run", "photos:heldout[1:3]").pixels, kept[1:3])
    assert with_heldout("run", "photos[1:3]") == "photos[1:3]"
    found = restore("run", "photos:heldout[0:2]", degrade=True, calls=2, draws=2, method="ddrm", progress=False)
    assert found.originals is not None and {x.tobytes() for x in found.originals} == {x.tobytes() for x in kept[:2]}
    assert likelihood("run", "photos:heldout", n=2, method="bound", progress=False).n == 2
    command("vary run photos:heldout[0] --steps 2 --strength 1 --fast none --out v.npz")
    assert Path("v.png").exists()


def test_another_fit_is_refused(run: Path) -> None:
    with pytest.raises(ValueError, match=r"trained on images that got their size by --fit pad.*crop to 7x10"):
        scoring.score(str(run), "photos", reading={"size": SIZE, "fit": "crop"}, n=20, steps=2, metrics=("kid",), progress=False)
    check_value_range({"fit": "pad"}, load("photos", size=SIZE, fit="pad"))
    with pytest.raises(ValueError, match=r"data.size '7x10', not '7x11'"):
        command("train photos --size 7x11 --out run --resume")
    command("train photos --out run --resume")


def test_one_side_of_jpeg_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: Any) -> None:
    monkeypatch.setattr("alphabar.verbs.extractor.load_extractor", lambda name: Linear())
    lossless, jpeg = photos(tmp_path / "a", ending="png"), photos(tmp_path / "b", ending="jpg", seed=1)
    options = {"metrics": ("kid",), "progress": False, "reading": {"size": 8}}
    for samples, against in ((lossless, jpeg), (jpeg, lossless)):
        with pytest.warns(UserWarning, match="b:train, crop to 8x8 are stored as JPEG and those of a:train, crop to 8x8 are not"):
            alphabar.score(str(samples), str(against), **options)
    recwarn.clear()
    alphabar.score(str(lossless), str(photos(tmp_path / "c", seed=2)), **options)
    assert not [w for w in recwarn if "JPEG" in str(w.message)]


def test_held_out_images_are_drawn_from_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MOST_HELDOUT", 10)
    pixels = np.arange(200, dtype=np.uint8).repeat(64).reshape(200, 8, 8, 1)  # in order, as classes may be
    np.save(tmp_path / "a.npy", pixels)
    seen: list[list[int]] = []

    class Look(Hook):
        def on_start(self, run: Training) -> None:
            seen.append(run.heldout[:, 0, 0, 0].tolist())

    keys = (
        f"--data.set {tmp_path}/a.npy --train.images 32 --train.batch 32 --model.channels 8 --model.groups 8 --data.holdout 0.5"
    )
    recipe = alphabar.resolve("garments", [*keys.split(), "--watch.preview-every", "0"])
    for k in range(3):
        run = tmp_path / str(min(k, 1))
        if k == 2:  # a run of an earlier version, which took the first ones
            data = read_object(run / "data.json")
            assert data.pop("watched") == 10
            (run / "data.json").write_text(json.dumps(data))
        alphabar.train(recipe, run, resume=k == 2, hooks=[Look()], progress=False)
    assert seen[0] == seen[1] == sorted(seen[0]) and len(seen[0]) == 10 and max(seen[0]) > 100
    heldout = holdout(pixels, 0.5)[1].tolist()
    assert seen[2] == heldout[:10] and set(seen[0]) <= set(heldout)
