"""The page of `alphabar app` as gradio's Blocks: its parts, what happens when a visitor uses them, and the files for download."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alphabar.sampling.catalogue import SAMPLERS
from alphabar.schedule.grid import GRIDS
from alphabar.web.downloads import Downloads
from alphabar.web.html import empty, error_words, figure, note, refusal, scores
from alphabar.web.job import Job
from alphabar.web.playground import Frame, Playground
from alphabar.web.request import MOST_IMAGES, MOST_SCORED, Setting
from alphabar.web.restore_tab import restore_tab

SIDES = ("A", "B")
_FIELDS = len(fields(Setting))
AT_ONCE = 2  # visitors whose images are sampled at the same time; others wait for their turn
WAITING = 32  # requests that may wait
_KEPT = 3600  # seconds that a file for download is kept where the browser did not close the page


def build(playground: Playground, folder: Path) -> Any:
    """The page. folder: for downloads, a part of gradio's (`private_folder`). Raises ImportError without gradio."""
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the page needs gradio: pip install 'alphabar[app]'") from error

    with gr.Blocks(title="alphabar", analytics_enabled=False, delete_cache=(_KEPT // 4, _KEPT), fill_width=True) as page:
        gr.HTML(
            '<header class="ab"><h1>alphabar</h1><p>Draw from a run and watch the images form, step by step; '
            "set two settings side by side on the same noise. Or let it fill in a part of a picture.</p></header>"
        )
        with gr.Tab("Draw", elem_id="tab-draw"):
            n, seed, both, draw, stop, state = _bar(gr)
            with gr.Row():
                sides = {side: _side(gr, side, playground.runs.names()) for side in SIDES}
            n_scored, score, stop_scoring, result = _scoring(gr)
        downloads = Downloads(folder)
        with gr.Tab("Restore", elem_id="tab-restore"):
            restored_run = restore_tab(gr, page, playground, downloads, AT_ONCE)
        events = Events(playground, downloads, state, sides)

        def draw_for_visitor(request: gr.Request, both: Any, n: Any, seed: Any, *values: Any) -> Iterator[dict[Any, Any]]:
            yield from events.draw(request.session_hash, both, n, seed, *values)

        def leave(request: gr.Request) -> None:
            downloads.forget(request.session_hash)

        inputs = [c for side in sides.values() for c in side.inputs]
        outputs = [state, *(c for side in sides.values() for c in side.outputs)]
        hidden = {"show_progress": "hidden"}
        quiet = {"api_visibility": "private", "queue": False}
        drawing = draw.click(
            draw_for_visitor, [both, n, seed, *inputs], outputs, api_name="draw", concurrency_limit=AT_ONCE, **hidden
        )
        scoring = score.click(
            events.score, [both, n_scored, seed, *inputs], result, api_name="score", concurrency_limit=1, **hidden
        )
        stop.click(lambda: note("Stopped."), None, state, cancels=[drawing], **quiet)
        stop_scoring.click(lambda: note("Stopped."), None, result, cancels=[scoring], **quiet)
        both.change(lambda on: gr.Column(visible=bool(on)), both, sides["B"].column, **quiet)
        for side in sides.values():
            changes = [page.load, n.change, seed.change, *(c.change for c in side.inputs)]
            gr.on(
                changes, events.cost, [n, seed, *side.inputs], side.cost, concurrency_limit=AT_ONCE, trigger_mode="always_last",
                api_visibility="private", **hidden,
            )  # fmt: skip
        page.load(events.runs, None, [*(side.inputs[0] for side in sides.values()), restored_run], **quiet)
        page.unload(leave)
    page.queue(max_size=WAITING)
    return page


def _bar(gr: Any) -> tuple[Any, ...]:
    """The row above the settings: number of images, seed, whether two settings are compared, both buttons, and the state."""
    with gr.Row(elem_classes="ab-bar"):
        with gr.Column(scale=2, min_width=320), gr.Row():
            n = gr.Number(16, label="Images", info=f"{MOST_IMAGES} at most", min_width=120, elem_id="n")
            seed = gr.Number(0, label="Seed", info="of the noise", min_width=120, elem_id="seed")
        with gr.Column(scale=1, min_width=240):
            both = gr.Checkbox(False, label="Compare two settings", info="from the same noise", elem_id="both")
        with gr.Column(scale=1, min_width=240):
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", min_width=80, elem_id="draw")
                stop = gr.Button("Stop", min_width=80, elem_id="stop")
            state = gr.HTML(note("No images yet."), elem_id="state")
    return n, seed, both, draw, stop, state


def _scoring(gr: Any) -> tuple[Any, Any, Any, Any]:
    """The section for scores: number of images, both buttons, and the place of the result."""
    with gr.Accordion("Score against real images", open=False, elem_id="scoring"):
        gr.HTML(
            note(
                "Samples more images with the settings above and computes FID and KID with their 95 % intervals. FID needs "
                "more images than the extractor has features (the bundled one has 512)."
            )
        )
        with gr.Row(elem_classes="ab-bar"):
            n_scored = gr.Number(1024, label="Images to score", info="of each setting", min_width=240, elem_id="n-scored")
            score = gr.Button("Score", variant="primary", min_width=100, elem_id="score")
            stop_scoring = gr.Button("Stop scoring", min_width=100, elem_id="stop-score")
        result = gr.HTML(elem_id="result")
    return n_scored, score, stop_scoring, result


def _side(gr: Any, side: str, runs: Sequence[str]) -> "Side":
    """The column of one setting: controls and images, next to each other where there is room for both."""
    with gr.Column(visible=side == "A", min_width=320, elem_id=f"side-{side}") as column:
        gr.HTML(f'<h2 class="ab">Setting {side}</h2>')
        with gr.Row():
            with gr.Column(min_width=320):
                inputs = _controls(gr, side, runs)
                cost = gr.HTML(elem_id=f"cost-{side}")
            with gr.Column(min_width=320):
                images = gr.HTML(empty("The images will be here."), elem_id=f"show-{side}")
                with gr.Row():
                    files = tuple(
                        gr.DownloadButton(label, interactive=False, elem_id=f"{kind}-{side}", size="md", min_width=150)
                        for label, kind in ((f"Images {side} (.npz)", "npz"), (f"Sheet {side} (.png)", "png"))
                    )
                with gr.Accordion(f"The same images again, {side}", open=False, elem_id=f"again-{side}"):
                    again = tuple(
                        gr.Textbox(label=label, lines=lines, interactive=False, buttons=["copy"], elem_id=f"{kind}-{side}")
                        for label, lines, kind in (("Command", 2, "command"), ("Python", 8, "python"))
                    )
    return Side(column, inputs, cost, images, files, again)


def _controls(gr: Any, side: str, runs: Sequence[str]) -> list[Any]:
    """The controls of one setting, in the order of the fields of `Setting`."""
    made: dict[str, Any] = {}

    def put(name: str, kind: Any, *arguments: Any, **options: Any) -> None:
        made[name] = kind(*arguments, elem_id=f"{name}-{side}", interactive=True, **options)

    with gr.Row():
        put("run", gr.Dropdown, list(runs), value=runs[0], label="Run", min_width=150)
        put("sampler", gr.Dropdown, [*SAMPLERS, "tuned"], value="ddim", label="Sampler", min_width=130)
    with gr.Row():  # eta is a text, since gradio sends 0 for an empty number
        put("amount", gr.Number, 25 if side == "A" else 10, label="Budget", info="of one image", min_width=90)
        put("counted", gr.Dropdown, ["calls", "steps"], value="calls", label="Counted in", info="calls or steps", min_width=105)
        put("eta", gr.Textbox, "", label="Eta", info="0 to 1", placeholder="default", min_width=90)
        put("plan", gr.Textbox, "", label="Call plan", info="as every(3)", placeholder="all steps", min_width=105)
    with gr.Accordion("More", open=False, elem_id=f"more-{side}"):
        with gr.Row():
            put("grid", gr.Dropdown, [("model's default", ""), *GRIDS], value="", label="Grid", min_width=150)
            clip = [("model's default", ""), ("yes", "yes"), ("no", "no")]
            put("clip", gr.Dropdown, clip, value="", label="Clip x0_hat to -1..1", min_width=150)
            put("checkpoint", gr.Dropdown, ["last", "best"], value="last", label="Checkpoint", min_width=120)
        with gr.Row():
            put("classes", gr.Textbox, "", label="Classes", info="names or numbers, or all", placeholder="none", min_width=150)
            put("guidance", gr.Textbox, "", label="Guidance", info="a weight; 1 is none", placeholder="none", min_width=110)
    return [made[field.name] for field in fields(Setting)]


@dataclass(frozen=True)
class Side:
    """The parts of the page that belong to one setting."""

    column: Any
    inputs: list[Any]  # in the order of the fields of `Setting`
    cost: Any
    images: Any
    files: tuple[Any, ...]  # buttons for the .npz and the PNG
    again: tuple[Any, ...]  # texts with the command and the Python code

    @property
    def outputs(self) -> list[Any]:
        return [self.cost, self.images, *self.files, *self.again]


class Events:
    """The functions that the page calls; those that yield update the page with every item."""

    def __init__(self, playground: Playground, downloads: Downloads, state: Any, sides: Mapping[str, Side]) -> None:
        self.playground, self.downloads, self.state, self.sides = playground, downloads, state, sides

    def runs(self) -> list[Any]:
        """The list of runs for both settings and the tab Restore, at the time the page is opened."""
        import gradio as gr

        names = self.playground.runs.names()
        return [gr.Dropdown(choices=names) for _ in (*SIDES, "restore")]

    def cost(self, n: Any, seed: Any, *values: Any) -> str:
        """What a setting would sample, and at how many network calls; or why it cannot."""
        jobs, errors = self._prepare(False, n, seed, values)
        return note(jobs["A"].cost) if jobs else refusal(errors["A"])

    def draw(self, visitor: str | None, both: Any, n: Any, seed: Any, *values: Any) -> Iterator[dict[Any, Any]]:
        """Samples one or both settings, one after the other, and shows the images as they form."""
        yield {self.state: note("Reading the run.")}
        jobs, errors = self._prepare(both, n, seed, values)
        yield self._cleared([*jobs, *errors], errors) | {self.state: note("Refused." if errors else "Drawing.")}
        if errors:
            return
        for side, job in jobs.items():
            try:
                with closing(self.playground.watch(job)) as frames:  # if a visitor stops it, the sampling stops too
                    for frame in frames:
                        yield self._frame(side, frame, job, visitor)
            except Exception as error:
                yield {self.sides[side].images: refusal(error_words(error))}
        yield {self.state: note("Done.")}

    def score(self, both: Any, n: Any, seed: Any, *values: Any) -> Iterator[str]:
        """Samples and scores one or both settings."""
        yield note("Reading the run.")
        jobs, errors = self._prepare(both, n, seed, values, most=MOST_SCORED)
        if errors:
            yield "".join(refusal(f"{side}: {words}") for side, words in errors.items())
            return
        try:
            with closing(self.playground.score(jobs)) as stream:
                for item in stream:
                    yield note(item) if isinstance(item, str) else scores(item)
        except Exception as error:
            yield refusal(error_words(error))

    def _prepare(self, both: Any, n: Any, seed: Any, values: Sequence[Any], **more: Any) -> tuple[dict[str, Job], dict[str, str]]:
        """The jobs of the settings that can be sampled, and what is wrong with the others."""
        jobs, errors = {}, {}
        for k, side in enumerate(SIDES if both else SIDES[:1]):
            try:
                setting = Setting(*values[k * _FIELDS : (k + 1) * _FIELDS])
                jobs[side] = self.playground.prepare(setting, n, seed, **more)
            except Exception as error:  # whatever a visitor has sent, the page must stay usable
                errors[side] = error_words(error)
        return jobs, errors

    def _cleared(self, asked: Sequence[str], errors: Mapping[str, str]) -> dict[Any, Any]:
        """The settings without the images and files of the last sampling; with messages where one cannot be sampled."""
        import gradio as gr

        out: dict[Any, Any] = {}
        for side in asked:
            parts = self.sides[side]
            if side in errors:
                out |= {parts.images: refusal(errors[side]), parts.cost: ""}  # the cost would repeat the message
            elif errors:
                out[parts.images] = empty("not drawn, since the other setting cannot be")
            else:
                out[parts.images] = empty("waits for the other setting" if side == "B" else "starts")
            out |= {button: gr.DownloadButton(value=None, interactive=False) for button in parts.files}
            out |= dict.fromkeys(parts.again, "")
        return out

    def _frame(self, side: str, frame: Frame, job: Job, visitor: str | None) -> dict[Any, Any]:
        """The images so far; once they are done, also the files, the command and the Python code."""
        import gradio as gr

        parts = self.sides[side]
        out: dict[Any, Any] = {parts.images: figure(side, frame)}
        if frame.samples is not None:
            paths = self.downloads.write(visitor, side, frame.samples)
            out |= {b: gr.DownloadButton(value=str(p), interactive=True) for b, p in zip(parts.files, paths, strict=True)}
            out |= zip(parts.again, (job.command(f"{side}.npz"), job.python(f"{side}.npz")), strict=True)
        return out
