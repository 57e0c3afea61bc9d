"""`alphabar ema`: averages of any length from one training, scored on the same noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alphabar.cli.main import app
from alphabar.core.run import Run
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model
from alphabar.training.loop import train
from alphabar.verbs.ema import choose_length
from tests.fixtures.runs import untrained_extractor
from tests.fixtures.training import small_model, small_recipe

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # as users call it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with snapshots of it, its images, and an extractor."""
    folder = tmp_path_factory.mktemp("averaging")
    g = np.random.default_rng(0)
    pixels: NDArray[np.uint8] = np.clip(g.integers(40, 200, (300, 1, 1, 1)) + g.integers(0, 50, (300, 8, 8, 1)), 0, 255)
    pixels = pixels.astype(np.uint8)
    np.save(folder / "real.npy", pixels)
    train(small_model(), pixels, np.arange(300), small_recipe(ema_snapshots=8), Run(folder / "run"), progress=False)
    untrained_extractor(0).save(folder / "extractor.safetensors")
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path))


SHORT: dict[str, Any] = {"extractor": "extractor.safetensors", "n": 40, "steps": 2, "progress": False, "device": "cpu"}


def test_every_length_is_drawn_on_the_same_noise_and_scored() -> None:
    found = choose_length("run", "real.npy", lengths=(0.05, 0.2), **SHORT)
    for length, scores in found.scores.items():
        own = sample(load_model("run", f"ema:{length:g}"), 40, sampler="unipc", steps=2, progress=False)
        kept = next(Path("run/averages/samples").glob(f"ema-{length:g}-*-unipc-2-seed0-40.npz"))
        assert np.array_equal(Samples.load(kept).images, own.images) and scores[0].n == 40
    assert found.best in (0.05, 0.2)
    assert min(found.scores.values(), key=lambda s: s[0].value) is found.scores[found.best]
    assert found.against_last[0].paired  # image by image
    assert json.loads(found.table.read_text())["best"] == found.best
    assert found.picture.read_bytes().startswith(b"\x89PNG")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = "ema run --against real.npy --extractor extractor.safetensors --n 40 --steps 2 --lengths 0.05 0.1"
    app(words.split(), result_action="return_value")
    out = capsys.readouterr().out
    assert "best by FID: --checkpoint ema:" in out and "0.05" in out
    more = "sample run --checkpoint ema:0.1 --n 2 --steps 2 --out drawn.npz --fast none"
    app(more.split(), result_action="return_value")
    assert Path("drawn.npz").exists()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train with --train.ema-snapshots 16"):
        choose_length(tmp_path, "real.npy", **SHORT)
    with pytest.raises(ValueError, match="give different ones"):
        choose_length("run", "real.npy", lengths=(0.1, 0.1), **SHORT)
    with pytest.raises(ValueError, match="write ema:LENGTH with a number"):
        load_model("run", "ema:long")
