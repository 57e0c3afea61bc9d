"""Labels as files hold them (whole numbers of any width, names, categories) -> the number of a class for every image."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("label", "labels", "class", "category", "target", "y", "fine_label", "coarse_label", "class_name", "class_id", "cls")


def column_of_labels(columns: Iterable[str]) -> str | None:
    """The column that holds labels by its name: `label` before the others."""
    lower = {c.lower(): c for c in reversed([*columns])}
    return next((lower[name] for name in NAMES if name in lower), None)


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes in their order: numbers by value, so that 2 comes before 10, everything else as text."""
    distinct = set(names)
    return tuple(sorted(distinct, key=lambda n: (int(n), n)) if all(n.isdecimal() for n in distinct) else sorted(distinct))


def numbered(
    values: Any, n: int, classes: tuple[str, ...] | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """The class of each image as int64, and the names of the classes: those given, or those that the labels are.

    Args:
        values: whole numbers, True and False, or names, one for each image; a column (n, 1) counts as (n,).
        n: number of images.
        classes: names of the classes; numbers are then indices into them.
        where: what holds the labels, for messages.

    Raises:
        ValueError: unless there is one label for each of n images, and where numbers are not those of classes.
    """
    try:
        labels = np.asarray(values)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"{where}: several labels for an image; wanted one") from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape == (n,) and (labels.dtype.kind in "US" or (n and labels.dtype == object)):
        if not all(isinstance(v, str | bytes) for v in labels.tolist()):
            empty = sum(v is None for v in labels.tolist())
            what = f"no label for {empty} of {n} images" if empty else "labels that are neither numbers nor names"
            raise ValueError(f"{where}: {what}")
        words = [v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for v in labels.tolist()]
        names = classes or ordered(words)
        if unknown := sorted({*words} - {*names}):
            raise ValueError(f"{where}: {unknown[0]!r} is none of the classes {', '.join(names[:10])}")
        index = {w: k for k, w in reversed([*enumerate(names)])}
        return np.asarray([index[w] for w in words], np.int64), names
    if n == 0 and labels.shape == (0,):
        return labels.astype(np.int64), classes
    if labels.dtype.kind not in "biu" or labels.shape != (n,):
        raise ValueError(
            f"{where}: {labels.dtype} of shape {labels.shape}, wanted one whole number or one name for each of {n} images"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= len(classes)):
        top = "" if classes is None else f"..{len(classes) - 1}, one of {len(classes)} classes"
        raise ValueError(f"{where}: labels from {low} to {high}, wanted 0{top}")
    return labels.astype(np.int64), classes
