"""A disk that is full, for every command that writes: one line with the file and the free space, and nothing half written."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from alphabar.cli.main import main
from alphabar.denoiser.model import save_weights
from alphabar.sampling.samples import Samples
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
}  # fmt: skip


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
    return tmp_path


def files(folder: Path) -> dict[Path, int]:
    return {p.relative_to(folder): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


@pytest.mark.filterwarnings("ignore:run was stopped before its first checkpoint")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c.split()[:2]))
def test_a_full_disk_ends_in_one_line_and_leaves_no_half_file(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named, may_stay = COMMANDS[command]
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
    again = {"train": " --resume", "tune": " --overwrite"}.get(command.split()[0], "")
    assert main_code(command + again) == 0  # with room, the same command works


def main_code(command: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(command.split())
    return int(end.value.code or 0)
