"""The examples run on small data, and stay short enough to be read."""

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


def test_every_example_is_run() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_an_example_runs(name: str, small_data: Path, tmp_path: Path) -> None:
    script = EXAMPLES / name
    assert len(script.read_text().splitlines()) < 60
    done = subprocess.run([sys.executable, str(script), *CASES[name]], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert (tmp_path / CASES[name][0]).exists()
