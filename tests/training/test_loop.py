"""The loop, by what it promises: the loss falls, a killed run goes on bit for bit, two processes see what one sees."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from alphabar.core import seeds
from alphabar.core.files import read_jsonl
from alphabar.core.progress import track
from alphabar.core.run import Run
from alphabar.data.augment import AUGMENT_DIM, Geometry
from alphabar.denoiser.model import build
from alphabar.denoiser.model_recipe import ModelRecipe
from alphabar.results import runs as told_by
from alphabar.schedule.noising import to_x0
from alphabar.training.checkpoint import load_checkpoint, load_model
from alphabar.training.divergence import Diverged
from alphabar.training.hooks import HeldOutLoss, Hook, Training
from alphabar.training.loop import train
from alphabar.training.stream import Stream
from tests.fixtures.training import conditional_model, small_model, small_recipe

HERE = Path(__file__).parent


def weights(folder: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "last" / f"{name}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_loss_falls_and_the_record_is_whole(pixels: NDArray[np.uint8], folder: Path) -> None:
    run = Run(folder)
    recipe = small_recipe(images=3200, policy="one_cycle", lr=4e-3)
    average = train(
        small_model(), pixels, np.arange(180), recipe, run, heldout=pixels[180:], hooks=[HeldOutLoss(320)], progress=False
    )
    events = list(read_jsonl(run.events))
    losses = [e["loss"] for e in events if e["event"] == "loss"]
    heldout = [e for e in events if e["event"] == "heldout"]
    assert losses[-1] < 0.5 * losses[0]
    assert heldout[-1]["loss"] < 0.6 * heldout[0]["loss"]
    assert len(heldout[-1]["bands"]) == 5
    assert events[-1]["event"] == "finished"
    assert [e["images"] for e in events if e["event"] == "loss"] == list(range(64, 3201, 64))
    assert load_model(folder).fingerprint == average.fingerprint
    assert load_model(folder, "best").spec == average.spec


def test_a_loss_that_was_not_looked_at_yet_is_not_shown(
    pixels: NDArray[np.uint8], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the bar: a run's first line of the log comes after `log_every` images, and until then NaN would alarm."""
    monkeypatch.setattr("alphabar.training.loop.track", partial(track, every=0.0))  # a line a step
    train(small_model(), pixels, np.arange(200), small_recipe(images=96, log_every=64), Run(folder), progress=True)
    assert re.search(r"loss 0\.\d+", said := capsys.readouterr().err)
    assert "nan" not in said


def test_padding_and_cropping_keep_the_picture_in_the_middle(pixels: NDArray[np.uint8]) -> None:
    model = build(ModelRecipe(channels=(16,)), {"kind": "linear", "beta_max": 0.01}, (1, 12, 12), crop=2)
    batch = Stream(pixels, np.arange(200), small_recipe(flip=False), model).batch(0, 4)
    assert batch.pixels.shape == (4, 12, 12, 1)
    assert batch.pixels[:, :2].max() == 0
    inner = {p.tobytes() for p in pixels}
    assert all(np.ascontiguousarray(p[2:-2, 2:-2]).tobytes() in inner for p in batch.pixels)
    assert batch.noise.shape == (4, 1, 12, 12)


def test_every_epoch_sees_every_image_once(pixels: NDArray[np.uint8]) -> None:
    stream = Stream(pixels, np.arange(0, 200, 2), small_recipe(flip=False), small_model())
    seen = np.concatenate([stream.batch(first, 20).pixels for first in range(0, 100, 20)])
    assert sorted(p.tobytes() for p in seen) == sorted(p.tobytes() for p in pixels[::2])


def test_samples_of_a_run_do_not_depend_on_how_they_are_asked_for(pixels: NDArray[np.uint8]) -> None:
    whole = Stream(pixels, np.arange(200), small_recipe(), small_model()).batch(190, 30)  # over the end of an epoch
    for first, n in ((0, 7), (7, 23)):
        part = Stream(pixels, np.arange(200), small_recipe(), small_model()).batch(190 + first, n)
        assert np.array_equal(part.pixels, whole.pixels[first : first + n])
        assert torch.equal(part.noise, whole.noise[first : first + n])
        assert torch.equal(part.sigma, whole.sigma[first : first + n])


