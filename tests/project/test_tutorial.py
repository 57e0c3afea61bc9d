"""The tutorial: notebooks are made from the chapters and run on a small budget; captions are what the figures' files say."""

import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
CHAPTERS = sorted(TUTORIAL.glob("[0-9]*.md"))
# the same code with smaller numbers, by chapter: what stands there, what is run
SMALL = {
    "01": [],
    "02": [("n = 1000", "n = 40"), ("fid(images)", "kid(images)")],
    "03": [],
    "04": [("n = 1000", "n = 100")],
    "05": [("steps=100", "steps=6"), ("n = 8", "n = 2")],
    "06": [("steps=10", "steps=2"), ("n = 8", "n = 6")],
    "07": [("n = 8", "n = 2")],
    "08": [],
    "09": [("n = 1000", "n = 16"), ('metrics=("fid", "kid")', 'metrics=("kid",)')],
}
OPTIONS = {
    "data": {"--n": "16"},
    "sample": {"--n": "16", "--steps": "60"},
    "train": {"--images": "64", "--watch.preview_steps": "1", "--watch.preview_n": "4"},
    "extractor train": {"--epochs": "1", "--widths": "8 16 16"},
    "extractor check": {"--n": "64", "--corruptions": "inverted"},
    "experiment": {"--dry-run": ""},
    "score": {"--metrics": "kid precision"},
    "compare": {"--metrics": "kid recall"},
}


def script(name: str) -> ModuleType:
    """A script of the tutorial as a module."""
    spec = importlib.util.spec_from_file_location(name, TUTORIAL / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def shrunk(line: str) -> list[str]:
    """A command with smaller numbers: no word is left out, an option that is given is given another value."""
    words = shlex.split(line)[1:]
    name = next((k for k in OPTIONS if words[: len(k.split())] == k.split()), "")
    for option, value in OPTIONS.get(name, {}).items():
        if option == "--steps" and "--plan" not in words:  # of five calls five are tried
            continue
        if option in words:
            start = stop = words.index(option) + 1
            while stop < len(words) and not words[stop].startswith("--"):
                stop += 1
            words[start:stop] = value.split()
        else:
            words += [option, *value.split()]
    return words


def small(notebook: nbformat.NotebookNode, chapter: str) -> list[nbformat.NotebookNode]:
    """The cells of a notebook on a small budget; commands are run in the kernel, where torch is loaded already."""
    cells = [nbformat.v4.new_code_cell("%reset -f")]
    seen = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        source = cell.source
        for old, new in SMALL[chapter]:
            if old in source:
                seen.add(old)
                source = source.replace(old, new)
        lines = []
        for line in source.splitlines():
            if line.startswith("!"):
                line = f"__import__('alphabar.cli.main').cli.main.app({shrunk(line)!r}, result_action='return_value')"
            lines.append(line)
        cells.append(nbformat.v4.new_code_cell("\n".join(lines)))
    assert seen == {old for old, _ in SMALL[chapter]}, f"chapter {chapter}: what is to be made smaller is no longer there"
    return cells


def test_there_are_chapters_and_the_table_of_small_numbers_knows_them() -> None:
    assert [c.stem[:2] for c in CHAPTERS] == [*SMALL]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_a_notebook_is_what_its_chapter_makes(chapter: Path) -> None:
    made = script("make_notebooks").notebook(chapter)
    nbformat.validate(made)
    there = chapter.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert there == nbformat.writes(made) + "\n", "run python docs/tutorial/make_notebooks.py"


def test_the_notebooks_run(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    (tmp_path / "docs" / "tutorial").mkdir(parents=True)
    for file in TUTORIAL.glob("*.toml"):
        shutil.copy(file, tmp_path / "docs" / "tutorial")
    cells = []
    for chapter in CHAPTERS:
        cells += small(nbformat.read(chapter.with_suffix(".ipynb"), 4), chapter.stem[:2])
    index = re.findall(r"^```bash\n(.*?)^```", (TUTORIAL / "index.md").read_text(), re.MULTILINE | re.DOTALL)
    first = "\n".join(f"!{line}" for block in index for line in block.splitlines())
    cells = small(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(first)]), "01") + cells
    whole = nbformat.v4.new_notebook(cells=cells)  # one kernel, which is emptied between chapters, imports torch once
    NotebookClient(whole, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(o.get("text", "") for c in whole.cells for o in c.get("outputs", []) if o.output_type == "stream")
    for word in ("0..255", "did you mean 'every'", "alphabar tune RUN --calls 7", "add --resume", "the options of unipc are"):
        assert word in said, word
    for path in (
        "skipped.npz",
        "five_fitted.npz",
        "extractors/garments.safetensors",
        "runs/tutorial/first/events.jsonl",
        "compare.png",
    ):
        assert (tmp_path / path).exists(), path


def test_every_figure_has_its_command_its_numbers_and_its_place() -> None:
    figures = script("make_figures")
    shown = {name: page for page in figures.PAGES for name in re.findall(r"<!-- figure: (\w+) -->", page.read_text())}
    assert set(shown) == set(figures.FIGURES)
    for name, page in shown.items():
        told = json.loads((TUTORIAL / "figures" / f"{name}.json").read_text())
        assert (TUTORIAL / "figures" / f"{name}.png").exists(), name
        assert told["command"].startswith(f"python docs/tutorial/make_figures.py {name}")
        assert told["numbers"], name
        assert figures.block(name, told, page) in page.read_text(), f"run python docs/tutorial/make_figures.py captions ({name})"


def test_the_pictures_of_the_documents_stay_small() -> None:
    sizes = {p.name: p.stat().st_size for p in TUTORIAL.parent.rglob("*.png")}
    assert sum(sizes.values()) < 2_000_000, sizes


@pytest.mark.parametrize("name", ["noising", "schedules"])
def test_a_figure_that_is_arithmetic_says_what_is_committed(name: str, small_data: Path, tmp_path: Path) -> None:
    made = script("make_figures").FIGURES[name](tmp_path)
    told = json.loads((TUTORIAL / "figures" / f"{name}.json").read_text())
    assert json.loads(json.dumps(made.numbers)) == told["numbers"]
    assert made.table == told["table"]
    assert made.caption == told["caption"]
