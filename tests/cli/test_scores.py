"""score, compare and loss as a user runs them, in one process and in two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from alphabar.evaluation.score import METRICS
from tests.cli.test_cli import alphabar


@pytest.fixture(scope="module")
def drawn(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 560 images of the bundled model in 1 and in 3 calls, from the same noise."""
    folder = tmp_path_factory.mktemp("drawn")
    for steps in ("1", "3"):
        alphabar("sample", "bundled", "--n", "560", "--steps", steps, "--out", f"s{steps}.npz", cwd=folder)
    return folder


def looked_at(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_a_score_ends_in_pictures(small_data: Path, drawn: Path) -> None:
    told = alphabar(
        *("score", "s3.npz", "--against", "fashion_mnist:test", "--curve", "--trained-on", "fashion_mnist", "--json"), cwd=drawn
    )
    rows = {row["metric"]: row for row in json.loads(told.stdout)}
    assert set(rows) == {*METRICS, "memorisation", "curve"}
    for metric in METRICS:
        if metric.startswith("fid"):  # 560 images for 512 features
            assert rows[metric]["interval"] is None
            assert "give at least 896" in rows[metric]["note"]
        else:
            low, high = rows[metric]["interval"]
            assert low < high, metric
        assert rows[metric]["nfe"] == 3
        assert rows[metric]["check_result"] is not None
    for kind in ("features", "pixels"):
        assert rows["memorisation"][kind]["n"] == 560
        assert rows["memorisation"][kind]["verdict"] != "copies found"
    sizes = sorted({p["n"] for p in rows["curve"]["points"]})
    assert sizes[0] == 513  # the fewest that FID takes with 512 features
    assert sizes[-1] == 560
    for name in ("s3.score.png", "s3.score.curve.png", "s3.score.pairs_features.png", "s3.score.pairs_pixels.png"):
        assert min(looked_at(drawn / name)) > 200, name
    table = alphabar("score", "s3.npz", "--against", "fashion_mnist:test", "--metrics", "kid", "coverage", cwd=drawn).stdout
    assert "95 % interval" in table
    assert "FID" not in table.replace("alphabar", "").split("interval of")[0]


def test_compare_has_a_verdict_and_a_picture(small_data: Path, drawn: Path) -> None:
    command = ["compare", "s1.npz", "s3.npz", "--against", "fashion_mnist:test", "--metrics", "fid", "kid", "coverage"]
    found = {c["metric"]: c for c in json.loads(alphabar(*command, "--json", cwd=drawn).stdout)}
    assert {m: c["verdict"] for m, c in found.items()} == {"fid": "not decided", "kid": "worse", "coverage": "worse"}
    assert "no interval: 560 images for 512 features" in found["fid"]["words"]
    assert all(c["paired"] for c in found.values())
    assert min(looked_at(drawn / "compare.png")) > 200
    words = alphabar(*command, "--picture", "other.png", cwd=drawn).stdout
    assert "KID: s1 is worse than s3" in words
    assert looked_at(drawn / "other.png")
    halves = ["compare", "s3.npz[:280]", "s3.npz[280:]", "--against", "fashion_mnist:test", "--metrics", "kid", "--json"]
    (half,) = json.loads(alphabar(*halves, cwd=drawn).stdout)
    assert half["a"]["n"] == half["b"]["n"] == 280
    assert half["b"]["seeds"] == {"seed": 0, "first_index": 280}
    assert not half["paired"]
    assert half["verdict"] == "not decided"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["compare", "s1.npz", "s3.npz[:300]", "--metrics", "kid"], "n is 560 on the left and 300 on the right"),
        (["compare", "s1.npz", "s3.npz[900:]", "--metrics", "kid"], "s3.npz holds 560 images"),
        (["compare", "s1.npz", "s3.npz", "--n", "600"], "s1.npz holds 560 images, 600 were asked for"),
        (["compare", "s1.npz", "s3.npz", "--metrics", "kid", "--keep", "nowhere"], "nowhere: it has no recipe.toml"),
        (["score", "s1.npz", "--metrics", "is"], "metric 'is' is unknown"),
        (["score", "s1.npz", "--n", "100"], "--metrics kid"),
    ],
)
def test_what_cannot_be_is_said(small_data: Path, drawn: Path, command: list[str], words: str) -> None:
    done = alphabar(*command, "--against", "fashion_mnist:test", cwd=drawn, ok=False)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_two_processes_print_the_scores_of_one(small_data: Path, drawn: Path, tmp_path: Path) -> None:
    metrics = ("fid", "kid", "precision", "coverage")
    arguments = ["score", str(drawn / "s3.npz"), "--against", "fashion_mnist:test", "--json", "--metrics", *metrics]
    one = json.loads(alphabar(*arguments, "--picture", "one.png", cwd=tmp_path).stdout)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ALPHABAR_CACHE": str(tmp_path / "other")}
    two = subprocess.run(
        [*(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "alphabar"),
         *arguments, "--picture", "two.png"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-3000:]
    rows = json.loads(two.stdout)  # one process speaks
    for a, b in zip(one, rows, strict=True):
        assert a["metric"] == b["metric"]
        for field in ("value", "se", "floor", "n", "n_reference"):
            assert a[field] == b[field] or a[field] == pytest.approx(b[field], rel=1e-6), (a["metric"], field)
    assert (tmp_path / "two.png").exists()


def test_the_loss_by_noise_level(small_data: Path, tmp_path: Path) -> None:
    told = json.loads(alphabar("loss", "bundled", "--trained-on", "fashion_mnist", "--n", "64", "--json", cwd=tmp_path).stdout)
    assert len(told["sigma"]) == len(told["heldout"]) == len(told["gap"]) >= 5
    assert told["n_heldout"] == told["n_train"] == 64
    assert looked_at(tmp_path / "bundled.loss.png")
