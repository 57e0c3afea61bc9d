"""The examples run with small numbers and stay short."""

import json
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
CASES = {
    "custom_hook.py": ["run", "512"],
    "inpaint.py": ["page.html", "2", "3", "4"],
    "interpolate.py": ["way.gif", "0", "fashion_mnist:test[1]", "3", "3"],
    "sample_and_score.py": ["s.npz", "520", "1"],
    "score_along_the_way.py": ["plot.png", "520", "2"],
}
FAST = {"make_cells.py": ["cells", "3"], "make_emoji.py": ["emoji.tgz", "emoji"]}


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_example_is_short_and_has_a_case(script: Path) -> None:
    assert script.name in CASES | FAST
    assert len(script.read_text().splitlines()) < 60


@pytest.mark.parametrize("name", FAST)
def test_fast_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *FAST[name]])
    package_of_emoji(tmp_path)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert (tmp_path / name.removeprefix("make_").removesuffix(".py")).is_dir()


def package_of_emoji(folder: Path) -> None:
    """A package as npm packs it, of twelve emoji, one of them with a variant of skin colour."""
    names = [f"1f6{k:02}" for k in range(12)]
    listing = [{"unified": name.upper(), "image": f"{name}.png", "category": "Food & Drink"} for name in names]
    listing[0]["skin_variations"] = {"1F3FB": {"image": f"{names[0]}-1f3fb.png"}}  # type: ignore[assignment]
    (folder / "emoji.json").write_text(json.dumps(listing))
    Image.new("RGBA", (64, 64), (200, 30, 30, 128)).save(folder / "one.png")
    with tarfile.open(folder / "emoji.tgz", "w:gz") as tar:
        tar.add(folder / "emoji.json", "package/emoji.json")
        for name in (*names, f"{names[0]}-1f3fb"):
            tar.add(folder / "one.png", f"package/img/google/64/{name}.png")


def test_variants_of_an_emoji_stay_on_one_side_of_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package_of_emoji(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_emoji.py", "emoji.tgz", "emoji"])
    runpy.run_path(str(EXAMPLES / "make_emoji.py"), run_name="__main__")
    assert len(list(Path("emoji").rglob("*.png"))) == 13
    assert len({p.parent for p in Path("emoji").rglob("1f600*.png")}) == 1
    assert {p.parent.name for p in Path("emoji").rglob("*.png")} == {"Food_and_Drink"}


@pytest.mark.slow(10)
@pytest.mark.parametrize("name", CASES)
def test_example_runs(name: str, small_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / name), *CASES[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert (tmp_path / CASES[name][0]).exists()
