"""Sets of the Hugging Face hub, and the parquet files with a column of encoded images in which they are stored."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alphabar.data.cache import Decoded, Source, blob_key
from alphabar.data.formats import naming
from alphabar.data.labels import column_of_labels, numbered
from alphabar.data.readers.encoded import decoded_from_blobs
from alphabar.data.values import Reading

_BATCH = 1024  # rows


def find_on_hub(repo: str, split: str, known: tuple[str, ...] | None, reading: Reading) -> Source:
    """A split of the repository owner/name, or FileNotFoundError. known: class names that replace the repository's."""
    from datasets import ClassLabel, Image, load_dataset

    place = f"hf:{repo}"
    try:
        rows = load_dataset(repo, split=split)
    except Exception as error:  # network, name, split and configuration raise a dozen types, which change with versions
        why = f"{type(error).__name__}: {error}. Check the name, the split and the network"
        raise FileNotFoundError(f"{place} ({split}) could not be fetched: {why}") from error
    image = _image_column([k for k, v in rows.features.items() if isinstance(v, Image)], place, rows.column_names)
    named = {k: tuple(v.names) for k, v in rows.features.items() if isinstance(v, ClassLabel)}
    label = column_of_labels(named) or next(iter(named), None) or column_of_labels(rows.column_names)
    classes = known or named.get(label or "")
    labels = None if label is None else rows.with_format(None)[label][:]
    encoded = rows.select_columns([image]).cast_column(image, Image(decode=False))

    def blobs() -> Iterator[tuple[str, bytes]]:
        for i, row in enumerate(encoded):
            cell = row[image]
            if cell["bytes"] is None and cell["path"] and Path(cell["path"]).is_file():
                cell = {"bytes": Path(cell["path"]).read_bytes()}
            yield f"{place}, row {i}", _image_bytes(cell, f"{place}, row {i}")

    def key() -> str:
        extra = [*(classes or ()), "" if labels is None else repr(labels), *reading.key()]
        return blob_key("hub", (data for _, data in blobs()), extra)

    def build() -> Decoded:
        if labels is None:
            return decoded_from_blobs(blobs, None, None, place, reading)
        return decoded_from_blobs(blobs, *numbered(labels, len(encoded), classes, f"column {label} of {place}"), place, reading)

    return Source(place, key, build)


def read_parquet(files: list[Path], known: tuple[str, ...] | None, reading: Reading) -> Decoded:
    """The images of one or more files of one table. known: class names that replace those in the files."""
    import pyarrow.parquet as pq

    damaged = "it is damaged, or no parquet file; fetch it again"
    with naming(str(files[0]), damaged):
        image, label, named = _columns(pq.read_schema(files[0]), str(files[0]))
    values: list[Any] = []
    rows = 0
    for file in files:
        with naming(str(file), damaged):
            values += [] if label is None else pq.read_table(file, columns=[label]).column(label).to_pylist()
            rows += pq.read_metadata(file).num_rows

    def blobs() -> Iterator[tuple[str, bytes]]:
        for file in files:
            row = 0
            try:
                with pq.ParquetFile(file) as table:
                    for batch in table.iter_batches(batch_size=_BATCH, columns=[image]):
                        for cell in batch.column(0).to_pylist():
                            yield f"{file}, row {row}", _image_bytes(cell, f"{file}, row {row}")
                            row += 1
            except Exception as error:
                if isinstance(error, ValueError) and str(file) in str(error):
                    raise
                raise ValueError(f"{file} is damaged after row {row} ({error}): fetch it again") from error

    classes = known or named
    if label is not None:
        return decoded_from_blobs(
            blobs, *numbered(values, rows, classes, f"column {label} of {files[0]}"), str(files[0]), reading
        )
    return decoded_from_blobs(blobs, None, None, str(files[0]), reading)


def _columns(schema: Any, where: str) -> tuple[str, str | None, tuple[str, ...] | None]:
    """(image column, label column, class names) of a parquet file, from the features that Hugging Face writes in it."""
    try:
        features = dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        features = {}
    plain = {k: v for k, v in features.items() if isinstance(v, dict) and k in schema.names}
    images = [k for k, v in plain.items() if v.get("_type") == "Image"]
    # without such a note: images are stored as a struct with a field `bytes`
    images = images or [f.name for f in schema if re.match(r"struct<.*\bbytes: (large_)?binary", str(f.type))]
    images = images or [f.name for f in schema if str(f.type) in ("binary", "large_binary", "binary_view")]
    image = _image_column(images, where, list(schema.names))
    labels = {k: v["names"] for k, v in plain.items() if v.get("_type") == "ClassLabel" and isinstance(v.get("names"), list)}
    if labels:
        label = column_of_labels(labels) or next(iter(labels))
        return image, label, tuple(str(c) for c in labels[label])
    return image, column_of_labels(k for k in schema.names if k != image), None


def _image_column(images: list[str], where: str, columns: list[str]) -> str:
    """Which of several image columns is read: `image`, `img`, or the first one."""
    if not images:
        wanted = "wanted encoded images: a binary column, or Hugging Face's struct of bytes and path"
        raise ValueError(f"{where} has no column of images, only {', '.join(columns)}: {wanted}")
    return next((k for k in ("image", "img") if k in images), images[0])


def _image_bytes(cell: Any, where: str) -> bytes:
    """The encoded image in a cell; b"" for an empty cell, which is reported with the broken images."""
    if isinstance(cell, bytes):
        return cell
    cell = cell if isinstance(cell, dict) else {}
    if isinstance(cell.get("bytes"), bytes):
        return bytes(cell["bytes"])
    if path := cell.get("path"):
        raise ValueError(f"{where} holds no image, only its path {path}: write the bytes into the file too")
    return b""
