"""`hf:OWNER/NAME[@REVISION]`: a run that `alphabar push` put on the Hugging Face Hub, fetched once into a folder of the cache.

A revision is resolved to its commit first, and the folder is that of the commit. Of a repository only the files of `FILE` are
fetched: weights in safetensors, JSON and TOML, each read later through the checks for any run folder.
"""

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphabar.core.files import remove_leftovers, room_for, temporary, write_json
from alphabar.core.messages import command, first_line, say
from alphabar.core.stored_values import MAX_JSON, TEXT, StoredValues, read_object
from alphabar.data.cache import cache_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB = "hf:"
SOURCE = "hub.json"  # in the folder of a fetched run: its address and commit; it is no file of a repository
WEIGHTS = "checkpoints/last/ema.safetensors"
EXTRACTOR = "extractor.safetensors"
FILE = re.compile(
    r"(distilled/){0,4}(recipe\.toml|checkpoints/last/(ema\.safetensors|state\.json))|data\.json|scores\.jsonl|"
    r"tuned/[A-Za-z0-9][A-Za-z0-9._+-]{0,150}\.json|extractor\.safetensors|"
    r"autoencoder/(autoencoder\.safetensors|config\.json|diffusion_pytorch_model\.safetensors)"
)
MOST_FILES = 1000
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,200}", re.ASCII)
_LIBRARIES = ("huggingface_hub", "httpx", "httpcore", "requests", "urllib3")  # by version of the first
_LOGIN = "sign in with `hf auth login`, or set HF_TOKEN to a token (huggingface.co, Settings, Access Tokens)"


