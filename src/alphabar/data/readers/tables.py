"""Tables with a column of encoded images: parquet files, and the Arrow files that `datasets.save_to_disk` writes."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alphabar.data.cache import Decoded
from alphabar.data.formats import naming
from alphabar.data.labels import column_of_labels, numbered
from alphabar.data.readers.encoded import decoded_from_blobs
from alphabar.data.values import Reading

_BATCH = 1024  # rows
_DAMAGED = "it is damaged, or no table; fetch it again"


def read_tables(files: list[Path], known: tuple[str, ...] | None, reading: Reading) -> Decoded:
    """The images of one or more files of one table. known: class names that replace those in the files."""
    image, label, named = _columns_of(files[0])
    values: list[Any] = []
    rows = 0
    for file in files:
        with naming(str(file), _DAMAGED), _batches(file, label or image) as batches:
            for batch in batches:
                values += [] if label is None else batch.column(0).to_pylist()
                rows += batch.num_rows

    def blobs() -> Iterator[tuple[str, bytes]]:
        for file in files:
            row = 0
            try:
                with _batches(file, image) as batches:
                    for batch in batches:
                        for cell in batch.column(0).to_pylist():
                            yield f"{file}, row {row}", image_bytes(cell, f"{file}, row {row}")
                            row += 1
            except Exception as error:
                if isinstance(error, ValueError) and str(file) in str(error):
                    raise
                raise ValueError(f"{file} is damaged after row {row} ({error}): fetch it again") from error

    if label is None:
        return decoded_from_blobs(blobs, None, None, str(files[0]), reading)
    found = numbered(values, rows, known or named, f"column {label} of {files[0]}")
    return decoded_from_blobs(blobs, *found, str(files[0]), reading)


def names_in_tables(files: Sequence[Path]) -> set[str]:
    """The names in the column of labels; none where the labels are numbers."""
    _, label, named = _columns_of(files[0])
    found: set[str] = set()
    if label is None or named:
        return found
    for file in files:
        with naming(str(file), _DAMAGED), _batches(file, label) as batches:
            for batch in batches:
                found.update(v for v in batch.column(0).to_pylist() if isinstance(v, str))
    return found


@contextmanager
def _batches(file: Path, column: str) -> Iterator[Iterable[Any]]:
    """The record batches of one column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix.lower() != ".arrow":
        with pq.ParquetFile(file) as table:
            yield table.iter_batches(batch_size=_BATCH, columns=[column])
        return
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        yield (_checked(batch.select([column])) for batch in stream)


def _checked(batch: Any) -> Any:
    batch.validate(full=True)  # else damaged offsets read beyond the memory of the file
    return batch


def _columns_of(file: Path) -> tuple[str, str | None, tuple[str, ...] | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with naming(str(file), _DAMAGED):
        if file.suffix.lower() != ".arrow":
            return _columns(pq.read_schema(file), str(file))
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            return _columns(stream.schema, str(file))


def _columns(schema: Any, where: str) -> tuple[str, str | None, tuple[str, ...] | None]:
    """(image column, label column, class names) of a table, from the features that Hugging Face writes in it."""
    try:
        features = dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        features = {}
    plain = {k: v for k, v in features.items() if isinstance(v, dict) and k in schema.names}
    images = [k for k, v in plain.items() if v.get("_type") == "Image"]
    # without such a note: images are stored as a struct with a field `bytes`
    images = images or [f.name for f in schema if re.match(r"struct<.*\bbytes: (large_)?binary", str(f.type))]
    images = images or [f.name for f in schema if str(f.type) in ("binary", "large_binary", "binary_view")]
    image = image_column(images, where, list(schema.names))
    labels = {k: v["names"] for k, v in plain.items() if v.get("_type") == "ClassLabel" and isinstance(v.get("names"), list)}
    if labels:
        label = column_of_labels(labels) or next(iter(labels))
        return image, label, tuple(str(c) for c in labels[label])
    return image, column_of_labels(k for k in schema.names if k != image), None


def image_column(images: list[str], where: str, columns: list[str]) -> str:
    """Which of several image columns is read: `image`, `img`, or the first one."""
    if not images:
        wanted = "wanted encoded images: a binary column, or Hugging Face's struct of bytes and path"
        raise ValueError(f"{where} has no column of images, only {', '.join(columns)}: {wanted}")
    return next((k for k in ("image", "img") if k in images), images[0])


def image_bytes(cell: Any, where: str) -> bytes:
    """The encoded image in a cell; b"" for an empty cell, which is reported with the broken images."""
    if isinstance(cell, bytes):
        return cell
    cell = cell if isinstance(cell, dict) else {}
    if isinstance(cell.get("bytes"), bytes):
        return bytes(cell["bytes"])
    if path := cell.get("path"):
        raise ValueError(f"{where} holds no image, only its path {path}: write the bytes into the file too")
    return b""
