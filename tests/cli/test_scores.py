"""`alphabar score`, `compare` and `loss`, in one process and in two."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alphabar.evaluation.score import METRICS
from alphabar.sampling.samples import Samples
from tests.cli.test_cli import alphabar
from tests.fixtures.runs import untrained_extractor

AGAINST = ("--against", "real.npy", "--extractor", "extractor.safetensors")


def waves(n: int, seed: int, contrast: float = 1.0) -> Any:
    """Images of 8 x 8 with a random phase and noise."""
    g = np.random.default_rng(seed)
    clean = 128 + contrast * 60 * np.sin(np.arange(8)[:, None] / 2 + g.uniform(0, 6, (n, 1, 1, 1)))
    return np.clip(clean + g.normal(0, 20, (n, 8, 8, 1)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images, a small extractor, and samples with and without full contrast whose records name the same noise."""
    folder = tmp_path_factory.mktemp("scores")
    np.save(folder / "real.npy", waves(400, 0))
    untrained_extractor(0).save(folder / "extractor.safetensors")
    for name, nfe, contrast in (("bad", 1.0, 0.5), ("good", 3.0, 1.0)):
        record = {"seed": 0, "first_index": 0, "n": 120, "nfe": nfe, "sampler": "ddim", "model": "m", "eta": 0.0}
        Samples(waves(120, 1, contrast), record).save(folder / f"{name}.npz")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_score_writes_pictures(folder: Path) -> None:
    done = alphabar("score", "good.npz", *AGAINST, "--curve", "--trained-on", "real.npy", "--json", cwd=folder)
    rows = {row["metric"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {*METRICS, "memorisation", "curve"}
    for metric in METRICS:
        low, high = rows[metric]["interval"]
        assert low < high, metric
        assert rows[metric]["nfe"] == 3
    for kind in ("features", "pixels"):
        assert rows["memorisation"][kind]["n"] == 120
        assert rows["memorisation"][kind]["verdict"] != "copies found"
    sizes = sorted({p["n"] for p in rows["curve"]["points"]})
    assert sizes[0] < sizes[-1] == 120
    for name in ("good.score.png", "good.score.curve.png", "good.score.pairs_features.png", "good.score.pairs_pixels.png"):
        assert min(size_of(folder / name)) > 150, name


def test_score_prints_a_table(folder: Path) -> None:
    table = alphabar("score", "good.npz", *AGAINST, "--metrics", "kid", "coverage", cwd=folder).stdout
    assert "95 % interval" in table
    assert "FID" not in table.replace("alphabar", "").split("interval of")[0]


def test_compare_prints_a_verdict_and_writes_a_picture(folder: Path) -> None:
    command = ["compare", "bad.npz", "good.npz", *AGAINST, "--metrics", "fid", "kid", "coverage"]
    found = {c["metric"]: c for c in json.loads(alphabar(*command, "--json", cwd=folder).stdout)}
    assert {m: c["verdict"] for m, c in found.items()} == {"fid": "worse", "kid": "worse", "coverage": "worse"}
    assert all(c["paired"] for c in found.values())
    assert min(size_of(folder / "compare.png")) > 200
    words = alphabar(*command, "--picture", "other.png", cwd=folder).stdout
    assert "KID: bad is worse than good" in words
    assert size_of(folder / "other.png")


def test_compare_takes_parts_of_samples(folder: Path) -> None:
    halves = ["compare", "good.npz[:60]", "good.npz[60:]", *AGAINST, "--metrics", "kid", "--json"]
    (half,) = json.loads(alphabar(*halves, cwd=folder).stdout)
    assert half["a"]["n"] == half["b"]["n"] == 60
    assert half["b"]["seeds"] == {"seed": 0, "first_index": 60}
    assert not half["paired"]
    assert half["verdict"] == "not decided"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["compare", "bad.npz", "good.npz[:30]", "--metrics", "kid"], "n is 120 on the left and 30 on the right"),
        (["compare", "bad.npz", "good.npz[900:]", "--metrics", "kid"], "good.npz holds 120 images"),
        (["compare", "bad.npz", "good.npz", "--n", "600"], "bad.npz holds 120 images, 600 were asked for"),
        (["compare", "bad.npz", "good.npz", "--metrics", "kid", "--keep", "nowhere"], "nowhere: it has no recipe.toml"),
        (["score", "bad.npz", "--metrics", "is"], "metric 'is' is unknown"),
        (["score", "bad.npz", "--n", "4", "--metrics", "fid"], "--metrics kid"),
    ],
)
def test_a_wrong_command_ends_in_one_message(folder: Path, command: list[str], words: str) -> None:
    done = alphabar(*command, *AGAINST, cwd=folder, ok=False)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_few_images_are_scored_by_what_they_suffice_for_with_kid_first(folder: Path) -> None:
    done = alphabar("score", "bad.npz", "--n", "6", *AGAINST, cwd=folder)
    reason = "6 images are too few: the extractor has 4 features, so it needs at least 8"
    assert f"left out: FID, FID-infinity ({reason})" in done.stderr and "precision" not in done.stderr
    titles = [line.split("│")[1].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert titles == ["KID", "precision", "recall", "density", "coverage"]
    compared = alphabar("compare", "bad.npz", "good.npz", "--metrics", "fid", "kid", *AGAINST, cwd=folder).stdout
    assert compared.index("│ KID") < compared.index("│ FID")  # 120 images


@pytest.mark.slow(20)
def test_two_processes_print_the_scores_of_one(folder: Path, tmp_path: Path) -> None:
    arguments = ["score", "good.npz", *AGAINST, "--json", "--metrics", "fid", "kid", "precision", "coverage"]
    one = json.loads(alphabar(*arguments, "--picture", str(tmp_path / "one.png"), cwd=folder).stdout)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ALPHABAR_CACHE": str(tmp_path / "other")}
    two = subprocess.run(
        [*(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "alphabar"),
         *arguments, "--picture", str(tmp_path / "two.png")],
        cwd=folder, env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-3000:]
    rows = json.loads(two.stdout)  # the first process prints for all
    for a, b in zip(one, rows, strict=True):
        assert a["metric"] == b["metric"]
        for field in ("value", "se", "floor", "n", "n_reference"):
            assert a[field] == b[field] or a[field] == pytest.approx(b[field], rel=1e-6), (a["metric"], field)
    assert (tmp_path / "two.png").exists()


def test_the_loss_by_noise_level(small_data: Path, tmp_path: Path) -> None:
    command = ("loss", "bundled", "--trained-on", "fashion_mnist", "--n", "8", "--json")
    found = json.loads(alphabar(*command, cwd=tmp_path).stdout)
    assert len(found["sigma"]) == len(found["heldout"]) == len(found["gap"]) >= 5
    assert found["n_heldout"] == found["n_train"] == 8
    assert size_of(tmp_path / "bundled.loss.png")
    table = alphabar(*command[:-1], cwd=tmp_path).stdout
    assert "trained on" in table and "relative gap over all levels" in table
