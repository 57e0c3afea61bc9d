"""What the page shows, as HTML: images, messages and scores."""

import base64
import html
import io
import math
import sys
from typing import TYPE_CHECKING

from alphabar.core.messages import FAULT_CODE, explain, plural, printable, say
from alphabar.core.progress import duration
from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import contact_sheet, levels_of, shown
from alphabar.data.values import scale_of
from alphabar.evaluation.score import TITLES
from alphabar.report.png import png_uri, strip
from alphabar.report.restore_page import panels
from alphabar.report.words import sig
from alphabar.restoration import result as restoration
from alphabar.web.playground import Frame, SettingScores

if TYPE_CHECKING:
    from PIL.Image import Image

_PANEL = 112  # pixels that one restored image is enlarged to, at most, in whole steps
_WIDE = 520  # pixels that a sheet is enlarged to, at most, in whole steps


def sheet(pixels: Pixels) -> "Image":
    """All images on one picture, enlarged by a whole number so that it is at most about `_WIDE` wide, never smoothed."""
    columns = math.ceil(math.sqrt(len(pixels)))
    scale = max(1, _WIDE // (columns * (shown(pixels[:1]).shape[2] + 1)))
    return contact_sheet(pixels, columns=columns, scale=scale)


def figure(side: str, frame: Frame) -> str:
    """Images with their caption; the picture is an embedded PNG, without loss."""
    picture, buffer = sheet(frame.pixels), io.BytesIO()
    picture.save(buffer, format="png", compress_level=1)
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = "images" if frame.samples is not None else "unfinished images"
    return (
        f'<figure class="ab"><img src="data:image/png;base64,{data}" width="{picture.width}" height="{picture.height}" '
        f'alt="{len(frame.pixels)} {kind}, setting {side}"><figcaption>{html.escape(frame.caption)}</figcaption></figure>'
    )


def restored(found: restoration.Restoration) -> str:
    """Original, measurement, draws, mean and uncertainty of the first image, and its scores."""
    columns, levels, parts = panels(found, most=16), levels_of(found.mean), []
    for name, images in columns.items():
        picture = strip(shown(images[:1], (0.0, 1.0) if name == "uncertainty" else levels))
        scale = max(1, _PANEL // picture.width)
        parts.append(
            f'<figure class="ab"><img src="{png_uri(picture)}" width="{picture.width * scale}" height="{picture.height * scale}" '
            f'alt="{name}"><figcaption>{name}</figcaption></figure>'
        )
    scored = "; ".join(f"{restoration.TITLES[name]} {sig(e.value)}" for name, e in found.scores.items())
    cost = f"{found.record['method']}, {plural(found.record['nfe'], 'call')} a draw, {found.record['seconds']:.1f} s"
    widest = f"white in the uncertainty is {sig(float(found.std.max()))} of {scale_of(found.mean.dtype)} levels"
    lines = [cost, *([widest] if len(found.draws) > 1 else []), *([scored] if scored else [])]
    return f'<div class="ab-panels">{"".join(parts)}</div>' + "".join(note(line) for line in lines)


def empty(words: str) -> str:
    """A placeholder for images."""
    return f'<div class="ab ab-empty"><p>{html.escape(words)}</p></div>'


def refusal(words: str) -> str:
    """A message that something cannot be done, and what to do instead."""
    return f'<div class="ab ab-refused" role="alert"><p>{html.escape(words)}</p></div>'


def note(words: str) -> str:
    """A short message."""
    return f'<p class="ab ab-note">{html.escape(words)}</p>'


def scores(found: SettingScores) -> str:
    """Scores as a table, and the comparison in sentences."""
    rows = []
    for side, of_side in found.scores.items():
        for score in of_side:
            interval = "" if score.interval is None else "{:.4g} to {:.4g}".format(*score.interval)
            calls, value, floor = ("" if v is None else f"{v:.4g}" for v in (score.nfe, score.value, score.floor))
            cells = "".join(f"<td>{cell}</td>" for cell in (calls, value, interval, floor))
            rows.append(f'<tr><th scope="row">{side}, {TITLES[score.metric]}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{h}</th>' for h in ("setting", "calls", "value", "95 % interval", "real images (floor)"))
    first = next(iter(found.scores.values()))[0]
    caption = (
        f"{first.n:,} images against {first.n_reference:,} real ones ({first.reference_name}); lower is better. "
        f"Sampled and scored in {duration(found.seconds)}."
    )
    sentences = [c.words for c in found.comparisons]
    if sentences and all(c.paired for c in found.comparisons):
        sentences.append("Compared image by image, since both started from the same noise.")
    below = "".join(f"<p>{html.escape(w)}</p>" for w in (*sentences, found.note) if w)
    return (
        f'<div class="ab ab-scores"><div class="ab-scroll" tabindex="0" role="region" aria-label="Scores"><table>'
        f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{below}</div>"
    )


def error_words(error: BaseException) -> str:
    """An error for a visitor. A fault of alphabar is named in the terminal as well."""
    words, code = explain(error)
    if code == FAULT_CODE:
        say(f"alphabar app: {words}", sys.stderr)
    return printable(words)
