"""kill -9 at random moments: the same call, given again, ends as one that nothing has disturbed, bit for bit."""

import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.core.run import Run
from alphabar.data.image_set import load
from alphabar.denoiser.autoencoder import read_autoencoder
from alphabar.denoiser.model import save_weights
from alphabar.features.extract import extract
from alphabar.features.load import load_extractor
from alphabar.features.options import SupervisedOptions
from alphabar.features.train import train_extractor
from alphabar.results.experiments import read_experiment
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.tracking.outbox import sync
from alphabar.training import autoencoder as training
from alphabar.training import unfinished
from alphabar.training.checkpoint import load_model
from alphabar.training.config import resolve
from alphabar.training.options import AutoencoderOptions
from alphabar.verbs import autoencoder as encoding
from alphabar.verbs.distill import distill, distilled_recipe
from alphabar.verbs.experiment import experiment
from alphabar.verbs.options import DistillOptions
from alphabar.verbs.score import score
from alphabar.verbs.sweep import sweep
from alphabar.verbs.train import train
from alphabar.verbs.tune import tune
from tests.denoiser.test_autoencoder import autoencoder
from tests.fixtures.runs import untrained_extractor, untrained_model
from tests.fixtures.sets import Linear, stripes
from tests.verbs.test_experiment import DEFINITION, RECIPE

SERVER = multiprocessing.get_context("forkserver")
KILLS = int(os.environ.get("ALPHABAR_KILLS", "5"))


def _train(out: Path, inputs: Path) -> Any:
    """The tokens are the recipe of the experiment with its budget."""
    recipe = resolve(inputs / "small.toml", ["--train.images", "1920", "--train.checkpoint-every", "320"])
    train(recipe, out / "run", resume=(out / "run" / "recipe.toml").exists(), progress=False)
    return load_model(out / "run").fingerprint


def _sample(out: Path, inputs: Path) -> Any:
    found = sample(
        load_model(inputs / "model.safetensors"), 200, sampler="ddim", steps=6, batch=8, out=out / "s.npz", progress=False
    )
    return found.images.tobytes()


def _score(out: Path, inputs: Path) -> Any:
    """The features of both sides come from the cache, or are stored there."""
    found = score(
        inputs / "generated.npz", str(inputs / "real.npy"), extractor=str(inputs / "extractor.safetensors"), progress=False
    )
    return [(s.metric, s.value, s.interval, s.floor) for s in found]


def _features(out: Path, inputs: Path) -> Any:
    store = extract(stripes(4000, 0), Linear(), cache=out, chunk=64)
    return store.stats().mean.numpy().tobytes()


def _tune(out: Path, inputs: Path) -> Any:
    (made,) = tune(inputs / "model.safetensors", [3], fit="grid", n=16, out=out, overwrite=True, progress=False)
    return made.fit.sigmas


def _extractor(out: Path, inputs: Path) -> Any:
    """The state is kept after every step here; there is no file, or the whole one, and its record says how long it took."""
    unfinished.SAVE_SECONDS = 0.0
    file = out / "e.safetensors"
    if not file.exists():
        options = SupervisedOptions(epochs=2, batch=64, widths=(8, 16), dim=16)
        train_extractor(stripes(800, 0), options, device="cpu", progress=False, part=out / "e.part").save(file)
    made = load_extractor(file)
    return made.fingerprint, {k: v for k, v in made.training_record.items() if k != "seconds"}


def _sweep(out: Path, inputs: Path) -> Any:
    found = sweep(
        inputs / "model.safetensors", str(inputs / "real.npy"), extractor=inputs / "extractor.safetensors", samplers=("ddim",),
        calls=(2, 3), n=64, batch=16, shown=5, out=out / "sweep", progress=False,
    )  # fmt: skip
    return [(row.setting.name, [s.value for s in row.scores.values()]) for row in found.rows]


def _experiment(out: Path, inputs: Path) -> Any:
    found = experiment(read_experiment(inputs / "definition.toml"), out / "experiment", progress=False)
    return [(t.variant, t.seed, [s.value for s in t.measured.scores.values()]) for t in found.trials]


