"""Names are data: brackets, dollars, control characters, bytes that are not UTF-8, ~; and errors that nobody expected."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cyclopts import App
from PIL import Image

import alphabar as library
from alphabar.cli.main import app, main
from alphabar.core.messages import cells
from alphabar.report.figures import save
from alphabar.report.svg import Line, plot
from alphabar.web.html import error_words
from tests.cli.test_cli import alphabar
from tests.fixtures.runs import fill

NAMES = (
    "[red]a", "[", "a[b]", "[link=x]y", ":smile:", "$x^{$", "_under", "-dash", "a b'c\"d", "<b>&amp;", "{0} %s {}",
    "🧵 مرحبا", "\u202eabc", "new\nline", "esc\x1b[31m", "n" * 120, "caf\udce9",
)  # fmt: skip


def make_set(folder: Path, classes: tuple[str, ...], n: int = 3) -> Path:
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for k in range(n):
            pixels = np.random.default_rng(100 * c + k).integers(0, 256, (12, 12, 1), dtype=np.uint8)
            Image.fromarray(pixels[..., 0]).save(folder / name / f"{k}.png")
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A terminal that breaks no name, and a cache for these tests."""
    monkeypatch.setenv("COLUMNS", "600")
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALPHABAR_DEBUG", raising=False)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_every_table_shows_the_names_of_sets_classes_and_runs(name: str, tmp_path: Path) -> None:
    (shown,) = cells([name])
    make_set(tmp_path / "sets" / name, (name, "other"))
    out = alphabar("data", f"sets/{name}", "--sheet", f"sheets/{name}.png", cwd=tmp_path).stdout
    assert out.count(shown) >= 3  # the title, the class, and the sheet
    assert (tmp_path / "sheets" / f"{name}.png").is_file()
    card = json.loads(alphabar("data", f"sets/{name}", "--sheet", "s.png", "--json", cwd=tmp_path).stdout)
    assert card["classes"][name if name.isascii() or name.encode(errors="ignore").decode() == name else shown] == 3
    fill(tmp_path / "runs" / name, images=64_000, every=1_600, previews=1)
    assert shown in alphabar("runs", "runs", cwd=tmp_path).stdout
    alphabar("report", f"runs/{name}", "--out", f"pages/{name}.html", cwd=tmp_path)
    page = (tmp_path / "pages" / f"{name}.html").read_text(encoding="utf-8")
    assert "<b>&amp;" not in page
    missing = alphabar("sample", f"nowhere/{name}", "--out", "x.npz", cwd=tmp_path, ok=False).stderr
    assert shown in missing.replace("\n", "\\n")
    assert "unexpected" not in missing


