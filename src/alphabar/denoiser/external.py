"""Runs that are named by an address: `diffusers:FOLDER`, `lucidrains:FILE@SIZE` and `hf:OWNER/NAME@REVISION`."""

from pathlib import Path

from alphabar.core.messages import as_path
from alphabar.denoiser.from_diffusers import PREFIX, DiffusersModel, read_diffusers
from alphabar.denoiser.from_hub import HUB
from alphabar.denoiser.from_lucidrains import LUCIDRAINS, read_lucidrains


def split_run(run: str | Path) -> tuple[str, str, str]:
    """(prefix, path, end) of a run; prefix and end are "" for one of alphabar.

    >>> split_run("lucidrains:results/model-10.pt@64"), split_run("runs/garments")
    (('lucidrains:', 'results/model-10.pt', '@64'), ('', 'runs/garments', ''))
    """
    text = str(run)
    prefix = next((p for p in (PREFIX, LUCIDRAINS, HUB) if text.startswith(p)), "")
    rest = text.removeprefix(prefix)
    if prefix == HUB:
        repo, at, revision = rest.partition("@")
        return prefix, repo, at + revision
    path, at, size = rest.rpartition("@") if prefix == LUCIDRAINS else (rest, "", "")
    return (prefix, path, at + size) if path else (prefix, size, "")


def read_external(run: str | Path) -> DiffusersModel | None:
    """The model of `diffusers:FOLDER` or `lucidrains:FILE@SIZE`, or None for any other run."""
    prefix, path, end = split_run(run)
    if prefix == LUCIDRAINS:
        return read_lucidrains(path, end.removeprefix("@"))
    return read_diffusers(path) if prefix else None


def external_home(run: str | Path) -> Path | None:
    """Where what is made from such a model is kept: FOLDER/alphabar, or alphabar/NAME next to FILE; None for any other run."""
    prefix, path, _ = split_run(run)
    place = as_path(path)
    if prefix == LUCIDRAINS:
        return place.parent / "alphabar" / place.stem
    return place / "alphabar" if prefix else None
