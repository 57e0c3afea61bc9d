"""The tab Restore of the page: a picture, a brush for what is missing in it, and draws of how it may go on."""

import html
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from alphabar.data.contact_sheet import shown
from alphabar.report.png import png_uri, strip
from alphabar.report.restore_page import write_restore_page
from alphabar.restoration.catalogue import METHODS
from alphabar.sampling.model import image_shape
from alphabar.web.downloads import Downloads
from alphabar.web.html import empty, error_words, note, refusal, restored
from alphabar.web.playground import Playground
from alphabar.web.restoring import DEFAULT_METHOD, MOST_DRAWS, RestoreSetting, real_image, restoring

_SCRIPT = Path(__file__).with_name("brush.js")
_TOOLS = """<div class="ab ab-tools"><label>Brush <input id="brush-size" type="range" min="1" max="15" value="4"></label>
<label><input id="brush-erase" type="checkbox"> erase</label>
<button type="button" data-fill="box">Middle</button><button type="button" data-fill="half">Right half</button>
<button type="button" data-fill="none">Clear</button>
<label>Your picture <input id="brush-file" type="file" accept=".png,.jpg,.jpeg,.webp,.bmp"></label></div>
<p id="brush-note" class="ab ab-note" role="status"></p>"""


def restore_tab(gr: Any, page: Any, playground: Playground, downloads: Downloads, at_once: int) -> Any:
    """The tab's parts and events; returns the list of runs. at_once: visitors for whom the network runs at the same time."""
    with gr.Row():
        with gr.Column(min_width=320):
            with gr.Row():
                run = gr.Dropdown(playground.runs.names(), value="bundled", label="Run", min_width=150, elem_id="restore-run")
                number = gr.Number(0, label="Real image", info="its number", min_width=110, elem_id="restore-number")
            brush = gr.HTML(empty("The picture will be here."), elem_id="brush")
            gr.HTML(_TOOLS, elem_id="brush-tools")
            with gr.Row():
                method = gr.Dropdown(
                    [DEFAULT_METHOD, *METHODS], value=DEFAULT_METHOD, label="Method", min_width=150, elem_id="restore-method"
                )
                classes = gr.Textbox("", label="Class", placeholder="none", min_width=110, elem_id="restore-class")
            with gr.Row():
                calls = gr.Number(30, label="Calls", info="of a draw", min_width=90, elem_id="restore-calls")
                draws = gr.Number(8, label="Draws", info=f"{MOST_DRAWS} at most", min_width=90, elem_id="restore-draws")
                seed = gr.Number(0, label="Seed", info="of the noise", min_width=90, elem_id="restore-seed")
        with gr.Column(min_width=320):
            with gr.Row():
                start = gr.Button("Restore", variant="primary", min_width=80, elem_id="restore")
                stop = gr.Button("Stop", min_width=80, elem_id="restore-stop")
            state = gr.HTML(note("Paint what is to be restored."), elem_id="restore-state")
            result = gr.HTML(empty("Draws, mean and uncertainty will be here."), elem_id="restored")
            with gr.Row():
                files = [
                    gr.DownloadButton(label, interactive=False, elem_id=f"restored-{kind}", size="md", min_width=150)
                    for label, kind in (("Draws (.npz)", "npz"), ("Page (.html)", "html"))
                ]
    painted = gr.Textbox(visible=False)
    events = RestoreEvents(playground, downloads)

    def restore_for_visitor(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        yield from events.restore(request.session_hash, RestoreSetting(*values))

    quiet = {"api_visibility": "private", "queue": False}
    page.load(None, None, None, js=_SCRIPT.read_text(encoding="utf-8"))
    shows = [page.load, run.change, number.change]
    gr.on(shows, events.show, [run, number], brush, api_visibility="private", trigger_mode="always_last", show_progress="hidden")
    working = start.click(
        restore_for_visitor, [run, number, method, calls, draws, classes, seed, painted], [state, result, *files],
        js="(...values) => [...values.slice(0, -1), window.alphabarBrush()]", api_name="restore", concurrency_limit=at_once,
        show_progress="hidden",
    )  # fmt: skip
    stop.click(lambda: note("Stopped."), None, state, cancels=[working], **quiet)
    return run


class RestoreEvents:
    """The functions that the tab calls."""

    def __init__(self, playground: Playground, downloads: Downloads) -> None:
        self.playground, self.downloads = playground, downloads

    def show(self, run: Any, number: Any) -> str:
        """The real image of that number under a canvas for the mask, or the canvas alone for a run without real images."""
        try:
            found = real_image(self.playground, run, number)
            model, _ = self.playground.runs.load(run)
        except Exception as error:  # whatever a visitor has sent, the page must stay usable
            return refusal(error_words(error))
        _, h, w = image_shape(model)
        words, picture = f"a picture of {h} x {w} pixels (height x width) from your disk", ""
        if found is not None:
            pixels, words = found
            visible = shown(pixels if pixels.shape[3] in (1, 3) else pixels[..., :1])
            picture = f'<img src="{png_uri(strip(visible))}" alt="{html.escape(words)}">'
        return (
            f'<figure class="ab ab-brush"><div style="aspect-ratio: {w} / {h}">{picture}<canvas width="{w}" height="{h}" '
            f'role="img" aria-label="Mask of what is to be restored"></canvas></div><figcaption>{html.escape(words)}'
            "</figcaption></figure>"
        )

    def restore(self, visitor: str | None, setting: RestoreSetting) -> Iterator[tuple[Any, ...]]:
        """Restores the painted part; yields the state, the result, and the buttons of both files."""
        import gradio as gr

        off = [gr.DownloadButton(value=None, interactive=False)] * 2
        yield (note("Reading the run."), empty("starts"), *off)
        try:
            with closing(restoring(self.playground, setting)) as items:
                for item in items:
                    if isinstance(item, str):
                        yield (note(item), gr.skip(), *off)
                        continue
                    folder = self.downloads.fresh(visitor, "restored")
                    paths = item.save(folder / "restored.npz"), write_restore_page(item, folder / "restored.html")
                    on = [gr.DownloadButton(value=str(path), interactive=True) for path in paths]
                    yield (note("Done."), restored(item), *on)
        except Exception as error:
            yield (note("Refused."), refusal(error_words(error)), *off)
