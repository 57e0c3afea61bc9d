"""Wrong commands and damaged files: each ends in a result or in words, never in a traceback, and leaves the inputs as they were.

Valid commands on tiny inputs are mutated, always the same way: words dropped, doubled, swapped, misspelt, numbers replaced by
odd ones, paths by other things, and files by damaged ones. Nothing here trains or samples for long, since the words that bound
the work (after the bar) are never dropped, and numbers are replaced only by small and by impossible ones.
"""

import contextlib
import io
import re
import shutil
import signal
import tomllib
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from alphabar.cli.main import main
from alphabar.core import messages
from alphabar.training.config import resolve
from tests.fixtures.mutations import SEED, WRONG, mutations

STORED = Path(__file__).parents[1] / "stored"
SECONDS = 20  # of processor time, so that a busy machine fails no command
ODD_NUMBERS = ("-1", "0", "1", "2", "nan", "inf", "-inf", "1e400", "", "9" * 30, "1e30", "0.5", "0x10", "٣", "1_0", "one")
ODD_PATHS = (
    "missing", "missing/deeper", "photos", "empty", "noise.bin", "words.txt", "", ".", "/proc", "..", "run", "squares_test.npz",
    "samples.npz", "extractor.safetensors", "mine.toml", "photos/a/0.png", "samples.npz[0:2]", "samples.npz[9:3]", "\0", "~none",
    "hf:", "diffusers:", "diffusers:photos", "diffusers:run", "bundled", "run/checkpoints/last", "squares_test.npz:test", "a:b:c",
    "run/recipe.toml", "sweep", "latents", "coder.safetensors", "latents/train/pixels.npy",
)  # fmt: skip

