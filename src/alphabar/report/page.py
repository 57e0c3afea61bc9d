"""Pages: one HTML file each, which carries its images and works offline."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alphabar.core.files import write_atomically
from alphabar.core.messages import printable
from alphabar.core.outputs import check_output
from alphabar.core.progress import duration
from alphabar.report import words

TEMPLATES = Path(__file__).parent / "templates"
_FILTERS = (words.count, words.short, duration, words.sig, words.kid, words.pretty, words.bracket)


def write_page(path: Path, template: str, /, near: Sequence[Path] = (), **context: Any) -> Path:
    """Fills in a template of templates/, which escapes all text, and writes the page, whole or not at all. Returns `path`.

    near: files and folders of which the page tells: it names them without the folders that they lie in.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import escape

    check_output(path, "page")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {f.__name__: f for f in _FILTERS}
    environment.globals |= {
        "INTERVAL": words.INTERVAL,
        "kid": words.kid,
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    text = printable(environment.get_template(template).render(**context))
    above = {str(p.absolute().parent) for given in near for p in (given, given.resolve())}
    for folder in sorted((p for p in above if len(p) > 1), key=len, reverse=True):
        text = text.replace(f"{escape(folder)}/", "")
    write_atomically(path, text)
    return path
