"""Schedules by their kind, as recipes and checkpoints describe them."""

from typing import Any, get_type_hints

from alphabar.schedule.base import Schedule
from alphabar.schedule.betas import MOST_STEPS, Betas, Linear
from alphabar.schedule.continuous import Cosine, Flow, LogSigma

KINDS: dict[str, type[Linear] | type[Cosine] | type[LogSigma] | type[Flow] | type[Betas]] = {
    c.kind: c for c in (Linear, Cosine, LogSigma, Flow, Betas)
}


def schedule_from(spec: dict[str, Any]) -> Schedule:
    """The schedule that `spec` describes, as `Schedule.spec` writes it. Raises ValueError for an unknown kind, key or type.

    >>> schedule_from({"kind": "linear", "beta_max": 0.01})
    Linear(beta_min=0.0001, beta_max=0.01, steps=1000)
    """
    args = dict(spec)
    kind = args.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"schedule kind {kind!r} is unknown: use one of {', '.join(KINDS)}")
    known = list(KINDS[kind].__dataclass_fields__)
    if unknown := sorted(set(args) - set(known)):
        raise ValueError(f"schedule {kind!r} has no {', '.join(unknown)}: it takes {', '.join(known)}")
    types = get_type_hints(KINDS[kind])
    return KINDS[kind](**{key: _typed(key, value, types[key]) for key, value in args.items()})


def _typed(key: str, value: Any, kind: Any) -> Any:
    """A value that was read from a file, checked to be of the type of its field: a file may be damaged or hostile."""
    if kind in (str, bool):
        wanted, fits = "text" if kind is str else "true or false", isinstance(value, kind)
    elif kind in (int, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # False for nan
        wanted, fits = ("a whole number", number and value == int(value)) if kind is int else ("a number", number)
    else:
        wanted, fits = f"a list of up to {MOST_STEPS} betas", isinstance(value, (list, tuple)) and len(value) <= MOST_STEPS
    if not fits:
        raise ValueError(f"schedule: {key} is {value!r:.60}; wanted {wanted}")
    return kind(value) if kind in (str, bool, int, float) else tuple(_typed("beta", beta, float) for beta in value)
