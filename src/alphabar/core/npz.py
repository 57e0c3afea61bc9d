"""Arrays in .npz files, read within bounds."""

import math
import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core.messages import first_line

_INFLATION = 1032  # the most that deflate, NumPy's compression, can shorten
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, or those of them that `names` names.

    Nothing is unpickled, and no more memory is taken than the file can fill. Raises FileNotFoundError where there is no file,
    PermissionError, and ValueError, naming the file, for any other that cannot be read to its end.
    """
    with _opened(path) as (archive, size):
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
        return {k: _read(archive, m, size) for k, m in members.items() if names is None or k in names}


def npz_names(path: Path) -> set[str]:
    """The names of the arrays of an .npz file. Raises what `read_npz` raises."""
    with _opened(path) as (archive, _):
        return {name.removesuffix(".npy") for name in archive.namelist()}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """The archive and the size of the file."""
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:  # NumPy would leave a damaged file open
            yield archive, os.fstat(raw.fileno()).st_size
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as e:  # zipfile, zlib and NumPy raise many types for damaged files
        raise ValueError(f"{path} is damaged, or no .npz file ({first_line(e):.200}): write or fetch it again") from e


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> NDArray[Any]:
    packed = min(member.compress_size, size)
    most = min(member.file_size, packed if member.compress_type == zipfile.ZIP_STORED else _INFLATION * packed)
    with archive.open(member) as file:
        if (version := np.lib.format.read_magic(file)) not in _HEADERS:
            raise ValueError(f"{member.filename} is of version {version} of the .npy format")
        shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject or dtype.names is not None or (needs := math.prod(shape) * dtype.itemsize) > most:
        raise ValueError(f"{member.filename} says {dtype} of shape {shape}, which the file does not hold")
    with archive.open(member) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # the checksum is compared at the very end
            raise ValueError(f"{member.filename} holds more than {needs} bytes")
    return array