def test_stratified_levels_fill_every_stratum_once(pixels: NDArray[np.uint8]) -> None:
    model, recipe = small_model(), small_recipe(batch=40)
    sigma = Stream(pixels, np.arange(200), recipe, model).batch(80, 40).sigma
    schedule = model.schedule
    u = (schedule.t(sigma) - schedule.t_min) / (schedule.t_max - schedule.t_min)
    assert (u * 40).floor().long().tolist() == list(range(40))


def test_some_classes_are_hidden() -> None:
    pixels, labels = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 8, 8, 1)), np.arange(200) % 3
    model, recipe = conditional_model(), small_recipe(label_dropout=0.25)
    stream = Stream(pixels, np.arange(0, 200, 2), recipe, model, labels=labels)
    told = [stream.batch(first, 100) for first in range(0, 3000, 100)]  # thirty epochs of the even images
    shown = torch.cat([b.labels for b in told if b.labels is not None])
    true = torch.tensor([labels[p[0, 0, 0]] for b in told for p in b.pixels])
    hidden = shown == 3
    assert float(hidden.double().mean()) == pytest.approx(0.25, abs=4 * 0.008)
    assert torch.equal(shown[~hidden], true[~hidden])
    plain = Stream(pixels, np.arange(0, 200, 2), recipe, small_model()).batch(0, 100)  # and nothing else of the stream moves
    assert plain.labels is None and torch.equal(plain.noise, told[0].noise) and np.array_equal(plain.pixels, told[0].pixels)
    with pytest.raises(ValueError, match="pass labels"):
        Stream(pixels, np.arange(200), recipe, model)


def test_a_conditional_model_learns_its_classes(folder: Path) -> None:
    """Dark images are class 0 and bright ones 1: in pure noise only the class says which."""
    g = seeds.generator(1)
    labels = np.arange(200) % 2
    pixels = (60 + 120 * labels[:, None, None, None] + g.integers(-10, 11, (200, 8, 8, 1))).astype(np.uint8)
    recipe = small_recipe(images=4800, lr=4e-3, log_every=0, checkpoint_every=0, label_dropout=0.2)
    model = train(
        conditional_model(2), pixels, np.arange(180), recipe, Run(folder), labels=labels, heldout=pixels[180:],
        heldout_labels=labels[180:], hooks=[HeldOutLoss(2400)], progress=False,
    )  # fmt: skip
    x = 30 * seeds.starting_noise(0, range(64), (1, 8, 8))
    with torch.no_grad():
        dark, bright, either = (model(x, torch.full((64,), 30.0), torch.full((64,), k)).mean().item() for k in (0, 1, 2))
    assert dark == pytest.approx(60 / 127.5 - 1, abs=0.15) and bright == pytest.approx(180 / 127.5 - 1, abs=0.15)
    assert either == pytest.approx(120 / 127.5 - 1, abs=0.2)
    assert load_model(folder).class_names == ("0", "1")


class OnlyMirrors(Geometry):
    """Every second image mirrored, and nothing else."""

    def draw(self, rng: np.random.Generator) -> NDArray[np.float32]:
        said = np.zeros(AUGMENT_DIM, np.float32)
        said[0] = rng.random() < 0.5
        return said


