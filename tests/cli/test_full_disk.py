"""A disk that is full, for every command that writes: one line with the file and the free space, and nothing half written."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from alphabar.cli.main import main
from alphabar.denoiser.model import build, save_weights
from alphabar.sampling.samples import Samples
from alphabar.training.config import resolve
from tests.denoiser.test_autoencoder import autoencoder
from tests.fixtures.runs import MakeRun, untrained_extractor, untrained_model

LIMIT = 3000  # bytes of a file: the operating system then gives the error of a full disk (EFBIG in place of ENOSPC)
TRAIN = "--model.channels 8 --model.groups 8 --train.batch 20 --images 40 --watch.preview-every 0 --train.checkpoint-every 0"
COMMANDS = {  # the name that the message holds, and what is written before and may stay
    "sample model.safetensors --n 200 --steps 1 --out s.npz": ("s.part/00000000.npz", ()),
    "train pixels.npy --out run " + TRAIN: ("run/checkpoints", ("run",)),
    "data pixels.npy --sheet sheet.png": ("sheet.png", ()),
    "report made --no-trajectory --out page.html": ("page.html", ()),
    "tune model.safetensors --calls 3 --fit grid --n 8 --out tuned": ("tuned/", ("tuned",)),
    "extractor train classes.npz --epochs 1 --batch 60 --out e.safetensors": ("e.safetensors", ()),
    "score generated.npz --against pixels.npy --extractor extractor.safetensors --metrics fid kid --curve --picture c.png": (
        ".npy|c.png|.npz", (),
    ),
    "compare generated.npz other.npz --against pixels.npy --extractor extractor.safetensors --metrics kid --picture c.png": (
        "c.png|.npz", (),
    ),
    "sweep model.safetensors --against pixels.npy --extractor extractor.safetensors --n 200 --calls 2 --samplers ddim --out s": (
        "s/|.npz", ("s",),
    ),
    "autoencoder train pixels.npy --factor 2 --width 8 --blocks 1 --images 64 --crop 16 --out a.safetensors": (
        "a.safetensors", ("a.part",),
    ),
    "autoencoder check autoencoder.safetensors --against pixels.npy --n 40 --out c.png": ("c.png", ()),
    "encode pixels.npy --with autoencoder.safetensors --out latents": ("latents", ()),
    "distill small --images 64 --q 4 --batch 32 --out distilled": ("distilled/", ("distilled",)),
}  # fmt: skip
EXPORT = "export unet2d.safetensors --out pipeline"
SLOW = pytest.param(EXPORT, marks=pytest.mark.slow(15))  # it imports diffusers


@contextmanager
def full_disk(limit: int = LIMIT) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def place(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (400, 8, 8, 1), np.uint8)
    np.save("pixels.npy", pixels)
    np.savez("classes.npz", images=pixels[:120], labels=np.arange(120) % 2)
    for name, some in (("generated", pixels[:200] // 2), ("other", pixels[200:] // 3)):
        Samples(some, {"n": 200}).save(f"{name}.npz")
    save_weights(tmp_path / "model.safetensors", untrained_model())
    untrained_extractor().save(tmp_path / "extractor.safetensors")
    shutil.copytree(make_run(previews=1), "made")
    autoencoder(channels=1, factor=2).save(tmp_path / "autoencoder.safetensors")
    return tmp_path


def files(folder: Path) -> dict[Path, int]:
    return {p.relative_to(folder): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


@pytest.mark.filterwarnings(
    "ignore:(run|distilled) was stopped before its first checkpoint", "ignore:no (preview|score) after 64 images"
)
@pytest.mark.parametrize("command", [*COMMANDS, SLOW], ids=lambda c: " ".join(c.split()[:2]))
def test_a_full_disk_ends_in_one_line_and_leaves_no_half_file(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named, may_stay = (COMMANDS | {EXPORT: ("pipeline", ())})[command]
    if command.startswith("distill"):
        assert main_code("train pixels.npy --out small " + TRAIN) == 0
    if command == EXPORT:
        recipe = resolve(
            "garments", ["--model.groups=8", "--model.network=unet2d", "--model.channels=8", "--schedule.kind=linear"]
        )
        save_weights(place / "unet2d.safetensors", build(recipe.model, recipe.schedule.spec(), (1, 8, 8), 0))
    for images in ("pixels.npy", "classes.npz"):
        assert main_code(f"data {images}") == 0  # so that they are in the cache
    capsys.readouterr()
    before = files(place)
    with full_disk():
        assert main_code(command) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alphabar: ")]
    assert len(lines) == 1 and "was not written: the disk is full" in lines[0] and "MiB free" in lines[0]
    assert any(name in lines[0] for name in named.split("|")), lines[0]
    new = {path: size for path, size in files(place).items() if before.get(path) != size}
    assert not [path for path in new if path.suffix != ".lock" and path.parts[0] not in (*may_stay, "cache", "s.part")]
    assert not [path for path in new if path.name.startswith(".") and path.name != ".lock"]
    assert all(size < LIMIT for size in new.values())
    again = {"train": " --resume", "distill": " --resume", "tune": " --overwrite"}.get(command.split()[0], "")
    assert main_code(command + again) == 0  # with room, the same command works


def main_code(command: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(command.split())
    return int(end.value.code or 0)