# Before the bar: words that are mutated in every way. After it: those that bound the work, which are never dropped.
COMMANDS = """\
data photos --sheet sheet.png --n 4 --json |
data squares_test.npz --sheet sheet.png --range 0 255 --axes nhwc --skip-broken --with-paths |
data photos --sheet sheet.png --alpha white |
data squares_train.npz:train --sheet new/sheet.png |
train squares_train.npz --out new --seed 1 --train.lr 1e-3 --schedule.s 0.01 | --recipe mine.toml --images 8 --train.batch 4
train photos --out new --data.holdout 0.2 --model.dropout 0.1 --train.flip | --recipe mine.toml --images 8 --train.batch 4
train photos --out new --train.ema-snapshots 2 --model.conditional | --recipe mine.toml --images 8 --model.channels 4 4
train squares_train.npz --out new --train.init-from run | --recipe mine.toml --images 8 --watch.preview-n 1
train squares_train.npz --recipe garments --out new --range 0 255 --model.network unet2d | --images 8 --dry-run
train squares_train.npz --recipe flow --out new --model.patch 4 --model.network dit | --images 8 --dry-run
train squares_train.npz --out run | --resume
recipes extra | --jsn
sample run --out new.npz --sampler ddim --eta 1 --seed 3 --json | --n 2 --steps 2
sample run --out new/ --sampler heun --grid karras --batch 2 | --n 2 --steps 2
sample run --out new.npz --sampler tuned --clip --precision float32 | --n 2 --steps 3
sample run --out new.npz --plan every(2) --threshold 0.99 --options.s_churn 1 --sampler heun --fast none | --n 2 --steps 3
sample run --out new.npz --checkpoint last --device cpu --grid log_sigma | --n 2 --steps 2
sample classes --out new.npz --classes 0 1 --guidance 2 --guidance-interval 0.1 10 | --n 2 --steps 2
sample snap --out new.npz --checkpoint ema:0.1 --variance beta --sampler ddpm | --n 2 --steps 2
sample diffusers:pipe --out new.npz --grid leading | --n 2 --steps 2
ema snap --against squares_test.npz --extractor extractor.safetensors --sampler ddim | --n 20 --steps 1 --lengths 0.1
experiment trial.toml --out new --reuse missing --shown 2 --at-once 1 --json | --dry-run
experiment range --out new --device cpu | --dry-run
samplers --json |
tune run --base ddim --name mine --out new --overwrite --seed 1 --eta 0.3 --rate 0.02 \
    | --calls 2 --n 8 --n-heldout 8 --rounds 1 --steps 1
score samples.npz --against squares_test.npz --extractor extractor.safetensors --metrics kid precision --json |
score samples.npz[0:3] --against squares_test.npz --metrics kid --trained-on squares_train.npz --picture p.png |
score run --against squares_test.npz --extractor extractor.safetensors --metrics kid --eta 0 --curve | --n 8 --steps 1
score photos --against squares_test.npz --extractor extractor.safetensors --metrics kid density --n 4 |
compare samples.npz samples.npz --against squares_test.npz --extractor extractor.safetensors --metrics kid --keep run |
compare run run --against squares_test.npz --extractor extractor.safetensors --metrics kid --picture p.png | --n 4 --steps 1
sweep run --against squares_test.npz --extractor extractor.safetensors --out new --etas 0 1 --plans full every(2) \
    | --samplers ddim --calls 2 --n 8 --metrics kid --shown 2
sweep run --against squares_test.npz --extractor extractor.safetensors --grids default time --name x --seed 2 \
    | --samplers euler --calls 1 --n 8 --metrics kid
sweep run --against squares_test.npz --samplers ddim heun(s_churn=4) tuned --calls 1 2 --steps 3 --json | --dry-run
sweep run --against squares_test.npz --out sweep --extractor extractor.safetensors \
    | --samplers ddim dpmpp_2m tuned --calls 2 3 --n 40 --metrics kid
export run --to timesteps --out t.json --checkpoint last |
export unet2d --out new --pipeline ddpm |
export decoded --to new.onnx --half --checkpoint last |
export decoded --to new.html --title x |
loss run --trained-on squares_train.npz --picture p.png --json | --n 8
report run snap --out page.html --sweep sweep --no-trajectory --with-paths |
report run --out page.html --trajectory |
runs . run --where train.lr=0.002 data.set=x --state finished --json |
runs run --model d2f89c2fe668cde6 |
runs prune snap classes --keep best --yes --json |
runs prune run --keep none |
sync run --to os:path --json |
demo --few 2 --seed 1 --out photos | --device nowhere --minutes 0.01
extractor train photos --out x.safetensors --lr 0.1 --shift 1 --dim 4 --json | --epochs 1 --batch 4 --widths 4
extractor train photos --out x.safetensors --temperature 0.2 --dim 4 | --self-supervised --epochs 1 --batch 4 --widths 4
extractor check extractor.safetensors --against squares_test.npz --corruptions blur noise --seed 1 --out c.png --json | --n 8
extractor check extractor.safetensors --against squares_test.npz --out c.png | --n 8
restore run squares_test.npz --degrade --task inpaint --mask random --share 0.5 --sigma 0.1 --seed 1 --out new --json \
    | --n 2 --draws 2 --calls 2
restore run squares_test.npz[0:2] --degrade --task denoise --sigma 0.3 --out new --json | --draws 2 --calls 2
vary run squares_test.npz --strength 0.5 --seed 1 --out new.npz --gif new.gif --json | --n 2 --draws 2 --steps 2 --fast none
invert run squares_test.npz --iterations 2 --tolerance 1e-3 --out new.npz --json | --n 2 --steps 2
interpolate run 0 1:3 --out new.npz --gif new.gif --json | --n 3 --steps 2
interpolate run photos/a/0.png squares_test.npz[1] --iterations 2 --out new/ | --n 3 --steps 2
likelihood run squares_test.npz --trace exact --levels 256 --picture p.png --json | --n 2 --steps 1
anomaly run squares_test.npz --usual squares_train.npz --score middle --picture p.png --json | --n 4 --usual-n 40
restore classes photos --task deblur --blur 1 --classes 0 --guidance 2 --method diffpir --out new | --n 2 --draws 2 --calls 2
distill run --out new --q 4 --lr 1e-3 --calls 1 --seed 1 | --images 8 --batch 4
autoencoder train photos --out x.safetensors --latent 2 --noise 0.1 --lr 1e-3 --seed 1 --holdout 0.2 --json \
    | --factor 2 --width 8 --blocks 1 --images 8 --batch 4 --crop 16
autoencoder check coder.safetensors --against photos --out c.png --json | --n 8
encode photos --with coder.safetensors --out new --json |
encode squares_train.npz --with coder.safetensors --out new --size 8 --fit pad |
train latents --out new --model.patch 1 | --recipe mine.toml --images 8 --train.batch 4
sample decoded --out new.npz --fast none | --n 2 --steps 2
loss decoded --trained-on latents | --n 8
train photos --out new --size 6 --fit crop --watch.extractor extractor.safetensors | --recipe mine.toml --images 8 --train.batch 4
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every kind of file: sets, samples, an extractor, a sweep, runs with all that a run can hold, a pipeline, recipes."""
    home, rng = tmp_path_factory.mktemp("fuzz") / "base", np.random.default_rng(0)
    shutil.copytree(STORED, home)
    for name in ("a", "b"):
        (home / "photos" / name).mkdir(parents=True)
        for k in range(6):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(home / "photos" / name / f"{k}.png")
    (home / "empty").touch()
    (home / "noise.bin").write_bytes(rng.bytes(500))
    (home / "words.txt").write_text("only words\n")
    recipe = (home / "run" / "recipe.toml").read_text()
    (home / "mine.toml").write_text("".join(x for x in recipe.splitlines(True) if not x.startswith(("begin", "init_from"))))
    (home / "trial.toml").write_text(
        'hypothesis = "h"\nbetter = "a"\nthan = "b"\nseeds = [0, 1]\nrecipe = "mine.toml"\n[budget]\nimages = 8\n[variants.a]\n'
        "[variants.b]\ntrain.lr = 0.1\n"
    )
    train = "train squares_train.npz --recipe mine.toml --train.batch 8 --out"
    for line in (
        f"{train} snap --images 16 --train.ema-snapshots 2",
        f"{train} classes --images 16 --model.conditional --train.heldout-every 8 --train.checkpoint-every 8",
        f"{train} unet2d --images 8 --model.network unet2d --model.channels 8 --schedule.kind linear",
        "export unet2d --out pipe",
        "autoencoder train photos --out coder.safetensors --factor 2 --latent 2 --width 8 --blocks 1 --images 8 --crop 16",
        "encode photos --with coder.safetensors --out latents",
        "train latents --recipe mine.toml --model.patch 1 --train.batch 8 --images 8 --out decoded",
    ):
        assert (fault := run(line.split(), home)) is None, fault
    return home


