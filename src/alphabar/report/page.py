"""Pages: one HTML file each, which carries its images and works offline."""

from pathlib import Path
from typing import Any

from alphabar.core.files import write_atomically
from alphabar.report import words

TEMPLATES = Path(__file__).parent / "templates"
_FILTERS = (words.count, words.short, words.duration, words.sig, words.kid, words.pretty, words.bracket)


def write_page(path: Path, template: str, /, **context: Any) -> Path:
    """Fills in a template of this package and writes it to `path`, whole or not at all.

    Args:
        path: the HTML file, which is returned.
        template: name of a file in templates/. All text in it is escaped, and a name that `context` lacks is an error.
        context: the names that the template uses; `made`, the time of writing, is added.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {f.__name__: f for f in _FILTERS}
    environment.globals |= {"INTERVAL": words.INTERVAL, "kid": words.kid, "made": words.day_and_time()}
    write_atomically(path, environment.get_template(template).render(**context))
    return path
