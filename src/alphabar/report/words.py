"""Numbers, scores and records in words, as pages and tables show them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from alphabar.core.files import json_text
from alphabar.core.messages import printable
from alphabar.evaluation.estimate import LEVEL
from alphabar.evaluation.score import INTERVALS, TITLES, Score

INTERVAL = f"{100 * LEVEL:g} % interval"
FLOOR = "as many real images (the floor)"


def count(value: float | None) -> str:
    """1234567 -> "1,234,567"; None -> "unknown"."""
    return "unknown" if value is None else f"{value:,.0f}"


def short(value: float) -> str:
    """1500 -> "1.5k", 2000000 -> "2M"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{unit}"
    return f"{value:.4g}"


def sig(value: float | None, digits: int = 3) -> str:
    """A number to three significant digits, where possible without an exponent; None -> a dash.

    >>> sig(1234.5), sig(0.00012), sig(None)
    ('1,234', '0.00012', '–')
    """
    if value is None:
        return "–"
    size = abs(float(f"{value:.{digits}g}"))
    if 10**digits <= size < 1e7:
        text = f"{value:,.0f}"
    elif size == 0 or 1e-4 <= size < 10**digits:
        text = f"{float(f'{value:.{digits}g}'):g}"
    else:
        text = f"{value:.{max(digits - 1, 1)}g}"
    return text.replace("-", "−")


def kid(value: float | None) -> str:
    """A KID times 1000, with two decimals, so that a column lines up and noise around 0 reads as 0; None -> a dash."""
    if value is None:
        return "–"
    text = f"{1000 * value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def bracket(ends: Sequence[float] | None, words: Callable[[float | None], str] = sig) -> str:
    """(1.31, 2.03) -> "[1.31, 2.03]", each end formatted by `words`; None -> nothing."""
    return "" if ends is None else f"[{words(ends[0])}, {words(ends[1])}]"


def value_words(metric: str, value: float | None) -> str:
    """A score of a metric, in the units of its column (KID times 1000)."""
    return kid(value) if metric == "kid" else sig(value)


def interval_words(metric: str, ends: Sequence[float] | None) -> str:
    """An interval of a metric in brackets, in the units of its column; None -> nothing."""
    return bracket(ends, kid if metric == "kid" else sig)


def estimate_words(metric: str, value: float | None, ends: Sequence[float] | None) -> str:
    """A score with its interval: "1.3 [1.2, 1.4]"."""
    return f"{value_words(metric, value)} {interval_words(metric, ends)}".strip()


def column(metric: str) -> str:
    """The heading of a metric's column: "FID", "KID ×1000"."""
    title = TITLES.get(metric, metric)
    return f"{title} ×1000" if metric == "kid" else title


def brackets_explained(scores: Sequence[Score], of: str = "") -> list[str]:
    """What the intervals of scores are for, and why some have none: a sentence each. of: " of one setting"."""
    known = {s.metric: s.level for s in scores if s.interval is not None}
    levels = " and ".join(dict.fromkeys(f"{100 * level:g} %" for level in known.values()))
    each = ", ".join(f"{TITLES[m]}'s for {INTERVALS[m]}" for m in known)
    sentences = [f"In brackets: {levels} intervals{of}, {each}."] if known else []
    notes = ((s.metric, s.note or "the record gives no reason") for s in scores if s.interval is None)
    return sentences + without_interval((metric, note.removeprefix("no interval: ")) for metric, note in notes)


def without_interval(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each reason why scores have no interval, from (metric, reason) of each such score."""
    metrics: dict[str, dict[str, None]] = {}
    for metric, why in reasons:
        metrics.setdefault(why, {})[TITLES.get(metric, metric)] = None
    return [f"No interval, {', '.join(titles)}: {why}." for why, titles in metrics.items()]


def as_drawn(name: str) -> str:
    """A name as text of matplotlib, which would read what is between two dollars as a formula."""
    return printable(name).replace("$", r"\$")


def pretty(value: Any) -> str:
    """Plain data as indented JSON."""
    return json_text(value, indent=1, ensure_ascii=False, default=str)


def as_toml(value: Any) -> str:
    """A value of a recipe as in TOML; None, for a recipe without the key, -> a dash."""
    return "–" if value is None else json_text(value, ensure_ascii=False, default=str)


def machine_words(machine: Mapping[str, Any]) -> str:
    """A machine's record in one line: processor, cores, accelerators, where they are recorded."""
    accelerators = machine.get("accelerators")
    parts = [machine.get("cpu"), f"{machine['cores']} cores" if machine.get("cores") else None]
    parts += accelerators if isinstance(accelerators, list) else []
    return ", ".join(str(part) for part in parts if part)
