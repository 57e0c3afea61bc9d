"""Sets of the Hugging Face hub."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from alphabar.data.cache import Decoded, Source, blob_key
from alphabar.data.labels import column_of_labels, numbered, ordered
from alphabar.data.readers.encoded import decoded_from_blobs
from alphabar.data.readers.tables import image_bytes, image_column
from alphabar.data.values import Reading


def find_on_hub(repo: str, split: str, known: tuple[str, ...] | None, reading: Reading) -> Source:
    """A split of the repository owner/name, or FileNotFoundError. known: class names that replace the repository's."""
    from datasets import ClassLabel, Image, load_dataset

    place = f"hf:{repo}"
    try:
        rows = load_dataset(repo, split=split)
    except Exception as error:  # network, name, split and configuration raise a dozen types, which change with versions
        why = f"{type(error).__name__}: {error}. Check the name, the split and the network"
        raise FileNotFoundError(f"{place} ({split}) could not be fetched: {why}") from error
    image = image_column([k for k, v in rows.features.items() if isinstance(v, Image)], place, rows.column_names)
    named = {k: tuple(v.names) for k, v in rows.features.items() if isinstance(v, ClassLabel)}
    label = column_of_labels(named) or next(iter(named), None) or column_of_labels(rows.column_names)
    classes = known or named.get(label or "")
    labels = None if label is None else rows.with_format(None)[label][:]
    if labels and classes is None and isinstance(labels[0], str):
        classes = ordered(
            {*(v for v in labels if isinstance(v, str)), *_other_names(repo, "test" if split == "train" else "train", label)}
        )
    encoded = rows.select_columns([image]).cast_column(image, Image(decode=False))

    def blobs() -> Iterator[tuple[str, bytes]]:
        for i, row in enumerate(encoded):
            cell = row[image]
            if cell["bytes"] is None and cell["path"] and Path(cell["path"]).is_file():
                cell = {"bytes": Path(cell["path"]).read_bytes()}
            yield f"{place}, row {i}", image_bytes(cell, f"{place}, row {i}")

    def key() -> str:
        extra = [*(classes or ()), "" if labels is None else repr(labels), *reading.key()]
        return blob_key("hub", (data for _, data in blobs()), extra)

    def build() -> Decoded:
        if labels is None:
            return decoded_from_blobs(blobs, None, None, place, reading)
        return decoded_from_blobs(blobs, *numbered(labels, len(encoded), classes, f"column {label} of {place}"), place, reading)

    return Source(place, key, build)


def _other_names(repo: str, split: str, label: str | None) -> list[str]:
    """The names of classes in the other split, which may hold some that this one lacks; none if there is no such split."""
    from datasets import load_dataset

    with contextlib.suppress(Exception):
        return [name for name in load_dataset(repo, split=split)[label][:] if isinstance(name, str)]
    return []