@dataclass
class Case:
    words: list[str]
    damaged: str = ""  # a file of the base that is damaged, and how
    content: bytes = b""

    def __str__(self) -> str:
        return f"{self.words}" + (f" with {self.damaged}" if self.damaged else "")


def cases(base: Path, n: int, seed: int = 0) -> Iterator[Case]:
    """`n` commands, from the list in turns, each with one to three mutations."""
    rng = np.random.default_rng(seed)
    lines = [line for line in COMMANDS.splitlines() if line]
    files = sorted(p for p in base.rglob("*") if p.is_file() and p.stat().st_size > 0)
    for k in range(n):
        free, _, bounds = lines[k % len(lines)].partition("|")
        words, kept = free.split(), bounds.split()
        case = Case([])
        way = rng.random()  # most commands reach the code behind the first check: one odd value, or one damaged file
        for _ in range(0 if way < 0.35 else 1 if way < 0.75 else rng.integers(1, 4)):
            words, kept = _mutated(words, kept, rng, values=way < 0.6)
        names = {w.partition("[")[0].removeprefix("diffusers:").partition(":")[0] for w in [*words, *kept]} - {"", ".", "/", ".."}
        near = [f for f in files if f.relative_to(base).parts[0] in names]
        trains = words[:1] in (["train"], ["experiment"]) and "--dry-run" not in kept
        near = [f for f in near if not trains or f.suffix != ".toml"]  # a damaged budget may be a long one
        if near and (way < 0.35 or rng.random() < 0.25):
            file = near[int(rng.integers(len(near)))]
            *_, (what, case.content) = mutations(file.read_bytes(), int(rng.integers(1, 40)), k)
            case.damaged = f"{file.relative_to(base)}: {what}"
        case.words = [*words, *kept]
        yield case


def _mutated(words: list[str], kept: list[str], rng: np.random.Generator, values: bool) -> tuple[list[str], list[str]]:
    """One mutation of a command; with `values`, of a value in it."""

    def one(of: Sequence[str]) -> str:
        return of[int(rng.integers(len(of)))]

    if not words:  # all of them were dropped
        return words, kept
    every = [*words, *kept]
    numbers = [i for i, w in enumerate(every) if w.replace(".", "").replace("e-", "").isdigit()]
    places = [i for i, w in enumerate(words) if i > 0 and not w.startswith("-") and i not in numbers]
    if values:
        if rng.random() < 0.4 and (known := _options(words[0])):
            return [*words, one(known), one(one((ODD_NUMBERS, ODD_PATHS)))], kept
        at = int(rng.choice(numbers)) if numbers and (rng.random() < 0.5 or not places) else int(rng.choice(places or [0]))
        every[at] = one(ODD_NUMBERS if at in numbers else ODD_PATHS)
        return every[: len(words)], every[len(words) :]
    at = int(rng.integers(len(words)))
    word, kind = words[at], int(rng.integers(4))
    if kind == 0:
        return [*words[:at], *words[at + 1 :]], kept
    if kind == 1:
        return [*words[:at], word, *words[at:]], kept
    if kind == 2:
        other = int(rng.integers(len(words)))
        words[at], words[other] = words[other], words[at]
        return words, kept
    i = int(rng.integers(len(every)))
    word, cut = every[i], int(rng.integers(len(every[i]) + 1))
    every[i] = one((word[:cut] + word[cut + 1 :], word + "x", word[:cut] + word[cut:].upper(), word + "=", word + "=-1"))
    return every[: len(words)], every[len(words) :]