def _sync(out: Path, inputs: Path) -> Any:
    """TensorBoard's files are only ever appended to: a number that was sent twice is there twice."""
    shutil.copytree(inputs / "run", out / "run", dirs_exist_ok=True)
    sync(out / "run", ["tensorboard"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # an extra, of the slow tests alone

    accumulator = EventAccumulator(str(out / "run" / "tracking" / "tensorboard"), {"scalars": 0})
    accumulator.Reload()
    return sorted((key, e.step, e.value) for key in accumulator.Tags()["scalars"] for e in accumulator.Scalars(key))


def _distill(out: Path, inputs: Path) -> Any:
    """With more checkpoints than usual, and the precision of the recipe, which `distill` would measure."""
    tuned = out / "tuned"
    if (tuned / "recipe.toml").exists():
        return distill(inputs / "base", tuned, resume=True, progress=False).fingerprint
    recipe = distilled_recipe(inputs / "base", DistillOptions(images=1920, q=(4.0, 8.0), batch=32))
    return train(recipe.with_(train={"checkpoint_every": 320}), tuned, progress=False).fingerprint


def _autoencoder(out: Path, inputs: Path) -> Any:
    """The state is kept after every step here; the same call continues from it."""
    unfinished.SAVE_SECONDS = 0.0
    options = AutoencoderOptions(factor=2, width=8, blocks=1, images=480, batch=8, crop=16)
    made = training.train_autoencoder(
        stripes(200, 0, (16, 16, 1)), options, part=out / "a.part", out=out / "a.safetensors", progress=False
    )
    assert not (out / "a.part").exists()
    return made.fingerprint, read_autoencoder(out / "a.safetensors").fingerprint


def _encode(out: Path, inputs: Path) -> Any:
    """The folder of latents is there whole or not at all."""
    encoding.BLOCK = 1
    if not (out / "latents").exists():
        encoding.encode(str(inputs / "real.npy"), inputs / "autoencoder.safetensors", out / "latents", progress=False)
    return load(out / "latents").pixels.tobytes(), load(out / "latents").originals().fingerprint


VERBS = [_train, _sample, _features, _score, _tune, _extractor, _sweep, _experiment, _sync, _distill, _autoencoder, _encode]


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
    save_weights(folder / "model.safetensors", untrained_model())
    untrained_extractor().save(folder / "extractor.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1))
    np.save(folder / "real.npy", pixels.astype(np.uint8))
    Samples(pixels[::-1].astype(np.uint8), {"n": 300}).save(folder / "generated.npz")
    autoencoder(channels=1, factor=2).save(folder / "autoencoder.safetensors")
    (folder / "small.toml").write_text(RECIPE)
    recipe = resolve(folder / "small.toml", ["--train.images", "320", "--data.set", str(folder / "real.npy")])
    train(recipe, folder / "base", progress=False)
    run = Run(folder / "run")
    run.start(RECIPE)
    for k in range(1, 101):
        run.event("loss", images=32 * k, step=k, loss=1 / k, lr=0.01)
    run.event("finished", images=3200)
    (folder / "definition.toml").write_text(DEFINITION.replace("[0, 1]", "[0]"))
    SERVER.set_forkserver_preload([__name__, "accelerate", "torch._dynamo", "sympy"])  # the last three are imported at first use
    first = SERVER.Process(target=time.time)  # the server, which has imported everything, starts with it
    first.start()
    first.join()
    return folder


@pytest.mark.slow(20)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__[1:])
def test_what_is_killed_many_times_ends_the_same(verb: Callable[[Path, Path], Any], inputs: Path, tmp_path: Path) -> None:
    """ALPHABAR_KILLS gives the number of kills. A server that has imported everything forks each process."""

    def start(name: str) -> Any:
        process = SERVER.Process(target=child, args=(verb, tmp_path / name, inputs))
        process.start()
        return process

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
