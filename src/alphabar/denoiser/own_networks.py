"""Networks that a user registers under a name, so that runs can be trained with them and read again."""

import keyword
from collections.abc import Callable
from typing import Any

from torch import nn

from alphabar.core.suggest import did_you_mean

MakeNetwork = Callable[[tuple[int, int, int], int], nn.Module]
BUILT_IN = ("unet", "unet2d", "lucidrains")  # the last one is read, not trained from new weights
NETWORKS: dict[str, MakeNetwork] = {}


def register_network(name: str, make: MakeNetwork) -> None:
    """Makes a network of yours known as `model.network = name`. A program that reads such a run registers it first.

    Args:
        name: a word, such as "mine", which recipes and checkpoints hold; the code is not stored.
        make: called as make((channels, height, width), classes); returns an `nn.Module` that is called with (x, t), and with
            labels too where classes > 0, and returns the shape of x. x: float images in the range of model.data_range, mixed
            with noise to about unit variance. t: float32 (n,), the schedule's time: 0..999 for linear, 0..1 for cosine and flow.
            labels: int64 (n,), 0 to classes, where `classes` stands for none.

    Raises:
        ValueError: for a name that is no word, or that alphabar uses.
    """
    register(NETWORKS, "network", name, make, BUILT_IN)


def register(known: dict[str, Any], what: str, name: str, part: Any, taken: tuple[str, ...]) -> None:
    """Adds a part to those known by name. The last one of a name counts."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in taken:
        raise ValueError(f"the name {name!r:.60} for a {what}: give a word that is none of {', '.join(taken)}")
    if not callable(part):
        raise ValueError(f"the {what} {name!r} is of type {type(part).__name__}: give a function")
    known[name] = part


def find_network(name: str) -> MakeNetwork:
    """A registered network. Raises ValueError, with what to type, for a name that is not registered."""
    if name not in NETWORKS:
        near = did_you_mean(name, [*BUILT_IN[:2], *NETWORKS])
        raise ValueError(
            f"the network {name!r:.60} is not registered: call alphabar.register_network({name!r:.60}, make) before, with the "
            f"function that makes it ({near})"
        )
    return NETWORKS[name]
