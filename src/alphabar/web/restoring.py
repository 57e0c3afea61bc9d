"""Restoring a part of one picture in the page: the checks of what a visitor asks, and the draws. Without gradio."""

import base64
import binascii
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alphabar.core.stored_values import parse_object
from alphabar.core.types import Pixels
from alphabar.data.decode import decode, probe
from alphabar.restoration.catalogue import METHODS
from alphabar.restoration.operators import Mask
from alphabar.restoration.result import Restoration
from alphabar.sampling.given_images import check_shape, given_images
from alphabar.sampling.model import image_shape
from alphabar.verbs.restore import restore
from alphabar.web.job import MOST_CALLS
from alphabar.web.playground import Playground, Result, stream
from alphabar.web.request import MOST_SEED, MOST_STEPS, choice, text, whole

MOST_DRAWS = 64
MOST_BYTES = 6_000_000  # of what the brush sends: a mask and a picture
DEFAULT_METHOD = "best"


@dataclass(frozen=True)
class RestoreSetting:
    """What the tab Restore sends. Nothing of it has been checked."""

    run: Any = "bundled"
    """bundled, or a name in `RunsFolder.names`."""
    number: Any = 0
    """Of the real image."""
    method: Any = DEFAULT_METHOD
    """A name of `METHODS`."""
    calls: Any = 30
    """Network calls of a draw."""
    draws: Any = 8
    classes: Any = ""
    """Name or number of a class; "" is none."""
    seed: Any = 0
    brush: Any = ""
    """JSON: `mask`, a text of height x width digits, row by row, 1 where the picture is to be restored; `file`, a picture as a
    data URI, or "" for the real image."""


def real_image(playground: Playground, run: Any, number: Any) -> tuple[Pixels, str] | None:
    """A real image (1, h, w, c) for a run and its name; None where no real images are known. Raises ValueError for other numbers
    than those of the images."""
    model, _ = playground.runs.load(run)
    if (against := playground.real_images(run)) is None:
        return None
    images = given_images(model, against)
    k = whole("number of the real image", number, 0, len(images) - 1)
    return np.asarray(images.pixels[k : k + 1]), f"image {k} of {images.title}"


def restoring(playground: Playground, setting: RestoreSetting, every: float = 0.2) -> Generator[str | Restoration, None, None]:
    """Yields how far the draws are, in words, and at last the restored picture; closing the iterator stops the work.

    A real image is degraded by the mask, so that the draws are scored; a picture of a visitor is the measurement.
    Raises ValueError for what cannot be restored, and for more than this page computes.
    """
    model, _ = playground.runs.load(setting.run)
    calls, draws = whole("calls", setting.calls, 1, MOST_STEPS), whole("draws", setting.draws, 1, MOST_DRAWS)
    seed, name = whole("seed", setting.seed, 0, MOST_SEED), choice("method", setting.method, (DEFAULT_METHOD, *METHODS))
    if calls * draws > MOST_CALLS // 16:
        raise ValueError(
            f"{draws} draws of {calls} calls are {draws * calls:,}, and this page makes {MOST_CALLS // 16:,}: ask for fewer"
        )
    keep, file = read_brush(setting.brush, image_shape(model)[1:])
    if file is not None:
        pixels = read_picture(file, model)
    elif (found := real_image(playground, setting.run, setting.number)) is not None:
        pixels = found[0]
    else:
        raise ValueError("there is no real image for this run: choose a picture from your disk")
    classes = text("class", setting.classes)

    def work(report: Any) -> Restoration:
        return restore(
            model, pixels, task=Mask(keep), degrade=file is None, method=None if name == DEFAULT_METHOD else name, calls=calls,
            draws=draws, classes=[classes] if classes else None, seed=seed, progress=False,
            on_step=lambda done, all_: report(lambda: f"Step {done} of {all_}."),
        )  # fmt: skip

    with closing(stream(work, every)) as items:
        for item in items:
            yield item.value if isinstance(item, Result) else item


def read_brush(sent: Any, size: tuple[int, int]) -> tuple[torch.Tensor, bytes | None]:
    """The mask as `Mask` takes it, and the bytes of the visitor's picture, or None. Raises ValueError for anything else."""
    if not isinstance(sent, str) or len(sent) > MOST_BYTES:
        raise ValueError(
            f"mask and picture: wanted text of at most {MOST_BYTES / 1e6:.0f} MB; reload the page, or make it smaller"
        )
    if not sent:
        raise ValueError("nothing is painted: paint what is to be restored")
    found = parse_object(sent, "what the brush sent", MOST_BYTES)
    mask, file = found.get("mask"), found.get("file")
    if not isinstance(mask, str) or not isinstance(file, str) or len(mask) != size[0] * size[1] or set(mask) - {"0", "1"}:
        raise ValueError(f"the mask is none of {size[0]} x {size[1]} pixels: show the picture again, and paint it")
    painted = np.frombuffer(mask.encode(), np.uint8).reshape(1, 1, *size) == ord("1")
    if painted.all() or not painted.any():
        raise ValueError("all is painted: leave a part" if painted.all() else "nothing is painted: paint what is to be restored")
    keep = torch.from_numpy((~painted).astype(np.float32))
    try:
        return keep, None if not file else base64.b64decode(file.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise ValueError("your picture did not arrive whole: choose it again") from error


def read_picture(data: bytes, model: Any) -> Pixels:
    """A visitor's picture as (1, h, w, c) of the model's type. Its header is checked before anything is decoded."""
    name, (c, h, w) = "your picture", image_shape(model)
    shape = probe(data, name)
    channels = 3 if (shape.c, c) == (1, 3) else shape.c
    if (shape.h, shape.w) != (h, w):
        raise ValueError(f"your picture has {shape.h} x {shape.w} pixels (height x width), and this run makes {h} x {w}")
    picture = decode(data, name, channels)
    check_shape(name, (picture.shape[2], h, w), (c, h, w))
    if picture.dtype != (wanted := np.dtype(getattr(model, "pixels", "uint8"))):
        raise ValueError(f"your picture is {picture.dtype}, and this run was trained on {wanted}")
    return np.asarray(picture[None])
