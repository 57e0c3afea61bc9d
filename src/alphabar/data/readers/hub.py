"""Sets of the Hugging Face hub, through the datasets package."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alphabar.data.cache import Decoded, blob_key
from alphabar.data.readers.encoded import decoded_from_blobs
from alphabar.data.readers.parquet import image_bytes, image_column, label_column
from alphabar.data.readers.source import Source, check_labels
from alphabar.data.values import Reading


def find_on_hub(repo: str, split: str, known: tuple[str, ...] | None, reading: Reading) -> Source:
    """A split of the repository owner/name. known: class names that replace the repository's.

    Raises FileNotFoundError if it cannot be fetched, and ValueError if it has no column of images.
    """
    from datasets import ClassLabel, Image, load_dataset

    place = f"hf:{repo}"
    try:
        rows = load_dataset(repo, split=split)
    except Exception as error:  # network, name, split and configuration raise a dozen types, which change with versions
        raise FileNotFoundError(
            f"{place} ({split}) could not be fetched: {type(error).__name__}: {error}. Check the name, the split and the network"
        ) from error
    image = image_column([k for k, v in rows.features.items() if isinstance(v, Image)], place, rows.column_names)
    label = label_column([k for k, v in rows.features.items() if isinstance(v, ClassLabel)])
    classes = known or (tuple(rows.features[label].names) if label else None)
    labels = None if label is None else np.asarray(rows.with_format("numpy")[label][:], dtype=np.int64)
    encoded = rows.select_columns([image]).cast_column(image, Image(decode=False))

    def blobs() -> Iterator[tuple[str, bytes]]:
        for i, row in enumerate(encoded):
            cell = row[image]
            if cell["bytes"] is None and cell["path"] and Path(cell["path"]).is_file():
                cell = {"bytes": Path(cell["path"]).read_bytes()}
            yield f"{place}, row {i}", image_bytes(cell, f"{place}, row {i}")

    def key() -> str:
        extra = [*(classes or ()), "" if labels is None else labels.tobytes().hex(), *reading.key()]
        return blob_key("hub", (data for _, data in blobs()), extra)

    def build() -> Decoded:
        checked = None if labels is None else check_labels(labels, len(encoded), classes, f"labels of {place}")
        return decoded_from_blobs(blobs, checked, classes, place, reading)

    return Source(place, key, build)
