"""The examples run with small numbers and stay short."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CASES = {
    "custom_hook.py": ["run", "512"],
    "sample_and_score.py": ["s.npz", "520", "1"],
    "score_along_the_way.py": ["plot.png", "520", "2"],
}
FAST = {"make_cells.py": ["cells", "3"]}


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_example_is_short_and_has_a_case(script: Path) -> None:
    assert script.name in CASES | FAST
    assert len(script.read_text().splitlines()) < 60


@pytest.mark.parametrize("name", FAST)
def test_fast_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *FAST[name]])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert (tmp_path / FAST[name][0]).exists()


@pytest.mark.slow(10)
@pytest.mark.parametrize("name", CASES)
def test_example_runs(name: str, small_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / name), *CASES[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert (tmp_path / CASES[name][0]).exists()