def hub_api() -> "HfApi":
    """The Hub at HF_ENDPOINT, or huggingface.co."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="alphabar")


def check_repo(name: str) -> None:
    """Raises ValueError for what is no name of a repository."""
    if not REPO.fullmatch(name):
        raise ValueError(f"{name!r:.120} is no repository of the Hub: write OWNER/NAME, as anna/garments")


@contextmanager
def hub_errors(repo: str, doing: str) -> Iterator[None]:
    """Makes the errors of talking to the Hub an OSError that says what to do."""
    try:
        yield
    except Exception as e:
        found = e.__cause__ if isinstance(e, RuntimeError) and isinstance(e.__cause__, Exception) else e  # of one of its threads
        if not isinstance(found, ConnectionError | TimeoutError) and not type(found).__module__.startswith(_LIBRARIES):
            raise
        raise OSError(f"{repo} was not {doing}: {_reason(found, repo)}") from e


def _reason(error: Exception, repo: str) -> str:
    from huggingface_hub import constants, errors

    code = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"this machine has no token of the Hub; {_LOGIN}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so that nothing is asked over the network; unset it"
    if isinstance(error, errors.GatedRepoError):
        return f"its owner admits readers one by one: ask on its page, then {_LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision: give a branch, a tag or the hash of a commit after @"
    if code == 403:
        return f"the token may not do that: make one that may write to {repo.removeprefix(HUB).partition('/')[0]}, and {_LOGIN}"
    if code == 401 and not isinstance(error, errors.RepositoryNotFoundError):
        return f"the Hub does not accept the token, or there is none; {_LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such model, or it is private and the token may not read it: check the name, or {_LOGIN}"
    if code is not None:
        return f"the Hub answered {code} ({first_line(error):.200})"
    return (
        f"{os.environ.get('HF_ENDPOINT') or constants.ENDPOINT} cannot be reached ({first_line(error):.200}); check the network"
    )


def local_run(run: str | Path) -> str | Path:
    """The folder that holds the run of a hf: address, which is fetched where it is not there yet; any other run unchanged."""
    text = str(run)
    return _fetched(*_split(text)) if text.startswith(HUB) else run


def source_of(run: Path) -> str | None:
    """The hf: address, with its commit, of a folder that was fetched, or of a checkpoint in it; None for any other."""
    for folder in (run, *run.absolute().parents[:4]):
        with suppress(FileNotFoundError, NotADirectoryError):
            return str(StoredValues(read_object(folder / SOURCE), str(folder / SOURCE)).get("source", TEXT))
    return None


def _split(address: str) -> tuple[str, str]:
    """(repository, revision) of a hf: address. Raises ValueError for another text."""
    repo, at, revision = address.removeprefix(HUB).partition("@")
    check_repo(repo)
    if at and not (_REVISION.fullmatch(revision) and ".." not in revision):
        raise ValueError(f"{address:.120}: the revision after @ is a branch, a tag or the hash of a commit, as {HUB}{repo}@main")
    return repo, revision or "main"


@lru_cache(maxsize=64)  # one process sees one commit of a branch
def _fetched(repo: str, revision: str) -> Path:
    home = cache_folder() / "hub" / repo
    if re.fullmatch("[0-9a-f]{40}", revision) and (home / revision / SOURCE).is_file():
        return home / revision
    with hub_errors(f"{HUB}{repo}", "fetched"):
        info = hub_api().model_info(repo, revision=revision, files_metadata=True)
    commit = str(info.sha)
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise ValueError(f"{HUB}{repo}: the Hub names the commit {commit!r:.80}, which is none: {revision} cannot be pinned")
    if (home / commit / SOURCE).is_file():
        return home / commit
    files = {str(s.rfilename): s for s in info.siblings or () if FILE.fullmatch(str(s.rfilename))}
    _check_files(repo, files, {str(s.rfilename) for s in info.siblings or ()})
    size = sum(s.size or 0 for s in files.values())
    say(f"fetching {HUB}{repo}@{commit}: {len(files)} files, {size / 1e6:.1f} MB, into {home / commit}", sys.stderr)
    home.mkdir(parents=True, exist_ok=True)
    remove_leftovers(home)
    with (
        room_for(home / commit),
        tempfile.TemporaryDirectory(prefix=".", suffix=temporary(""), dir=home) as scratch,
    ):
        part = Path(scratch) / "part"
        for name, file in files.items():
            _fetch(repo, commit, name, file, part)
        shutil.rmtree(part / ".cache", ignore_errors=True)  # of huggingface_hub
        write_json(part / SOURCE, {"source": f"{HUB}{repo}@{commit}"})
        with suppress(OSError):  # another process was first
            os.replace(part, home / commit)
    return home / commit


def _check_files(repo: str, files: dict[str, Any], all_names: set[str]) -> None:
    """Refuses a repository that holds no run, too many files, or texts that are too long to be read."""
    if WEIGHTS not in files:
        fetch = command("hf", "download", repo, "--local-dir", repo.partition("/")[2])
        what = f"; for a pipeline of diffusers: `{fetch}`, then diffusers:FOLDER" if "model_index.json" in all_names else ""
        raise ValueError(f"{HUB}{repo} is no run that `alphabar push` made: it has no {WEIGHTS}{what}")
    if len(files) > MOST_FILES:
        raise ValueError(f"{HUB}{repo} has {len(files):,} files of a run: at most {MOST_FILES:,} are fetched")
    for name, file in files.items():
        if not name.endswith(".safetensors") and (file.size or 0) > MAX_JSON:
            raise ValueError(f"{HUB}{repo}: {name} has {file.size:,} bytes, and is a text of at most {MAX_JSON:,}")


def _fetch(repo: str, commit: str, name: str, file: Any, folder: Path) -> None:
    """One file, whose size and checksum are those that the Hub lists."""
    with hub_errors(f"{HUB}{repo}", "fetched"):
        path = Path(hub_api().hf_hub_download(repo, name, revision=commit, local_dir=folder))
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    wanted = getattr(file.lfs, "sha256", None)
    if path.stat().st_size != file.size or wanted not in (None, digest):
        raise ValueError(f"{HUB}{repo}: {name} is not what the Hub lists (size or SHA-256): fetch it again")
