"""The likelihood of images under a run: what it reports, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from alphabar import likelihood
from alphabar.cli.main import main
from alphabar.data.image_set import load
from alphabar.schedule.continuous import LogSigma
from alphabar.verbs.likelihood import labels_of
from tests.fixtures.exact import GaussianDenoiser
from tests.fixtures.oracles import tiny_network


def test_the_values_of_a_set_have_intervals_and_calls(gaussian: GaussianDenoiser) -> None:
    gaussian.schedule = LogSigma(1e-3, 100.0)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 2, 2, 1), dtype=np.uint8)
    found = likelihood(gaussian, pixels, steps=20, progress=False)
    assert found.ode and found.bound and found.nfe == 4 * 20 + 41 and found.levels == 256 and found.dimensions == 4
    assert found.ode.interval and found.ode.interval[0] < found.ode.value == pytest.approx(float(found.ode_bits.mean()))
    alone = likelihood(gaussian, pixels[:1], steps=20, method="ode", progress=False)
    assert alone.bound is None and alone.ode.interval is None and alone.ode_bits[0] == pytest.approx(found.ode_bits[0], abs=1e-6)
    assert "pixels" not in found.to_json()


def test_a_padded_network_counts_its_border() -> None:
    network = tiny_network()
    network.crop = 2
    found = likelihood(network, np.zeros((2, 4, 4, 1), np.uint8), steps=2, progress=False)
    assert found.dimensions == 16 and np.isfinite(found.ode_bits).all() and np.isfinite(found.bound_bits).all()


def test_models_without_a_density_of_images_are_refused(gaussian: GaussianDenoiser) -> None:
    one = np.zeros((1, 2, 2, 1), np.uint8)
    gaussian.consistency = True
    with pytest.raises(ValueError, match=r"the likelihood needs E\[x0 \| x\], and this model was distilled"):
        likelihood(gaussian, one)
    gaussian.consistency, gaussian.latents = False, "some"
    with pytest.raises(ValueError, match="the likelihood is of pixels, and this model makes latents"):
        likelihood(gaussian, one)


def test_classes_of_a_set_are_those_of_the_model_by_name(gaussian: GaussianDenoiser) -> None:
    images = load(np.zeros((2, 4, 4, 1), np.uint8), labels=[0, 1])
    assert labels_of(gaussian, images) is None
    gaussian.classes, gaussian.class_names = 3, ("2", "1", "0")
    assert labels_of(gaussian, images).tolist() == [2, 1]
    gaussian.class_names = ("1", "2", "3")
    with pytest.raises(ValueError, match="has the class '0', which the model does not know"):
        labels_of(gaussian, images)


@pytest.mark.slow
def test_the_command_prints_both_and_draws_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "likelihood bundled fashion_mnist:test[:2] --steps 1 --picture p.png"
    with pytest.raises(SystemExit) as ended:
        main(f"{text} --json".split())
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["levels"] == 256 and found["nfe"] == 45 and 0 < found["bound"]["value"] < 8
    assert (tmp_path / "p.png").is_file()
    with pytest.raises(SystemExit) as ended:
        main(["likelihood", "bundled", "fashion_mnist:test", "--n", "2", "--levels", "100", "--picture", "p.png"])
    assert ended.value.code == 2 and "levels = 100: the images have values between" in capsys.readouterr().err
