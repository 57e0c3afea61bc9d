"""What one shares holds no path of this machine, user name or host name: every byte of every product of a session."""

import gzip
import io
import json
import platform
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest

from alphabar.cli.main import main
from alphabar.core.places import PRIVATE, without_places
from alphabar.features.extractor import Extractor
from alphabar.training.config import resolve
from tests.fixtures.runs import untrained_extractor

TELLING = ("anna-karenina", "vronsky-host", "steppe-projects")
SMALL = [
    "--recipe",
    "garments",
    "--model.channels",
    "8",
    "16",
    "--model.groups",
    "4",
    "--model.embedding",
    "8",
    "--train.batch",
    "16",
    "--train.warmup",
    "0",
    "--train.log-every",
    "32",
    "--train.checkpoint-every",
    "64",
    "--train.heldout-every",
    "64",
    "--watch.preview-every",
    "64",
    "--watch.preview-n",
    "4",
    "--watch.preview-steps",
    "2",
    "--watch.score-every",
    "0",
    "--train.ema-snapshots",
    "2",
    "--images",
    "64",
]


def unpacked(data: bytes) -> bytes:
    """A file's bytes, with those of the members of an archive, also of text that NumPy stores as UTF-32."""
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = b"".join(archive.read(name) for name in archive.namelist())
        return data + inside + inside.replace(b"\0\0\0", b"")
    return data + (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else b"")


def telling(folder: Path) -> list[str]:
    """Files under a folder whose name or content tells of this machine, except the private ones of runs."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != PRIVATE]
    assert files
    named = [f"{p.relative_to(folder)}, its name" for p in files if any(word in str(p.relative_to(folder)) for word in TELLING)]
    return named + [
        f"{p.relative_to(folder)}: {data[max(0, data.index(word) - 60) : data.index(word) + 40]!r}"
        for p in files
        for data in [unpacked(p.read_bytes())]
        for word in (w.encode() for w in TELLING)
        if word in data
    ]


def works(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert end.value.code == 0, words


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home" / TELLING[0]
    (home / TELLING[2]).mkdir(parents=True)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, TELLING[0])
    monkeypatch.setenv("HOME", str(home))
    for module, name in ((socket, "gethostname"), (platform, "node")):
        monkeypatch.setattr(module, name, lambda: TELLING[1])
    monkeypatch.setenv("HOSTNAME", TELLING[1])
    return home / TELLING[2]


@pytest.mark.slow(40)
def test_no_product_of_a_session_tells_of_this_machine(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for split, n in (("train", 120), ("test", 60)):
        (home / "photos").mkdir(exist_ok=True)
        np.save(home / f"photos/{split}.npy", rng.integers(0, 256, (n, 8, 8, 1), np.uint8))
    photos, shared = home / "photos", home / "shared"
    extractor: Extractor = untrained_extractor()
    shared.mkdir()
    extractor.save(shared / "eight.safetensors")
    against = ["--against", f"{photos}:test", "--extractor", shared / "eight.safetensors"]
    run = shared / "run"
    works("train", photos, "--out", run, *SMALL)
    works("train", photos, "--out", run, "--resume")
    works("sample", run, "--n", 24, "--steps", 2, "--out", shared / "a.npz")
    works("sample", run, "--n", 24, "--steps", 3, "--out", f"{shared}/b/")
    works("score", shared / "a.npz", *against, "--metrics", "fid", "kid", "--keep", run)
    works("compare", shared / "a.npz", f"{shared}/b", *against, "--picture", shared / "ab.png", "--keep", run)
    few = ["--metrics", "fid", "kid", "--json"]

    def printed(*words: object) -> None:
        """The JSON that a command prints is shared too."""
        capsys.readouterr()
        works(*words)
        (shared / f"{words[0]}.json").write_text(capsys.readouterr().out)

    printed("score", shared / "a.npz", *against, *few)
    printed("compare", shared / "a.npz", f"{shared}/b", *against, *few, "--picture", shared / "again.png")
    printed("loss", run, "--trained-on", photos, "--n", 24, "--json")
    printed("samplers", "--json")
    works("ema", run, *against, "--n", 24, "--steps", 2)
    works("tune", run, "--calls", 2, "--fit", "grid", "--n", 8)
    np.savez(home / "classes.npz", images=rng.integers(0, 256, (120, 8, 8, 1), np.uint8), labels=np.arange(120) % 2)
    works("extractor", "train", home / "classes.npz", "--out", shared / "own.safetensors", "--epochs", 1, "--batch", 32)
    works(
        "extractor", "check", shared / "own.safetensors", "--against", f"{photos}:train", "--n", 100, "--out", shared / "own.png"
    )
    unet = [*SMALL, "--model.network", "unet2d", "--schedule.kind", "linear", "--model.data-range", 1]
    works("train", photos, "--out", shared / "unet", *unet)
    works("export", shared / "unet", "--out", shared / "exported")
    works("tune", shared / "unet", "--calls", 2, "--fit", "grid", "--n", 8)
    works("export", shared / "unet", "--to", "timesteps", "--out", shared / "timesteps.json")
    works("sweep", run, *against, "--n", 24, "--calls", 2, "--samplers", "ddim", "--metrics", "fid", "--out", shared / "sweep")
    works("data", photos, "--sheet", shared / "photos.png", "--json")
    (shared / "card.json").write_text(capsys.readouterr().out.splitlines()[-1])
    json.loads((shared / "card.json").read_text()).pop("sheet")
    recipe = home / "tiny.toml"
    recipe.write_text(resolve("garments", [*SMALL[2:-2], "--data.set", str(photos)]).toml())
    (home / "two.toml").write_text(
        f'hypothesis = "h"\nbetter = "a"\nthan = "b"\nseeds = [0]\nrecipe = "{recipe}"\n[budget]\nimages = 64\n'
        f'[scoring]\nagainst = "{photos}:test"\nextractor = "{shared}/eight.safetensors"\nn = 24\nsteps = 2\n'
        "[variants.a.train]\nlr = 1e-3\n[variants.b.train]\nlr = 2e-3\n"
    )
    works("experiment", home / "two.toml", "--out", shared / "experiment")
    works("experiment", home / "two.toml", "--out", shared / "experiment")
    works("push", run, "anna/photos", "--license", "mit", "--extractor", shared / "eight.safetensors", "--shown", 2, "--dry-run",
          "--out", shared / "pushed")  # fmt: skip
    works("export", run, "--to", f"{shared}/page/")
    works("sync", run, "--to", "tensorboard")
    works("report", run, shared / "experiment", "--sweep", shared / "sweep", "--out", shared / "report.html", "--trajectory")
    card = json.loads((shared / "card.json").read_text())
    (shared / "card.json").write_text(json.dumps({k: v for k, v in card.items() if k != "sheet"}))
    assert telling(shared) == []
    assert resolve(run / "recipe.toml").data.set == str(photos)
    works("report", run, "--out", home / "own.html", "--with-paths", "--no-trajectory")
    assert str(run) in (home / "own.html").read_text()


def test_places_are_their_last_part() -> None:
    shown = {
        "/home/anna/photos": "photos", "~/photos": "photos", "../x/photos:test": "photos:test", "diffusers:/a/b": "diffusers:b",
        "C:\\Users\\anna\\photos": "photos", "\\\\host\\share\\photos": "photos", "photos/": "photos/",
        "hf:owner/name": "hf:owner/name",
        "https://host/a": "https://host/a", "fashion_mnist:test": "fashion_mnist:test",
    }  # fmt: skip
    assert without_places(list(shown)) == list(shown.values())
