"""`alphabar app --export-space`: the folder runs as a plain process, from its own files, and says nothing of this machine."""

import json
import os
import platform
import re
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest

from alphabar.cli.main import app
from alphabar.training.checkpoint import load_model
from alphabar.web.space import pinned_versions, write_space
from tests.web.test_app import free_port
from tests.web.test_playground import fill

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'alphabar[app]'")


def test_versions_are_those_installed_with_all_that_they_need() -> None:
    found = pinned_versions()
    assert found["gradio"] == version("gradio") and found["torch"] == version("torch").partition("+")[0]
    assert "starlette" in found and "alphabar" not in found and "ruff" not in found and "wandb" not in found


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_copied(tmp_path: Path) -> None:
    root = fill(tmp_path)
    (root / "small" / "private.json").write_text(json.dumps({"set": str(tmp_path)}))
    lines = write_space(root, tmp_path / "space")
    assert "docker build" in lines[-1]
    runs = tmp_path / "space" / "runs"
    assert load_model(runs / "small").fingerprint == load_model(root / "small").fingerprint
    assert load_model(runs / "deeper" / "still" / "other").image_shape == (1, 8, 8)
    assert not list(runs.rglob("private.json")) and not (runs / "link").exists() and not (runs / ".hidden").exists()
    assert not (runs / "stolen" / "checkpoints" / "last" / "ema.safetensors").exists()  # a link that leads out of the root
    for path in (p for p in runs.rglob("*") if p.is_file()):
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert path.suffix == ".safetensors" or platform.node() not in path.read_text(), path
    with pytest.raises(FileExistsError, match="holds files, and no space of alphabar"):
        write_space(None, tmp_path / "space")
    with pytest.raises(NotADirectoryError, match="there is no folder"):
        write_space(tmp_path / "nowhere", tmp_path / "other")


@pytest.mark.slow(40)
def test_the_command_of_the_dockerfile_serves_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = tmp_path / "space"
    app(["app", "--export-space", str(space)], result_action="return_value")
    assert "0 runs and the bundled model" in capsys.readouterr().out
    dockerfile = (space / "Dockerfile").read_text()
    words = json.loads(re.findall(r"^CMD (.*)$", dockerfile, re.MULTILINE)[0])
    assert dockerfile.startswith(f"FROM python:{platform.python_version()}-slim\n") and words[0] == "python"
    assert "app_port: 7860" in (space / "README.md").read_text() and words[-1] == "7860"
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRADIO_", "PYTHONPATH"))}
    environment |= {"PYTHONPATH": str(space), "HOME": str(tmp_path), "ALPHABAR_CACHE": str(tmp_path / "cache")}
    where = subprocess.run(
        [sys.executable, "-c", "import alphabar; print(alphabar.__file__)"],
        env=environment, cwd=space, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(space)
    log = tmp_path / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *words[1:-1], str(port)], env=environment, cwd=space, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + 180
        while f":{port}" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            assert page.status == 200 and b"alphabar" in page.read()
    finally:
        process.terminate()
        process.wait(60)