def test_augmentation_does_not_leak(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are bright on the left. Half of the training ones are mirrored, and the network is told: its own are not."""
    monkeypatch.setattr("alphabar.training.stream.Geometry", OnlyMirrors)
    pixels = np.full((100, 8, 8, 1), 40, np.uint8)
    pixels[:, :, :4] = 215
    recipe = small_recipe(images=6400, lr=1e-2, log_every=0, checkpoint_every=0, augment=0.5, ema_half_life=800)
    model = build(ModelRecipe(channels=(32,), embedding=32), {"kind": "cosine"}, (1, 8, 8), 0, augment=AUGMENT_DIM)
    model = train(model, pixels, np.arange(100), recipe, Run(folder), progress=False)
    sigma = torch.full((64,), 30.0)
    x = 30 * seeds.starting_noise(0, range(64), (1, 8, 8))
    with torch.no_grad():
        clean = model(x, sigma).mean((0, 1, 2))
        told = torch.zeros(64, AUGMENT_DIM)
        told[:, 0] = 1
        mirrored = to_x0("v", model.output(x, sigma, augment=told), x, sigma).mean((0, 1, 2))
    assert clean[:3].min() > 0.4 and clean[5:].max() < -0.4
    assert mirrored[:3].max() < -0.4 and mirrored[5:].min() > 0.4


CHILD = """
import sys, pathlib, numpy as np
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from tests.fixtures.training import small_model, small_recipe
from alphabar.core.run import Run
from alphabar.training.loop import train
from alphabar.training.hooks import Hook, HeldOutLoss
pixels = np.load(sys.argv[2])
folder, resume, pause = pathlib.Path(sys.argv[3]), sys.argv[4] == "resume", float(sys.argv[5])
class Slow(Hook):
    def on_step(self, training):
        import time; time.sleep(pause)
        print(training.images, flush=True)
train(small_model(dropout=0.1), pixels, np.arange(180), small_recipe(), Run(folder), heldout=pixels[180:],
      hooks=[Slow(), HeldOutLoss(256)], resume=resume, progress=False)
"""


def child(pixels_file: Path, folder: Path, resume: bool = False, pause: float = 0.0) -> "subprocess.Popen[str]":
    root = str(HERE.parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, root, str(pixels_file), str(folder), "resume" if resume else "new", str(pause)],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
    )


def end(process: "subprocess.Popen[str]") -> int:
    """Waits for a child, closes its pipe, and gives back its exit status."""
    process.communicate(timeout=200)
    return process.returncode


def wait_for_images(process: "subprocess.Popen[str]", images: int) -> None:
    assert process.stdout is not None
    for line in iter(process.stdout.readline, ""):
        if line.strip().isdigit() and int(line) >= images:
            return
    raise AssertionError("the child ended before it had seen so many images")


def here(pixels: NDArray[np.uint8], folder: Path, *, dropout: float = 0.1, resume: bool = False) -> Path:
    """What `child` trains, in this process."""
    train(
        small_model(dropout=dropout), pixels, np.arange(180), small_recipe(), Run(folder), heldout=pixels[180:],
        hooks=[HeldOutLoss(256)], resume=resume, progress=False,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def unbroken(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return here(pixels, tmp_path_factory.mktemp("unbroken") / "run")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_bit_for_bit(
    pixels: NDArray[np.uint8], tmp_path: Path, unbroken: Path, how: signal.Signals
) -> None:
    """Stopped in one process, gone on with in another."""
    file = tmp_path / "pixels.npy"
    np.save(file, pixels)
    broken = child(file, tmp_path / "broken", pause=0.05)
    wait_for_images(broken, 320)  # in the second epoch of 180 images, between two checkpoints when killed outright
    broken.send_signal(how)
    assert end(broken) != 0
    position = json.loads((tmp_path / "broken/checkpoints/last/state.json").read_text())["images"]
    assert 0 < position < 640
    here(pixels, tmp_path / "broken", resume=True)
    for name in ("model", "ema", "optimizer"):
        assert same(weights(tmp_path / "broken", name), weights(unbroken, name)), name


def test_two_processes_train_on_the_images_of_one(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    file = tmp_path / "pixels.npy"
    np.save(file, pixels)
    script = tmp_path / "child.py"
    script.write_text(CHILD.replace("dropout=0.1", "dropout=0.0"))
    root = str(HERE.parent.parent)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617",
            str(script), root, str(file), str(tmp_path / "two"), "new", "0",
        ],
        env=dict(os.environ, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true"), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    here(pixels, tmp_path / "one", dropout=0.0)
    one, two = (list(read_jsonl(tmp_path / name / "events.jsonl")) for name in ("one", "two"))
    a, b = ([e["loss"] for e in rows if e["event"] == "loss"] for rows in (one, two))
    assert a == pytest.approx(b, rel=1e-4)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(first[k], second[k], atol=2e-3) for k in first)


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(pixels: NDArray[np.uint8], folder: Path) -> None:
    class Poison(Hook):
        def on_step(self, training: Training) -> None:
            if training.images == 320:
                with torch.no_grad():
                    next(training.model.parameters()).fill_(float("nan"))

    with pytest.raises(Diverged, match=r"not a number.*checkpoint is kept.*--train.lr"):
        train(small_model(), pixels, np.arange(200), small_recipe(), Run(folder), hooks=[Poison()], progress=False)
    kept = load_checkpoint(folder / "checkpoints" / "last")
    assert kept.state["images"] == 256
    assert all(bool(torch.isfinite(v).all()) for v in kept.ema.values())


def test_an_exploding_rate_is_noticed(pixels: NDArray[np.uint8], folder: Path) -> None:
    recipe = small_recipe(images=12800, policy="constant", lr=30.0, warmup=1280, clip=0.0, optimizer="adam")
    with pytest.raises(Diverged):
        train(small_model(), pixels, np.arange(200), recipe, Run(folder), progress=False)


class Forget(Hook):
    """Takes away what the network has learned, as too high a rate does: it says zero from then on."""

    def on_step(self, training: Training) -> None:
        if training.images == 6400:
            with torch.no_grad():
                for p in training.model.parameters():
                    p.zero_()


def test_a_loss_that_rose_and_stays_is_told_once(pixels: NDArray[np.uint8], folder: Path) -> None:
    recipe = small_recipe(images=9600, log_every=640, checkpoint_every=0, lr=2e-3)
    with pytest.warns(UserWarning, match=r"after 8\d\d\d images the loss is .* has not come back.*--train\.lr") as told:
        train(small_model(), pixels, np.arange(200), recipe, Run(folder), hooks=[Forget()], progress=False)
    assert len(told) == 1
    (event,) = [e for e in read_jsonl(folder / "events.jsonl") if e["event"] == "risen"]
    assert event["loss"] > 1.5 * event["lowest"]
    assert event["lowest"] == min(e["loss"] for e in read_jsonl(folder / "events.jsonl") if e["event"] == "loss")
    assert "finished; on the way the loss rose from" in told_by.state(told_by.load_run(folder)).words


def test_resuming_what_is_another_run_or_none_is_refused(pixels: NDArray[np.uint8], folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(small_model(), pixels, np.arange(200), small_recipe(), Run(folder), resume=True, progress=False)
    train(small_model(), pixels, np.arange(200), small_recipe(), Run(folder), fingerprint="a", progress=False)
    with pytest.raises(ValueError, match="another recipe or other images"):
        train(small_model(), pixels, np.arange(200), small_recipe(), Run(folder), fingerprint="b", resume=True, progress=False)


def test_a_changed_checkpoint_is_refused_by_name(pixels: NDArray[np.uint8], folder: Path) -> None:
    train(small_model(), pixels, np.arange(200), small_recipe(images=128), Run(folder), progress=False)
    file = folder / "checkpoints/last/ema.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"ema.safetensors is not what was written"):
        load_checkpoint(folder / "checkpoints/last")


def test_a_crash_between_two_renames_leaves_a_checkpoint(pixels: NDArray[np.uint8], folder: Path) -> None:
    train(small_model(), pixels, np.arange(200), small_recipe(images=128), Run(folder), progress=False)
    last = folder / "checkpoints/last"
    last.rename(last.with_name("last.old"))
    assert load_checkpoint(last).state["images"] == 128
    assert load_model(folder).image_shape == (1, 8, 8)


def test_compiling_gives_the_same_training_or_falls_back(
    pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(network: torch.nn.Module) -> object:
        def fails(*args: object) -> None:
            raise RuntimeError("no C++ compiler was found")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    plain = train(small_model(), pixels, np.arange(200), small_recipe(images=64), Run(tmp_path / "a"), progress=False)
    with pytest.warns(UserWarning, match=r"torch.compile does not work here"):
        fallen = train(
            small_model(), pixels, np.arange(200), small_recipe(images=64, compile=True), Run(tmp_path / "b"), progress=False
        )
    assert plain.fingerprint == fallen.fingerprint


def test_a_second_ctrl_c_is_not_needed(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    file = tmp_path / "pixels.npy"
    np.save(file, pixels)
    process = child(file, tmp_path / "run", pause=0.05)
    wait_for_images(process, 64)
    process.send_signal(signal.SIGINT)
    end(process)
    events = [e["event"] for e in read_jsonl(tmp_path / "run/events.jsonl")]
    assert events[-1] == "stopped"


def test_trainings_of_another_precision_follow_in_the_same_process(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    """accelerate holds a process to its first precision."""
    lost = []
    for precision in ("no", "bf16", "no"):
        run = Run(tmp_path / f"{len(lost)}-{precision}")
        train(small_model(), pixels, np.arange(180), small_recipe(images=64, precision=precision), run, progress=False)
        lost.append([e["loss"] for e in read_jsonl(run.events) if e["event"] == "loss"][-1])
    assert lost[0] == lost[2] and lost[1] != lost[0] and lost[1] == pytest.approx(lost[0], rel=0.05)
