"""Pages: one HTML file each, with its pictures inside and nothing fetched from anywhere."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alphabar.evaluation.estimate import LEVEL
from alphabar.report.svg import short

TEMPLATES = Path(__file__).parent / "templates"
INTERVAL = f"{100 * LEVEL:g} % interval"


def render(template: str, **context: Any) -> str:
    """A template of this package, filled in; every text in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": count, "short": short, "duration": duration, "sig": sig, "kid": kid, "pretty": pretty, "bracket": bracket,
    }  # fmt: skip
    environment.globals |= {"INTERVAL": INTERVAL, "kid": kid}
    return environment.get_template(template).render(**context)


# ---- values in words


def count(value: float | None) -> str:
    """1234567 -> "1,234,567"; None -> "unknown"."""
    return "unknown" if value is None else f"{value:,.0f}"


def sig(value: float | None, digits: int = 3) -> str:
    """A number to three digits, without an exponent where one can do without; None -> a dash."""
    if value is None:
        return "–"
    rounded = float(f"{value:.{digits}g}")
    if 10**digits <= abs(rounded) < 1e7:
        text = f"{value:,.0f}"
    elif rounded == 0 or 1e-4 <= abs(rounded) < 1:
        text = f"{value:.{digits}g}"
    elif abs(rounded) < 10**digits and abs(rounded) >= 1:
        text = f"{rounded:g}"
    else:
        text = f"{value:.{max(digits - 1, 1)}g}"
    return text.replace("-", "−")


def kid(value: float | None) -> str:
    """A thousand times a KID, with two decimals: a column of them lines up, and noise round 0 reads as 0; None -> a dash."""
    if value is None:
        return "–"
    text = f"{1000 * value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def bracket(ends: Sequence[float] | None, words: Callable[[float | None], str] = sig) -> str:
    """(1.31, 2.03) -> "[1.31, 2.03]", each end as `words` has it; None -> nothing."""
    return "" if ends is None else f"[{words(ends[0])}, {words(ends[1])}]"


def duration(seconds: float | None) -> str:
    """75 -> "1 min 15 s"; None -> "unknown"."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def pretty(value: Any) -> str:
    """Plain data as indented JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def stamp() -> str:
    """Now, as "2026-11-22 23:01 UTC"."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC"


def machine_words(machine: Mapping[str, Any]) -> str:
    """A machine's record in a line: processor, cores, accelerators; whatever of it is there."""
    accelerators = machine.get("accelerators")
    parts = [machine.get("cpu"), f"{machine['cores']} cores" if machine.get("cores") else None]
    parts += accelerators if isinstance(accelerators, list) else []
    return ", ".join(str(part) for part in parts if part)


def as_toml(value: Any) -> str:
    """A recipe's value as TOML would have it; None, for a recipe without the key, -> a dash."""
    return "–" if value is None else json.dumps(value, ensure_ascii=False, default=str)
