"""kill -9 at random moments: the same call, given again, ends as one that nothing has disturbed, bit for bit."""

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.denoiser.model import build, save_weights
from alphabar.sampling.sample import sample
from alphabar.training.checkpoint import load_model
from alphabar.training.config import resolve
from alphabar.verbs.train import train
from alphabar.verbs.tune import tune
from tests.verbs.test_experiment import RECIPE

KILLS = int(os.environ.get("ALPHABAR_KILLS", "5"))


def _train(out: Path, inputs: Path) -> Any:
    recipe = resolve(inputs / "small.toml", ["--train.images", "1920", "--train.checkpoint-every", "320"])
    train(recipe, out / "run", resume=(out / "run" / "recipe.toml").exists(), progress=False)
    return load_model(out / "run").fingerprint


def _sample(out: Path, inputs: Path) -> Any:
    found = sample(
        load_model(inputs / "model.safetensors"), 200, sampler="ddim", steps=6, batch=8, out=out / "s.npz", progress=False
    )
    return found.images.tobytes()


def _tune(out: Path, inputs: Path) -> Any:
    (made,) = tune(inputs / "model.safetensors", [3], fit="grid", n=16, out=out, overwrite=True, progress=False)
    return made.fit.sigmas


VERBS = [_train, _sample, _tune]


def child(verb: Callable[[Path, Path], Any], out: Path, inputs: Path) -> None:
    """Writes what the verb returns last, so that its existence means that the process has ended well."""
    os.chdir(inputs)
    os.environ["ALPHABAR_CACHE"] = str(out / "cache")
    out.mkdir(exist_ok=True)
    found = repr(verb(out, inputs))
    (out / "found").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    recipe = resolve("garments", ["--model.channels", "8", "--model.embedding", "8", "--model.groups", "4"])
    save_weights(folder / "model.safetensors", build(recipe.model, recipe.schedule.spec(), (1, 8, 8), 0))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1))
    np.save(folder / "real.npy", pixels.astype(np.uint8))
    (folder / "small.toml").write_text(RECIPE)
    return folder


@pytest.mark.slow(30)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__[1:])
def test_what_is_killed_many_times_ends_the_same(verb: Callable[[Path, Path], Any], inputs: Path, tmp_path: Path) -> None:
    """ALPHABAR_KILLS gives the number of kills. A server that has imported everything forks each process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def start(name: str) -> Any:
        process = context.Process(target=child, args=(verb, tmp_path / name, inputs))
        process.start()
        return process

    start("warm").join()
    begin = time.monotonic()
    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    seconds, g = time.monotonic() - begin, random.Random(verb.__name__)
    for _ in range(KILLS):
        process = start("killed")
        time.sleep(g.uniform(0.2, 0.9) * seconds)
        process.kill()
        process.join()
        (tmp_path / "killed" / "found").unlink(missing_ok=True)
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    assert (tmp_path / "killed" / "found").read_text() == (tmp_path / "whole" / "found").read_text()
    left = [p for p in (tmp_path / "killed").rglob(".*") if "_" not in p.name and p.name not in (".lock",)]
    assert left == []
