"""Inputs of one image, one step, one class or one seed: a result without NaN, or one message that says what is wanted."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.cli import main as command_line

TINY = "--model.channels 8 16"


def run_command(text: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command_line.main(text.split())
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of 1, 2, 10 and 8 labelled images, arrays of images, and a run, all of 28 x 28 grey pixels."""
    home, random = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    for name, n in {"one": 1, "two": 2, "ten": 10, "hundred": 100, "pair/a": 4, "pair/b": 4, "single/a": 1}.items():
        (home / name).mkdir(parents=True)
        for k in range(n):
            Image.fromarray(random.integers(0, 256, (28, 28), dtype=np.uint8)).save(home / name / f"{k}.png")
    (home / "dots").mkdir()
    for k in range(6):
        Image.fromarray(random.integers(0, 256, (1, 1), dtype=np.uint8)).save(home / "dots" / f"{k}.png")
    for n in (1, 2, 3, 6, 12, 40):
        np.savez(home / f"g{n}.npz", images=random.integers(0, 256, (n, 28, 28, 1), dtype=np.uint8))
    np.savez(home / "alike.npz", images=np.full((12, 28, 28, 1), 7, np.uint8))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a held-out part of one image
        patch.chdir(home)
        patch.setenv("ALPHABAR_CACHE", str(home / "cache"))
        assert run_command(f"train ten --out run --images 64 {TINY}") == 0
    return home


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ALPHABAR_CACHE", str(folder / "cache"))
    return folder


WORKS = [
    "data one --json",
    "data single --json",
    f"train one --out r1 --images 64 --data.holdout 0 {TINY}",
    f"train two --out r2 --images 1 --train.batch 1 {TINY}",
    f"train single --out r3 --images 64 --model.conditional {TINY}",
    f"train dots --out r4 --images 64 {TINY}",
    "sample run --n 1 --steps 1 --out s1.npz --json",
    "sample run --n 1 --steps 1 --sampler heun --out s2.npz",
    "sample run --n 1 --steps 1 --sampler dpmpp_2m --batch 64 --out s3.npz",
    "sample run --n 1 --steps 1 --eta 1 --out s4.npz",
    "report run --out page.html",
    "restore run ten --degrade --n 1 --draws 1 --calls 1 --out restored --json",
    "restore run ten --draws 2 --calls 4 --method gibbs --out measured",
    "score g2.npz --against g40.npz --metrics kid --json",
    "score g6.npz --against g12.npz --metrics precision recall density coverage --json",
    "score alike.npz --against g40.npz --metrics kid precision recall density coverage --json",
    "score g2.npz --against g40.npz --metrics kid --trained-on g40.npz --json",
    "score run --against hundred --n 2 --steps 1 --metrics kid --json",
    "compare g2.npz g2.npz --against g40.npz --metrics kid --json",
    "compare run run --against hundred --n 2 --steps 1 --metrics kid --json",
    "sweep run --against hundred --samplers ddim --calls 1 --n 2 --metrics kid --out sweep",
]


@pytest.mark.filterwarnings("ignore:the floor is taken at")
@pytest.mark.parametrize("command", WORKS)
def test_a_tiny_input_gives_numbers(here: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command) == 0
    out, err = capsys.readouterr()
    assert not re.search(r"(?i)\bnan\b|time left inf|\binf s\b", out + err)
    if command.endswith("--json"):
        for line in filter(lambda line: line[0] in "[{", out.splitlines()):
            json.loads(line, parse_constant=pytest.fail)


REFUSED = {
    f"train one --out r5 --images 8 --data.holdout 0.99 {TINY}": "no images to train on",
    "sample run --n 1 --steps 0 --out s.npz": "steps",
    "sample run --n 0 --out s.npz": "n = 0",
    "restore run ten --n 11 --out x": "10 images, 11 were asked for",
    "restore run ten --calls 1 --method repaint --out x": "a level of repaint takes 5",
    "restore run ten --task color --out x": "grey",
    "score g1.npz --against g40.npz --metrics kid": "1 images are too few for KID",
    "score g1.npz --against g40.npz --metrics precision": "too few for precision",
    "score g3.npz --against g1.npz --metrics kid": "one image alone",
    "score g3.npz --against alike.npz --metrics kid": "copies of one",
    "score g2.npz --against g3.npz --metrics kid": "too few for KID",
    "score run --against hundred --n 2000 --metrics fid": "too few for FID",
    "score run --against hundred --n 1 --metrics kid": "too few for KID",
    "compare run run --against hundred --n 2000 --metrics fid": "too few for FID",
    "compare g1.npz g1.npz --against g40.npz --metrics kid": "too few for KID",
    "sweep run --against hundred --samplers ddim --calls 1 --n 1 --metrics kid --out sweep1": "too few for KID",
    "loss run --trained-on ten --n 1": "at least 2",
    "tune run --calls 0": "calls",
    "extractor train one --out e.safetensors": "no labels",
    "extractor train single --out e.safetensors": "at least two classes",
    "extractor train pair --out e.safetensors": "fewer than one batch",
    "extractor check bundled --against g40.npz": "too few",
}


@pytest.mark.parametrize("command", REFUSED)
def test_a_tiny_input_is_refused_in_one_line(here: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(here.rglob("*.npz"))
    assert run_command(command) == 2
    err = capsys.readouterr().err
    assert re.search(REFUSED[command], err)
    assert "Traceback" not in err
    assert sorted(here.rglob("*.npz")) == files  # nothing was drawn or computed first