@pytest.mark.parametrize("name", ["[red]a[/red]", "x[/b]", "[/]", "$x^{$", "caf\udce9", "a b"], ids=ascii)
def test_samples_of_any_name(name: str, tmp_path: Path) -> None:
    out = alphabar("sample", "bundled", "--n", "2", "--steps", "1", "--fast", "none", "--out", f"{name}.npz", cwd=tmp_path).stdout
    assert out.count(cells([name])[0]) >= 2  # the title and the sheet
    assert library.Samples.load(str(tmp_path / f"{name}.npz")).images.shape[0] == 2
    train = ("train", "--help")
    assert alphabar(*train, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_plots_draw_names_as_text(name: str, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    axes.set_title(name)
    axes.set_xlabel(f"{name} and {name}")
    assert save(figure, tmp_path / "a.png").is_file()
    drawn = plot("p", name, [Line(name, [0.0, 1.0], [1.0, 2.0])], x_label="x", x_names=[name, "b"])
    assert drawn is not None
    if name in ("$x^{$", "a[b]"):
        assert name in drawn.svg


COMMANDS = ["", "demo", "data", "train", "sample", "ema", "experiment", "samplers", "tune", "score", "compare", "sweep", "export",
            "push", "loss", "app", "sync", "recipes", "report",
            "runs", "runs prune", "extractor", "extractor train", "extractor check",
            "autoencoder", "autoencoder train", "autoencoder check", "encode", "distill", "restore",
            "vary", "invert", "interpolate", "likelihood", "anomaly"]  # fmt: skip


def leaves(found: App, path: tuple[str, ...] = ()) -> list[str]:
    """All commands of an app, by the words to type."""
    out = [" ".join(path)]
    for name in found:
        if not name.startswith("-"):
            out += leaves(found[name], (*path, name))
    return out


def test_the_list_of_commands_is_complete() -> None:
    assert sorted(leaves(app)) == sorted(COMMANDS)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_every_command_prints_in_any_encoding(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_set(tmp_path / "é", ("–", "b"))
    fill(tmp_path / "runs" / "…", images=64_000, every=1_600, previews=1)
    monkeypatch.chdir(tmp_path)
    for words in [
        *([*c.split(), "--help"] for c in COMMANDS),
        ["samplers"],
        ["data", "é"],
        ["runs"],
        ["sample", "é–", "--out", "x"],
    ]:
        raw, err, code = io.BytesIO(), io.BytesIO(), None
        out, errors = io.TextIOWrapper(raw, encoding=encoding), io.TextIOWrapper(err, encoding=encoding)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                main(words)
            except SystemExit as stop:
                code = stop.code
            errors.flush()
        assert code in (None, 0) or words[0] == "sample", err.getvalue()
        assert b"codec" not in err.getvalue()


def test_a_tilde_is_the_home_folder_in_commands_and_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    make_set(home / "set", ("a", "b"))
    fill(home / "runs" / "r", images=64_000, every=1_600, previews=1)
    (home / "r.toml").write_text("[train]\nlr = 0.5\n")
    (home / "e.toml").write_text(
        'hypothesis = "h"\nbetter = "a"\nthan = "b"\nseeds = [0, 1]\n[budget]\nimages = 64\n[variants.a]\n[variants.b]\n'
        "train.lr = 0.1\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    alphabar("data", "~/set", "--sheet=~/d.png", cwd=here)
    alphabar("sample", "bundled", "--n", "2", "--steps", "1", "--fast", "none", "--out", "~/s.npz", cwd=here)
    alphabar("report", "~/runs/r", "--out", "~/p.html", cwd=here)
    assert "r" in alphabar("runs", "~/runs", cwd=here).stdout
    assert "lr = 0.5" in alphabar("train", "~/set", "--recipe", "~/r.toml", "--out", "~/new", "--dry-run", cwd=here).stdout
    assert str(home) in alphabar("sample", "diffusers:~/none", "--out", "x.npz", cwd=here, ok=False).stderr
    assert {"d.png", "s.npz", "s.png", "p.html"} <= {p.name for p in home.iterdir()}

    model = library.load_model("bundled")
    made = library.sample(model, 2, steps=1, out="~/t.npz", progress=False)
    made.save("~/u/")
    assert len(library.Samples.load("~/u/").images) == len(library.Samples.load("~/t.npz").images) == 2
    assert len(library.load("~/set")) == 6
    assert library.resolve("~/r.toml").train.lr == 0.5
    assert library.read_experiment("~/e.toml").better == "a"
    for read in (library.load_model, library.load_extractor):
        with pytest.raises((OSError, ValueError), match=str(home)):
            read("~/nothing")
    assert not list(here.iterdir())


@pytest.mark.parametrize("words", [["runs"], ["runs", "--debug"]])
def test_a_fault_of_alphabar_ends_in_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALPHABAR_DEBUG", "0")
    monkeypatch.setattr("alphabar.results.run_list.find_runs", lambda roots: {}["x"])
    with pytest.raises(SystemExit) as stop:
        main(words)
    shown = capsys.readouterr().err
    assert stop.value.code == 70
    assert "unexpected KeyError: 'x' (this is a fault of alphabar)" in shown
    assert ("Traceback" in shown) == ("--debug" in words)
    assert len(shown.splitlines()) == 1 or "--debug" in words


def test_the_page_shows_a_fault_as_a_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_words(ValueError("eta = 2: give 0 to 1")) == "eta = 2: give 0 to 1"
    assert capsys.readouterr().err == ""
    assert error_words(KeyError("x")).startswith("unexpected KeyError: 'x' (this is a fault of alphabar)")
    shown = capsys.readouterr().err
    assert "KeyError" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "set", "--out", "r", "--imags", "3"], "--imags is no option of alphabar train .*did you mean '--images'"),
        (["train", "set", "--out", "r", "--train.lrr", "3"], "^alphabar: Unknown option: --train.lrr. Did you mean --train.lr"),
        (["train", "set", "--out", "r", "--train.lr", "x"], "^alphabar: Invalid value for --train.lr"),
        (["report", "set"], "set is no run folder"),
        (
            ["sample", "trained", "--checkpoint", "foo", "--out", "x"],
            "no checkpoint foo at trained/checkpoints/foo: it has best, last$",
        ),
    ],
)
def test_messages_blame_what_was_typed(words: list[str], message: str, tmp_path: Path) -> None:
    import re

    make_set(tmp_path / "set", ("a", "b"))
    for name in ("last", "best"):
        folder = tmp_path / "trained" / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
    shown = alphabar(*words, cwd=tmp_path, ok=False).stderr.strip()
    assert re.search(message, shown), shown


@pytest.mark.slow(30)
def test_streams_that_are_closed_full_or_no_longer_read(tmp_path: Path) -> None:
    command = f"{sys.executable} -m alphabar"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def shell(line: str, code: int) -> str:
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, (line, done)
        assert "Traceback" not in done.stderr
        return done.stderr

    shell(f"{command} samplers >&-", 0)
    shell(f"{command} samplers <&- >&- 2>&-", 0)
    assert not shell(f"{command} samplers | true; exit ${{PIPESTATUS[0]}}", 141)
    assert "no space left on device" in shell(f"{command} samplers > /dev/full", 2)
    shell(f"{command} samplers --nonsense 2> /dev/full", 2)
    assert shell(f"{command}.cli --version", 0) == ""
