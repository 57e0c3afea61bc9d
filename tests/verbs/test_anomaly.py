"""Scores of unusual images by a model: closed-form data, the command, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from alphabar import anomaly
from alphabar.cli.main import main
from tests.fixtures.exact import GaussianDenoiser


def images_of(model: GaussianDenoiser, n: int, seed: int, factor: float = 1.0) -> np.ndarray:
    x = model.data.mean + factor * (model.data.sample(n, seed) - model.data.mean)
    return ((x.permute(0, 2, 3, 1).numpy().clip(-1, 1) + 1) / 2).astype(np.float32)


def test_images_of_the_model_are_usual_and_others_are_not(gaussian: GaussianDenoiser) -> None:
    gaussian.data.std.mul_(0.3)
    usual = images_of(gaussian, 200, 1)
    alike = anomaly(gaussian, images_of(gaussian, 80, 2), usual, progress=False)
    assert alike.auc.interval[0] < 0.5 < alike.auc.interval[1] and alike.n_usual == 100 and alike.nfe == 10
    wide = anomaly(gaussian, images_of(gaussian, 80, 2, factor=3.0), usual, progress=False)
    assert wide.auc.interval[0] > 0.5


def test_what_cannot_be_scored_is_refused(gaussian: GaussianDenoiser) -> None:
    one, usual = np.zeros((1, 2, 2, 1), np.uint8), images_of(gaussian, 50, 1)
    assert anomaly(gaussian, one, usual, progress=False).auc is None
    with pytest.raises(ValueError, match="30 usual images: give at least 40"):
        anomaly(gaussian, one, usual[:30])
    gaussian.consistency = True
    with pytest.raises(ValueError, match=r"an anomaly score needs E\[x0 \| x\]"):
        anomaly(gaussian, one, usual)


@pytest.mark.slow
def test_the_command_prints_scores_and_draws_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("noise.npz", images=np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8))
    with pytest.raises(SystemExit) as ended:
        main(["anomaly", "bundled", "noise.npz", "--usual", "fashion_mnist:test", "--usual-n", "48", "--json"])
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert len(found["scores"]) == 4 and found["auc"]["value"] == 1 and (tmp_path / "anomaly.png").is_file()
