"""Sets that are known by name: where they may lie on the machine, and how to get them."""

from dataclasses import dataclass
from pathlib import Path

from alphabar.core.files import write_json
from alphabar.core.stored_values import read_object
from alphabar.data.cache import Entry, open_entry, open_or_build
from alphabar.data.readers.find import find_source
from alphabar.data.readers.hub import find_on_hub
from alphabar.data.values import Reading


@dataclass(frozen=True)
class Named:
    """A set that is known by name."""

    folders: tuple[str, ...]  # its folder under a data root, under each usual name
    repo: str  # its repository on the Hugging Face hub
    classes: tuple[str, ...]
    system: tuple[str, ...] = ()  # folders where packages of the operating system install it
    package: str | None = None  # the command that installs such a package


NAMED = {
    "fashion_mnist": Named(
        folders=("fashion-mnist", "fashion_mnist"),
        repo="zalando-datasets/fashion_mnist",
        classes=(*("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"), *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")),
        system=("/usr/share/datasets/fashion-mnist",),
        package="apt-get install dataset-fashion-mnist",
    ),
    "cifar10": Named(
        folders=("cifar10", "cifar-10"),
        repo="uoft-cs/cifar10",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
}


def open_named(name: str, split: str, root: Path | None, cache: Path, reading: Reading) -> tuple[str, Entry]:
    """(place, decoded images) of a set in `NAMED`: from the data root, the system, the cache, or the hub, in this order.
    Raises FileNotFoundError, with the ways to get the set, if none of them has it."""
    known = NAMED[name]
    places = [root / folder for folder in known.folders] if root else []
    places += [Path(folder) for folder in known.system]
    places += [cache / folder for folder in known.folders]
    for place in places:
        if place.is_dir() and (found := find_source(place, split, reading, known.classes)) is not None:
            return found.place, open_or_build(found.key(), found.build, cache)
    # what was decoded from the hub before needs neither the network nor the bytes that it was decoded from
    pointer = None if reading.key() else cache / "named" / f"{name}-{split}.json"
    if pointer is not None and (entry := _follow(pointer, cache)) is not None:
        return f"hf:{known.repo}", entry
    try:
        found = find_on_hub(known.repo, split, known.classes, reading)
    except (FileNotFoundError, ImportError) as error:
        raise FileNotFoundError(_ways(name, split, known, places, error)) from error
    key = found.key()
    entry = open_or_build(key, found.build, cache)
    if pointer is not None:
        write_json(pointer, {"key": key, "source": found.place})
    return found.place, entry


def _ways(name: str, split: str, known: Named, places: list[Path], error: Exception) -> str:
    folder = known.folders[0]
    lines = [
        f"{name} ({split}) is not on this machine. Searched: {', '.join(map(str, places))}.",
        f"It could not be fetched from the Hugging Face hub either: {error}",
        "Ways to get it:",
        f"  {known.package}" if known.package else "",
        f"  hf download {known.repo} --repo-type dataset --local-dir DATA/{folder}; export ALPHABAR_DATA=DATA",
        f"  export ALPHABAR_DATA=DATA, if DATA/{folder}/ already holds its files",
    ]
    return "\n".join(line for line in lines if line)


def _follow(pointer: Path, cache: Path) -> Entry | None:
    try:
        key = read_object(pointer)["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return open_entry(cache / "sets" / key) if isinstance(key, str) and key.isalnum() else None