@cache
def _options(command: str) -> tuple[str, ...]:
    """Options of a command: for `train`, all keys of a recipe. Compilation and several processes would take long."""
    if command == "train":
        tables = tomllib.loads(resolve("garments").toml())
        keys = [f"--{section}.{key}" for section, table in tables.items() if isinstance(table, dict) for key in table]
        return tuple(key for key in keys if key not in ("--train.compile", "--train.parallel"))
    lines = [line for line in COMMANDS.splitlines() if line.split()[:1] == [command]]
    return tuple(sorted({w for line in lines for w in line.partition("|")[0].split() if w.startswith("--")}))


class Hang(BaseException):
    """A command that does not end."""


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"it did not end within {SECONDS} s of processor time: " + "".join(traceback.format_stack(frame)[-3:]))

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def run(words: list[str], home: Path) -> str | None:
    """Runs a command in a folder. What is wrong with how it ended; None: nothing."""
    out, err, code, faults = io.StringIO(), io.StringIO(), None, []
    explain = messages.explain

    def noted(error: BaseException) -> tuple[str, int]:
        message, code = explain(error)
        if code == messages.FAULT_CODE:
            faults.append("".join(traceback.format_exception(error)))
        return message, code

    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.chdir(home)
        patched.setenv("ALPHABAR_CACHE", str(home / "cache"))
        patched.setenv("ALPHABAR_DEBUG", "0")
        patched.setattr("alphabar.cli.main.explain", noted)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch("sys.stdin", io.StringIO()):
            try:
                with _bounded():
                    main(words)
            except SystemExit as end:
                code = end.code
            except BaseException as error:  # what this function is there to find
                return "".join(traceback.format_exception(error))[-1500:]
    if code not in (None, 0, 1, 2, 130):
        return f"exit code {code}: " + ("".join(faults)[-1500:] or err.getvalue()[-500:])
    if code and not err.getvalue().strip():
        return f"exit code {code} without a word"
    return None


def owned(words: list[str], name: str) -> bool:
    """Whether a command may change a file that was there: a record that grows, or what the command is there to change."""
    top = Path(name).parts[0]
    if words[:2] == ["extractor", "check"]:
        return name == "extractor.safetensors"
    if words[:1] == ["train"]:
        return "--resume" in words and top in words
    if words[:2] == ["runs", "prune"]:
        return top in ("run", "snap", "classes", "unet2d")
    return name.endswith(".jsonl") or "/tuned/" in name or (top == "sweep" and words[:1] == ["sweep"]) or name == "samples.npz"


def contents(folder: Path) -> dict[str, bytes | None]:
    """The content of every file in a folder; of a folder in it, None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def cleared(place: Path, base: Path, names: set[str]) -> None:
    """The folder `here` of a place as the base is, where `names` are the entries that differ, and nothing else in the place."""
    for entry in [p for p in place.iterdir() if p.name != "here"] + [place / "here" / name for name in names]:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
    for name in names:
        if (base / name).is_dir():
            shutil.copytree(base / name, place / "here" / name)
        elif (base / name).exists():
            shutil.copy(base / name, place / "here" / name)


def faults(base: Path, n: int, seed: int) -> list[str]:
    found = []
    place = base.parent / f"cases{seed}"  # so that .. is cleared as well
    home, whole = place / "here", contents(base)
    shutil.copytree(base, home)
    for k, case in enumerate(cases(base, n, seed)):
        damaged = case.damaged.partition(": ")[0]
        if damaged:
            (home / damaged).write_bytes(case.content)
        if fault := run(case.words, home):
            found.append(f"{k}: {case}\n{fault}")
        after, wanted = contents(home), {**whole, damaged: case.content} if damaged else whole
        if names := [name for name in whole if after.get(name) != wanted[name] and not owned(case.words, name)]:
            found.append(f"{k}: {case}\nchanged {', '.join(names)}")
        differ = {name for name in {*after, *whole} if after.get(name, "") != whole.get(name, "")}
        cleared(place, base, {Path(name).parts[0] for name in differ})
    return found


FOUND = {  # commands that ended in a traceback, or late
    "demo --out new --device nowhere": "device 'nowhere' is not on this machine",
    "experiment trial.toml --out new --device nowhere": "device 'nowhere' is not on this machine",
    "sample run --out / --n 1 --steps 1": "holds files that are not samples|may not be written to",
    "train squares_train.npz --recipe mine.toml --out new --train.batch 8 --model.network unet2d": "4 channels at a level",
}


@pytest.mark.parametrize("command", FOUND)
def test_what_the_search_found_ends_in_words(
    base: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "here"
    shutil.copytree(base, home)
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit) as end:
        main(command.split())
    assert end.value.code == 2
    assert re.search(FOUND[command], capsys.readouterr().err)
    assert not (home / "new").exists()


def test_some_wrong_commands_end_in_words(base: Path) -> None:
    assert not faults(base, 60, SEED + 1)


@pytest.mark.slow(150)
def test_hundreds_of_wrong_commands_end_in_words(base: Path) -> None:
    assert not faults(base, WRONG, SEED)
