"""The tutorial: notebooks equal their chapters and run with small numbers; captions equal the stored ones."""

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageDraw

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
CHAPTERS = sorted(TUTORIAL.glob("[0-9]*.md"))
# replacements that make the code of each chapter fast enough for a test
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
    "10": [("--minutes 60", "--minutes 0.1"), ("--n 64 --steps 50", "--n 2 --steps 2"), ("--n 200", "--n 8 --steps 2")],
    "11": [("n = 8", "n = 2"), ("steps=50", "steps=4"), ("draws=16, calls=30", "draws=2, calls=4"), ("steps=10)", "steps=1)")],
}
OPTIONS = {
    "data": {"--n": "16"},
    "sample": {"--n": "16", "--steps": "60"},
    "train": {"--images": "64", "--model.channels": "16", "--watch.preview_steps": "1", "--watch.preview_n": "4"},
    "extractor train": {"--epochs": "1", "--widths": "8 16 16"},
    "extractor check": {"--n": "64", "--corruptions": "inverted"},
    "experiment": {"--dry-run": ""},
    "score": {"--metrics": "kid precision"},
    "compare": {"--metrics": "kid recall"},
    "restore": {"--n": "2", "--calls": "4"},
    "invert": {"--n": "2"},
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that draws the figures, as a module."""
    monkeypatch.syspath_prepend(TUTORIAL)
    return importlib.import_module("make_figures")


def shrunk(line: str) -> list[str]:
    """The words of a command with smaller numbers; every option of the page stays in it."""
    words = shlex.split(line)[1:]
    name = next((k for k in OPTIONS if words[: len(k.split())] == k.split()), "")
    if "--minutes" in words or "emoji" in line:  # the plan of chapter 10 chooses the rest
        return words
    for option, value in OPTIONS.get(name, {}).items():
        if option == "--steps" and "--plan" not in words:  # the commands with five steps are fast already
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
    """The code cells of a notebook with small numbers; commands run inside the kernel, which has imported torch already."""
    cells = [nbformat.v4.new_code_cell("%reset -f")]
    replaced = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        source = cell.source
        for old, new in SMALL[chapter]:
            if old in source:
                replaced.add(old)
                source = source.replace(old, new)
        lines = []
        for line in source.splitlines():
            if line.startswith("!"):
                line = f"__import__('alphabar.cli.main').cli.main.app({shrunk(line)!r}, result_action='return_value')"
            lines.append(line)
        cells.append(nbformat.v4.new_code_cell("\n".join(lines)))
    assert replaced == {old for old, _ in SMALL[chapter]}, f"chapter {chapter} lacks a text that SMALL replaces"
    return cells


def test_small_has_every_chapter() -> None:
    assert [c.stem[:2] for c in CHAPTERS] == [*SMALL]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_notebook_equals_its_chapter(chapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TUTORIAL)
    made = importlib.import_module("make_notebooks").notebook(chapter)
    nbformat.validate(made)
    stored = chapter.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert stored == nbformat.writes(made) + "\n", "run python docs/tutorial/make_notebooks.py"


def test_python_code_of_chapter_1_runs(small_data: Path) -> None:
    """The code of the shortest chapter, without a kernel; the slow test runs all chapters."""
    code = re.findall(r"^```python\n(.*?)^```", CHAPTERS[0].read_text(), re.MULTILINE | re.DOTALL)
    assert len(code) > 3
    exec(compile("\n".join(code), CHAPTERS[0].name, "exec"), {})


def discs(folder: Path) -> None:
    """Transparent images with a coloured disc, in folders of classes, as the emoji of chapter 10, but small."""
    rng = np.random.default_rng(0)
    for k in range(60):
        image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
        x, y, r = rng.integers(5, 11), rng.integers(5, 11), rng.integers(2, 5)
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=(*map(int, rng.integers(0, 256, 3)), 255))
        place = folder / ("test" if k % 6 == 0 else "train") / f"class{k % 3}"
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{k}.png")


@pytest.mark.slow(60)
def test_notebooks_run(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    (tmp_path / "docs" / "tutorial").mkdir(parents=True)
    for file in TUTORIAL.glob("*.toml"):
        shutil.copy(file, tmp_path / "docs" / "tutorial")
    discs(tmp_path / "emoji")
    cells = []
    for chapter in CHAPTERS:
        cells += small(nbformat.read(chapter.with_suffix(".ipynb"), 4), chapter.stem[:2])
    index = re.findall(r"^```bash\n(.*?)^```", (TUTORIAL / "index.md").read_text(), re.MULTILINE | re.DOTALL)
    first = "\n".join(f"!{line}" for block in index for line in block.splitlines())
    cells = small(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(first)]), "01") + cells
    whole = nbformat.v4.new_notebook(cells=cells)  # one kernel, reset between chapters, imports torch once
    NotebookClient(whole, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    output = "".join(o.get("text", "") for c in whole.cells for o in c.get("outputs", []) if o.output_type == "stream")
    for word in ("0..255", "did you mean 'every'", "alphabar tune RUN --calls 7", "add --resume", "the options of unipc are"):
        assert word in output, word
    for path in (
        "skipped.npz",
        "five_fitted.npz",
        "extractors/garments.safetensors",
        "runs/tutorial/first/events.jsonl",
        "compare.png",
        "runs/emoji/extractor/auto.safetensors",
        "emoji.html",
    ):
        assert (tmp_path / path).exists(), path


def test_every_figure_has_a_command_numbers_and_a_page(script: ModuleType) -> None:
    shown = {name: page for page in script.PAGES for name in re.findall(r"<!-- figure: (\w+) -->", page.read_text())}
    assert set(shown) == set(script.FIGURES)
    for name, page in shown.items():
        stored = json.loads((TUTORIAL / "figures" / f"{name}.json").read_text())
        assert (TUTORIAL / "figures" / f"{name}.png").exists(), name
        assert stored["command"].startswith(f"python docs/tutorial/make_figures.py {name}")
        assert stored["numbers"], name
        assert script.block(name, stored, page) in page.read_text(), f"run python docs/tutorial/make_figures.py captions ({name})"


def test_images_of_the_pages_are_small() -> None:
    sizes = {p.name: p.stat().st_size for p in TUTORIAL.parent.rglob("*.png")}
    assert sum(sizes.values()) < 2_000_000, sizes


@pytest.mark.parametrize("name", ["noising", "schedules"])
def test_figures_without_a_model_equal_the_stored_ones(name: str, script: ModuleType, small_data: Path, tmp_path: Path) -> None:
    made = script.FIGURES[name](tmp_path)
    stored = json.loads((TUTORIAL / "figures" / f"{name}.json").read_text())
    assert json.loads(json.dumps(made.numbers)) == stored["numbers"]
    assert made.table == stored["table"]
    assert made.caption == stored["caption"]
