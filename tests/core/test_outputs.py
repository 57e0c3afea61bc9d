"""What alphabar did not write is never replaced, and nothing is written among the inputs: refused with one line, before work."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.cli.main import main
from alphabar.core.outputs import check_output, check_run_folder, save_picture, written_by_alphabar
from alphabar.sampling.samples import Samples

pytestmark = pytest.mark.usefixtures("folder")
FEW = ["--n", "2", "--steps", "2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: photos/ with 12 images, and files of a user under the names of outputs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for k in range(12):
        Image.fromarray(np.full((16, 16, 3), 20 * k, np.uint8)).save(f"photos/{k:03d}.png")
    for name in ("scans.png", "compare.png", "mine.png", "photos_train.png"):
        Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save(name)
    np.savez("scans.npz", images=np.zeros((50, 16, 16, 3), np.uint8))
    for name in ("notes.json", "page.html", "weights.safetensors", "list.part", "report.html"):
        Path(name).write_text('{"mine": 1}')
    for name in ("kept", "kept/samples", "runs", "runs/mine", "demo"):
        Path(name).mkdir()
    for name in ("kept/record.json", "kept/index.html", "demo/index.html", "runs/mine/machine.json", "kept/2024.png"):
        Path(name).write_text("mine")
    Path("link.npz").symlink_to("scans.npz")
    return tmp_path


def works(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0


def everything() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path().rglob("*")) if p.is_file()}


AGAINST = ["--against", "photos", "--extractor", "bundled"]
EXTRACTOR = ["extractor", "train", "photos", "--self-supervised"]
REFUSED = {
    "samples over an .npz": (["sample", "bundled", *FEW, "--out", "scans.npz"], "scans"),
    "samples over an .npz, suffix left out": (["sample", "bundled", *FEW, "--out", "scans"], "scans"),
    "a sheet over a picture": (["sample", "bundled", *FEW, "--out", "mine.npz"], "mine.png"),
    "samples through a link": (["sample", "bundled", *FEW, "--out", "link.npz"], "link.npz"),
    "samples into a folder of others": (["sample", "bundled", *FEW, "--out", "photos/"], "photos"),
    "samples into a folder with another record.json": (["sample", "bundled", *FEW, "--out", "kept/"], "kept"),
    "samples below a file": (["sample", "bundled", *FEW, "--out", "notes.json/a.npz"], "notes.json"),
    "samples into a file": (["sample", "bundled", *FEW, "--out", "notes.json/"], "notes.json"),
    "a contact sheet over a picture": (["data", "photos", "--sheet", "mine.png"], "mine.png"),
    "a contact sheet of the usual name": (["data", "photos"], "photos_train.png"),
    "a contact sheet among the images": (["data", "photos", "--sheet", "photos/sheet.png"], "among the images"),
    "a contact sheet over an image": (["data", "photos", "--sheet", "photos/003.png"], "photos/003.png"),
    "a contact sheet over the input": (["data", "scans.npz", "--sheet", "scans.npz"], "scans.npz"),
    "a contact sheet into a folder": (["data", "photos", "--sheet", "kept"], "is a folder"),
    "an extractor over weights": ([*EXTRACTOR, "--out", "weights.safetensors"], "weights"),
    "an extractor among the images": ([*EXTRACTOR, "--out", "photos/a.b"], "among the"),
    "a picture of a check": (["extractor", "check", "bundled", "--against", "photos", "--out", "mine.png"], "mine.png"),
    "a picture of scores": (["score", "scans.npz", *AGAINST, "--picture", "mine.png"], "mine.png"),
    "a picture of scores over the samples": (["score", "scans.npz", *AGAINST, "--picture", "scans.npz"], "scans.npz"),
    "a picture of scores among the real images": (["score", "scans.npz", *AGAINST, "--picture", "photos/a.png"], "among the"),
    "a picture of a comparison": (["compare", "scans.npz", "scans.npz", *AGAINST], "compare.png"),
    "a picture of losses": (["loss", "bundled", "--trained-on", "photos", "--picture", "mine.png"], "mine.png"),
    "a report": (["report", "bundled", "--out", "page.html", "--no-trajectory"], "page.html"),
    "an export": (["export", "bundled", "--to", "timesteps", "--out", "notes.json"], "notes.json"),
    "a demo": (["demo", "--out", "demo"], "demo"),
    "a run over files of the same names": (["train", "photos", "--out", "runs/mine"], "machine.json"),
    "a run among the images": (["train", "photos", "--out", "photos/run"], "among the images"),
    "a run in place of a file": (["train", "photos", "--out", "notes.json"], "notes.json"),
    "an experiment": (["experiment", "range", "--out", "kept"], "kept"),
    "a sweep": (["sweep", "bundled", "--against", "photos", "--out", "kept"], "kept"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_others_wrote_is_refused_in_one_line_and_stays(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, names = REFUSED[kind]
    before = everything()
    with pytest.raises(SystemExit) as stop:
        main(words)
    message = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and names in message.splitlines()[-1] and "Traceback" not in message
    assert everything() == before


def test_what_alphabar_wrote_is_replaced() -> None:
    for _ in range(2):
        works(["sample", "bundled", *FEW, "--out", "own.npz"])
        works(["sample", "bundled", *FEW, "--out", "own_folder/"])
        works(["data", "photos", "--sheet", "sheet.png"])
        works(["data", "photos", "--sheet", "sheet.jpg"])
        works(["report", "bundled", "--out", "own.html", "--no-trajectory"])
    assert len(Samples.load("own_folder/").images) == 2


def test_outputs_with_dots_do_not_share_a_sheet() -> None:
    for name in ("a.1", "a.2.npz", "a.3/"):
        works(["sample", "bundled", *FEW, "--out", name])
    assert sorted(p.name for p in Path().glob("a.*")) == ["a.1.npz", "a.1.png", "a.2.npz", "a.2.png", "a.3", "a.3.png"]


def test_an_interrupted_folder_of_samples_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Samples(np.zeros((3, 8, 8, 1), np.uint8), {"nfe": 2.0})
    made.save("own/")
    with monkeypatch.context() as patch:
        patch.setattr("alphabar.sampling.samples.write_png", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            made.save("own/")
    made.save("own/")
    Path("own/000007.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"000007\.png"):
        made.save("own/")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _picture(path: Path) -> None:
    save_picture(Image.new("L", (4, 4)), path)


@pytest.mark.parametrize(
    ("kind", "name", "write"),
    [
        ("picture", "a.png", _picture),
        ("picture", "a.jpg", _picture),
        ("picture", "without", _picture),
        ("samples", "a.npz", lambda p: Samples(np.zeros((1, 4, 4, 1), np.uint8), {}).save(p)),
    ],
)
def test_a_mark_is_of_one_kind(kind: str, name: str, write: Callable[[Path], None], folder: Path) -> None:
    write(folder / name)
    check_output(name, kind)
    other = "page" if kind == "picture" else "picture"
    assert written_by_alphabar(Path(name), kind) and not written_by_alphabar(Path(name), other)
    with pytest.raises(FileExistsError, match=f"is no {other} that alphabar wrote"):
        check_output(name, other)


def test_a_folder_without_permission_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OSError, match="may not be written to"):
        check_output("new/a.png", "picture")


def test_a_log_may_lie_in_the_folder_of_a_new_run(folder: Path) -> None:
    (folder / "runs/new").mkdir()
    (folder / "runs/new/log.txt").write_text("mine")
    check_run_folder(folder / "runs/new")


def test_reading_passes_over_pictures_of_alphabar() -> None:
    from alphabar.data.image_set import load

    before = load("photos").fingerprint
    works(["sample", "bundled", *FEW, "--out", "photos/drawn.npz"])
    assert Path("photos/drawn.png").exists() and load("photos").fingerprint == before
