"""`alphabar data`."""

from dataclasses import asdict
from pathlib import Path

from alphabar.cli import show
from alphabar.cli.reading import Reading


def data(
    image_set: str, *, sheet: Path | None = None, n: int = 100, reading: Reading = Reading(), as_json: show.Json = False
) -> None:
    """Print the data card of a set and write a contact sheet.

    ```
    alphabar data fashion_mnist
    alphabar data photos/ --sheet photos.png --n 64
    ```

    Args:
        image_set: fashion_mnist, cifar10, a path, or hf:owner/name; SET:test is the test split.
        sheet: the contact sheet to write; SET_SPLIT.png in this folder if left out.
        n: images on the contact sheet, chosen at random with seed 0.
    """
    import numpy as np

    from alphabar.core.seeds import generator
    from alphabar.data.card import data_card
    from alphabar.data.contact_sheet import contact_sheet, shown_note
    from alphabar.data.image_set import load, parse_set

    images = load(*parse_set(image_set), **asdict(reading))
    card = data_card(images)
    chosen = np.sort(generator(0).permutation(len(images))[:n])
    path = sheet or Path(f"{images.name}_{images.split}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(images.pixels[chosen])
    contact_sheet(pixels, scale=2 if images.image_shape[1] < 64 else 1).save(path)
    card["sheet"], card["sheet_note"] = str(path), shown_note(pixels)
    show.record(card, as_json, f"{images.name}:{images.split}")
