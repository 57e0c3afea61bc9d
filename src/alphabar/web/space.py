"""`alphabar app --export-space DIR`: the page as a folder that runs as a Space of Hugging Face, or with `docker build`."""

import platform
import re
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from alphabar.core.files import remove_leftovers, room_for, temporary, write_atomically
from alphabar.core.messages import as_path, command
from alphabar.core.outputs import check_folder
from alphabar.web.runs_folder import BUNDLED_RUN, RunsFolder

PACKAGE = Path(__file__).parents[1]
PORT = 7860  # at which Spaces expect a page
KEPT = ("recipe.toml", "checkpoints/last/ema.safetensors", "checkpoints/last/state.json")


def write_space(root: Path | None, folder: str | Path) -> list[str]:
    """Writes the page of some runs with everything that it needs: alphabar, weights, versions, Dockerfile and README.md.

    Args:
        root: a folder with runs, of which recipe, averaged weights and fitted samplers are copied; None: the bundled model alone.
        folder: a new or empty folder.

    Returns:
        Sentences on what was written, and what to do with it.

    Raises:
        FileExistsError: for a folder that is not empty.
        NotADirectoryError: for a root that does not exist.
    """
    folder = as_path(folder)
    check_folder(folder, "space", ours=())
    names = [] if root is None else [name for name in RunsFolder(root).names() if name != BUNDLED_RUN]
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    place = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=temporary(""), dir=folder.parent)
    with room_for(folder), place as scratch:
        part = Path(scratch) / "part"
        shutil.copytree(PACKAGE, part / "alphabar", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        (part / "runs").mkdir()
        for name in names:
            _copy_run(as_path(root or "") / name, part / "runs" / name, as_path(root or ""))
        write_atomically(part / "runs" / "README", "Runs that the page offers.\n")
        versions = pinned_versions()
        write_atomically(part / "requirements.txt", "".join(f"{name}=={version}\n" for name, version in versions.items()))
        write_atomically(part / "Dockerfile", _dockerfile(versions["torch"]))
        write_atomically(part / "README.md", README)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    count = f"{len(names)} run{'' if len(names) == 1 else 's'} and the bundled model"
    return [
        f"{folder}: the page with {count}, {size / 1e6:.0f} MB. Anyone who opens it can draw, and nobody can upload",
        f"- as a Space: create one with the Docker SDK, and upload the folder: hf upload OWNER/NAME {folder} --repo-type space",
        f"next: {command('cd', folder)}; docker build -t page . && docker run -p {PORT}:{PORT} page",
    ]


def _copy_run(run: Path, to: Path, root: Path) -> None:
    """The parts of a run that drawing needs; nothing that says where it was trained, and no file from outside the root."""
    for path in [*(run / name for name in KEPT), *sorted((run / "tuned").glob("*.json"))]:
        if path.is_file() and path.resolve().is_relative_to(root.resolve()):
            (to / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to / path.relative_to(run))


def pinned_versions() -> dict[str, str]:
    """The installed versions of the packages that the page needs, with all that they need themselves, sorted by name.

    Raises ImportError if one of them is missing.
    """
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    queue = [Requirement("alphabar[app]")]
    seen: set[str] = set()
    while queue:
        wanted = queue.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        try:
            package = distribution(wanted.name)
        except PackageNotFoundError as e:
            raise ImportError(f"the page needs {wanted.name}, whose version is written down: pip install 'alphabar[app]'") from e
        found[re.sub(r"[-_.]+", "-", wanted.name).lower()] = package.version.partition("+")[0]  # torch's says its platform
        for text in package.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in (wanted.extras or {""})):
                queue.append(needed)
    del found["alphabar"]
    return {name: found[name] for name in sorted(found)}


def _dockerfile(torch: str) -> str:
    return f"""FROM python:{platform.python_version()}-slim
RUN useradd --create-home --uid 1000 user
WORKDIR /home/user/app
COPY requirements.txt .
ARG TORCH=torch=={torch}
# torch for the CPU, which is a tenth of the size
RUN pip install --no-cache-dir $TORCH --index-url https://download.pytorch.org/whl/cpu \\
 && pip install --no-cache-dir -r requirements.txt
COPY --chown=user . .
USER user
ENV PYTHONPATH=/home/user/app HOME=/home/user OMP_NUM_THREADS=2
EXPOSE {PORT}
CMD {COMMAND}
"""


COMMAND = f'["python", "-m", "alphabar", "app", "runs", "--host", "0.0.0.0", "--port", "{PORT}"]'
README = f"""---
title: Images by a diffusion model
sdk: docker
app_port: {PORT}
---

Draw images from a diffusion model, step by step, with any sampler and any number of network calls. Made with alphabar.

    docker build -t page . && docker run -p {PORT}:{PORT} page
"""
