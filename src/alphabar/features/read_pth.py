"""Weights of other networks: downloading them. `core.weights.read_weights` reads them."""

import hashlib
import os
from pathlib import Path

import torch

from alphabar.core.messages import as_path


def fetch(url: str, path: str | os.PathLike[str], sha256: str, *, show: bool = True) -> Path:
    """Download a file, which appears at `path` only when it is complete and has the right hash; show: a progress bar.

    Raises OSError, with advice how to download it by hand, and ValueError for a file with another hash.
    """
    path = as_path(path)
    by_hand = f"Download it elsewhere (curl -L -o {path.name} {url}) and put it at {path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256.lower(), progress=show)
    except RuntimeError as error:
        raise ValueError(f"{url} did not give the published file, or not all of it: {error}. {by_hand}") from error
    except OSError as error:
        raise OSError(f"{url} cannot be downloaded ({error}). {by_hand}") from error
    return path


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hex digits."""
    with as_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
