"""`alphabar app`: a page in the browser for `playground.py`. Only what a visitor sees and sends is here; gradio (the extra
`app`) is imported when the page is made."""

import base64
import hashlib
import hmac
import html
import io
import ipaddress
import math
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import contact_sheet, shown
from alphabar.evaluation.score import TITLES
from alphabar.sampling.catalogue import SAMPLERS
from alphabar.sampling.samples import Samples
from alphabar.schedule.grid import GRIDS
from alphabar.web.playground import MOST_IMAGES, MOST_SCORED, Frame, Job, Playground, Scored, Way

SIDES = ("A", "B")
WAY = tuple(field.name for field in fields(Way))
AT_ONCE = 2  # visitors whose images are drawn at the same time; others wait their turn
WAITING = 32  # requests that may wait
_WIDE = 520  # pixels that a sheet is enlarged to, at most, in whole steps
_KEPT = 3600  # seconds that a file for download is kept where the browser never said good-bye
# of gradio: none of these is to come from the environment, and the page does without them
_FROM_ENVIRONMENT = ("ALLOWED_PATHS", "SHARE", "ROOT_PATH", "MCP_SERVER", "SSR_MODE", "NUM_WORKERS", "DEBUG", "HISTORY_BUCKET")
# what gradio would serve besides: uploads, files fetched from other sites, other applications
_CLOSED = ("upload", "upload_progress", "proxy=", "file=http:", "file=https:", "deep_link", "component_server", "stream")


def serve(playground: Playground, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until Ctrl-C or SIGTERM stops it. Raises OSError where the port is taken, ImportError without gradio."""
    check_address(host, port)
    if not _loopback(host):
        print(
            f"alphabar: warning: {host} is not this machine alone: everyone who reaches this machine over the network can use "
            f"the page, make it work, and see the names of the runs under {playground.typed}. There is no password",
            file=sys.stderr,
        )

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell starts what is put into the background with it ignored, and Python then leaves it so
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with private_folder() as folder:
            page = build(playground, folder)
            try:
                page.launch(
                    server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, **launch_options(_loopback(host))
                )
                at = f"[{host}]" if ":" in host else host
                print(f"alphabar app: http://{at}:{port}, runs under {playground.typed}; Ctrl-C stops it", flush=True)
                signal.pause() if hasattr(signal, "pause") else page.block_thread()
            except KeyboardInterrupt:
                print("alphabar app: stopped", file=sys.stderr)
            finally:
                page.close(verbose=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_address(host: str, port: int) -> None:
    """Raises ValueError for a port that is none, and OSError for one that is taken or a host that is not here."""
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port}: give 1 to 65535, as in --port 7861")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(f"cannot listen at {host}, port {port} ({why}): give another, as in --port {port % 65535 + 1}") from error


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can read, where gradio keeps files for download; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="alphabar-app-"))
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # or gradio asks its makers for their latest version
    for name in _FROM_ENVIRONMENT:
        os.environ.pop(f"GRADIO_{name}", None)
    try:
        yield folder
    finally:
        if before is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


class Downloads:
    """Files of every visitor in a folder of their own, whose name only the server can work out."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._key = folder, secrets.token_bytes(32)

    def of(self, visitor: str | None) -> Path:
        """The folder of a visitor, by the random name that gradio gave the browser tab."""
        name = hmac.new(self._key, str(visitor).encode(), hashlib.sha256).hexdigest()
        return self.folder / name

    def write(self, visitor: str | None, side: str, samples: Samples) -> tuple[Path, Path]:
        """The .npz with the sampling record, and the sheet as PNG, at an address of their own, for a browser may remember what
        lay at another; those of the drawing before are removed."""
        of_side = self.of(visitor) / side
        shutil.rmtree(of_side, ignore_errors=True)
        folder = of_side / secrets.token_hex(8)
        self.of(visitor).mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(parents=True)
        archive = samples.save(folder / f"{side}.npz")
        picture = folder / f"{side}.png"
        sheet(samples.images).save(picture)
        return archive, picture

    def forget(self, visitor: str | None) -> None:
        shutil.rmtree(self.of(visitor), ignore_errors=True)


# ---- what is shown


def sheet(pixels: Pixels) -> Any:
    """All images on one picture, enlarged by a whole number so that it is at most about `_WIDE` wide, never smoothed."""
    columns = math.ceil(math.sqrt(len(pixels)))
    scale = max(1, _WIDE // (columns * (shown(pixels[:1]).shape[2] + 1)))
    return contact_sheet(pixels, columns=columns, scale=scale)


def figure(side: str, frame: Frame) -> str:
    """Images and what is said of them, as HTML; the picture is a PNG inside it, without loss."""
    picture = sheet(frame.pixels)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", compress_level=1)
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = "images" if frame.samples is not None else "images in the making"
    return (
        f'<figure class="ab"><img src="data:image/png;base64,{data}" width="{picture.width}" height="{picture.height}" '
        f'alt="{len(frame.pixels)} {kind}, setting {side}"><figcaption>{html.escape(frame.words)}</figcaption></figure>'
    )


def empty(words: str) -> str:
    """The place of images that are not there yet."""
    return f'<div class="ab ab-empty"><p>{html.escape(words)}</p></div>'


def refusal(words: str) -> str:
    """A message that something cannot be done, and what to do instead."""
    return f'<div class="ab ab-refused" role="alert"><p>{html.escape(words)}</p></div>'


def note(words: str) -> str:
    return f'<p class="ab ab-note">{html.escape(words)}</p>'


def scores(found: Scored) -> str:
    """Scores as a table, and the comparison in words."""
    rows = []
    for side, of_side in found.scores.items():
        for score in of_side:
            interval = "" if score.interval is None else "{:.4g} to {:.4g}".format(*score.interval)
            floor = "" if score.floor is None else f"{score.floor:.4g}"
            calls = "" if score.nfe is None else f"{score.nfe:.4g}"
            cells = "".join(f"<td>{cell}</td>" for cell in (calls, f"{score.value:.4g}", interval, floor))
            rows.append(f'<tr><th scope="row">{side}, {TITLES[score.metric]}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{h}</th>' for h in ("setting", "calls", "value", "95 % interval", "real images get"))
    first = next(iter(found.scores.values()))[0]
    about = (
        f"{first.n:,} images against {first.n_reference:,} real ones ({first.reference_name}); lower is better. "
        f"Drawn and scored in {found.seconds:.0f} s."
    )
    words = [c.words for c in found.compared]
    if words and all(c.paired for c in found.compared):
        words.append("Compared image by image, since both began from the same noise.")
    words += [found.note] if found.note else []
    said = "".join(f"<p>{html.escape(w)}</p>" for w in words)
    return (
        f'<div class="ab ab-scores"><div class="ab-scroll" tabindex="0" role="region" aria-label="Scores"><table>'
        f"<caption>{html.escape(about)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{said}</div>"
    )


def explained(error: BaseException) -> str:
    """What to tell a visitor of an error. One that no wrong input explains is shown whole in the terminal, too."""
    if isinstance(error, ValueError | OSError | ImportError | FloatingPointError):
        return str(error)
    traceback.print_exception(error)
    return f"this went wrong, and the terminal says more: {type(error).__name__}: {error}"[:500]


# ---- the page


def build(playground: Playground, folder: Path) -> Any:
    """The page as gradio's Blocks. folder: for downloads, a part of gradio's own (`private_folder`)."""
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the page needs gradio: pip install 'alphabar[app]'") from error

    downloads = Downloads(folder)

    def ways(both: Any, values: Sequence[Any]) -> dict[str, Way]:
        given = {side: Way(*values[k * len(WAY) : (k + 1) * len(WAY)]) for k, side in enumerate(SIDES)}
        return given if both else {"A": given["A"]}

    def prepared(both: Any, n: Any, seed: Any, values: Sequence[Any], **more: Any) -> tuple[dict[str, Job], dict[str, str]]:
        """Jobs by side, and what is wrong with others."""
        jobs, wrong = {}, {}
        for side, way in ways(both, values).items():
            try:
                jobs[side] = playground.prepare(way, n, seed, **more)
            except Exception as error:  # whatever a visitor sent, the page lives on
                wrong[side] = explained(error)
        return jobs, wrong

    def cost(n: Any, seed: Any, *values: Any) -> str:
        jobs, wrong = prepared(False, n, seed, values)
        return note(jobs["A"].words) if jobs else refusal(wrong["A"])

    def draw(request: gr.Request, both: Any, n: Any, seed: Any, *values: Any) -> Iterator[dict[Any, Any]]:
        yield {state: note("Reading the run.")}
        jobs, wrong = prepared(both, n, seed, values)
        asked = [*jobs, *wrong]
        fresh: dict[Any, Any] = {}
        for side in asked:
            words = empty("waits for the other setting" if side == "B" else "begins")
            fresh |= {
                shows[side]: refusal(wrong[side]) if side in wrong else empty("not drawn, since the other setting cannot be")
            }
            if side in wrong:
                fresh[costs[side]] = ""  # which says the same
            if not wrong:
                fresh[shows[side]] = words
            for button in files[side]:
                fresh[button] = gr.DownloadButton(value=None, interactive=False)
            for text in again[side]:
                fresh[text] = ""
        yield fresh | {state: note("Refused." if wrong else "Drawing.")}
        if wrong:
            return
        for side, job in jobs.items():
            try:
                with closing(playground.watch(job)) as frames:  # stopped in the middle, it stops the drawing
                    for frame in frames:
                        out: dict[Any, Any] = {shows[side]: figure(side, frame)}
                        if frame.samples is not None:
                            paths = downloads.write(request.session_hash, side, frame.samples)
                            for button, path in zip(files[side], paths, strict=True):
                                out[button] = gr.DownloadButton(value=str(path), interactive=True)
                            name = f"{side}.npz"
                            for text, lines in zip(again[side], (job.command(name), job.python(name)), strict=True):
                                out[text] = lines
                        yield out
            except Exception as error:
                yield {shows[side]: refusal(explained(error))}
        yield {state: note("Done.")}

    def score(both: Any, n: Any, seed: Any, *values: Any) -> Iterator[str]:
        yield note("Reading the run.")
        jobs, wrong = prepared(both, n, seed, values, most=MOST_SCORED)
        if wrong:
            yield "".join(refusal(f"{side}: {words}") for side, words in wrong.items())
            return
        try:
            with closing(playground.score(jobs)) as stream:
                for news in stream:
                    yield note(news) if isinstance(news, str) else scores(news)
        except Exception as error:
            yield refusal(explained(error))

    def leave(request: gr.Request) -> None:
        downloads.forget(request.session_hash)

    def found() -> list[Any]:
        runs = playground.runs()
        return [gr.Dropdown(choices=runs) for _ in SIDES]

    with gr.Blocks(title="alphabar", analytics_enabled=False, delete_cache=(_KEPT // 4, _KEPT), fill_width=True) as page:
        gr.HTML(
            '<header class="ab"><h1>alphabar</h1><p>Draw from a run and watch the images form, step by step; '
            "set two ways to draw side by side on the same noise.</p></header>"
        )
        with gr.Row(elem_classes="ab-bar"):
            with gr.Column(scale=2, min_width=320), gr.Row():
                n = gr.Number(16, label="Images", info=f"{MOST_IMAGES} at most", min_width=120, elem_id="n")
                seed = gr.Number(0, label="Seed", info="of the noise", min_width=120, elem_id="seed")
            with gr.Column(scale=1, min_width=240):
                both = gr.Checkbox(False, label="Compare two settings", info="from the same noise", elem_id="both")
            with gr.Column(scale=1, min_width=240):
                with gr.Row():
                    go = gr.Button("Draw", variant="primary", min_width=80, elem_id="draw")
                    stop = gr.Button("Stop", min_width=80, elem_id="stop")
                state = gr.HTML(note("Nothing is drawn yet."), elem_id="state")
        with gr.Row():
            columns, inputs, shows, costs, files, again = {}, {}, {}, {}, {}, {}
            for side in SIDES:
                with gr.Column(visible=side == "A", min_width=320, elem_id=f"side-{side}") as columns[side]:
                    gr.HTML(f'<h2 class="ab">Setting {side}</h2>')
                    with gr.Row():  # the controls beside the images where there is room for both
                        with gr.Column(min_width=320):
                            inputs[side] = _controls(gr, side, playground.runs())
                            costs[side] = gr.HTML(elem_id=f"cost-{side}")
                        with gr.Column(min_width=320):
                            shows[side] = gr.HTML(empty("The images will be here."), elem_id=f"show-{side}")
                            with gr.Row():
                                files[side] = tuple(
                                    gr.DownloadButton(
                                        label, interactive=False, elem_id=f"{kind}-{side}", size="md", min_width=150
                                    )
                                    for label, kind in ((f"Images {side} (.npz)", "npz"), (f"Sheet {side} (.png)", "png"))
                                )
                            with gr.Accordion(f"The same images again, {side}", open=False, elem_id=f"again-{side}"):
                                again[side] = tuple(
                                    gr.Textbox(
                                        label=label, lines=lines, interactive=False, buttons=["copy"], elem_id=f"{kind}-{side}"
                                    )
                                    for label, lines, kind in (("Command", 2, "command"), ("Python", 8, "python"))
                                )
        with gr.Accordion("Score against real images", open=False, elem_id="scoring"):
            gr.HTML(
                note(
                    "Draws more images with the settings above and takes FID and KID with their 95 % intervals. FID takes more "
                    "images than the extractor has features (the bundled one has 512)."
                )
            )
            with gr.Row(elem_classes="ab-bar"):
                n_scored = gr.Number(1024, label="Images to score", info="of each setting", min_width=240, elem_id="n-scored")
                judge_it = gr.Button("Score", variant="primary", min_width=100, elem_id="score")
                stop_scoring = gr.Button("Stop scoring", min_width=100, elem_id="stop-score")
            result = gr.HTML(elem_id="result")

        every = [c for side in SIDES for c in inputs[side]]
        outputs = [state] + [c for side in SIDES for c in (costs[side], shows[side], *files[side], *again[side])]
        quiet = {"api_visibility": "private", "queue": False}
        drawing = go.click(
            draw, [both, n, seed, *every], outputs, api_name="draw", concurrency_limit=AT_ONCE, show_progress="hidden"
        )  # fmt: skip
        scoring = judge_it.click(
            score, [both, n_scored, seed, *every], result, api_name="score", concurrency_limit=1, show_progress="hidden"
        )  # fmt: skip
        stop.click(lambda: note("Stopped."), None, state, cancels=[drawing], **quiet)
        stop_scoring.click(lambda: note("Stopped."), None, result, cancels=[scoring], **quiet)
        both.change(lambda on: gr.Column(visible=bool(on)), both, columns["B"], **quiet)
        for side in SIDES:
            told: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden", "api_visibility": "private"}
            changes = [page.load, n.change, seed.change, *(c.change for c in inputs[side])]
            gr.on(changes, cost, [n, seed, *inputs[side]], costs[side], concurrency_limit=AT_ONCE, **told)
        page.load(found, None, [inputs[side][0] for side in SIDES], **quiet)
        page.unload(leave)
    page.queue(max_size=WAITING)
    return page


def _controls(gr: Any, side: str, runs: Sequence[str]) -> list[Any]:
    """The widgets of one setting, in the order of the fields of `Way`."""
    made: dict[str, Any] = {}

    def put(name: str, kind: Any, *arguments: Any, **options: Any) -> None:
        made[name] = kind(*arguments, elem_id=f"{name}-{side}", interactive=True, **options)

    with gr.Row():
        put("run", gr.Dropdown, list(runs), value=runs[0], label="Run", min_width=150)
        put("sampler", gr.Dropdown, [*SAMPLERS, "tuned"], value="ddim", label="Sampler", min_width=130)
    with gr.Row():  # eta is a text, since gradio takes an empty number for 0
        put("amount", gr.Number, 25 if side == "A" else 10, label="Budget", info="of one image", min_width=90)
        put("counted", gr.Dropdown, ["calls", "steps"], value="calls", label="Counted in", info="calls or steps", min_width=105)
        put("eta", gr.Textbox, "", label="Eta", info="0 to 1", placeholder="its own", min_width=90)
        put("plan", gr.Textbox, "", label="Call plan", info="as every(3)", placeholder="all steps", min_width=105)
    with gr.Accordion("More", open=False, elem_id=f"more-{side}"):
        with gr.Row():
            put("grid", gr.Dropdown, [("model's own", ""), *GRIDS], value="", label="Grid", min_width=150)
            clip = [("model's own", ""), ("yes", "yes"), ("no", "no")]
            put("clip", gr.Dropdown, clip, value="", label="Hold x0_hat within -1..1", min_width=150)
            put("checkpoint", gr.Dropdown, ["last", "best"], value="last", label="Checkpoint", min_width=120)
        with gr.Row():
            put("classes", gr.Textbox, "", label="Classes", info="names or numbers, or all", placeholder="none", min_width=150)
            put("guidance", gr.Textbox, "", label="Guidance", info="a weight; 1 is none", placeholder="none", min_width=110)
    return [made[name] for name in WAY]


def launch_options(local: bool) -> dict[str, Any]:
    """How gradio serves the page: nothing shared, no files but its own, no fonts or scripts from elsewhere, no uploads. local: as
    `Closed` takes it."""
    import gradio as gr
    from starlette.middleware import Middleware

    dark, light = "*neutral_700", "*neutral_300"  # gradio's own greys are too faint to read for many
    theme = gr.themes.Base(
        primary_hue="blue", neutral_hue="stone", radius_size="md",
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"],
    ).set(
        block_info_text_color=dark, block_info_text_color_dark=light, block_label_text_color=dark, block_title_text_color=dark,
        block_label_text_color_dark=light, block_title_text_color_dark=light, input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_400", button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800", button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )  # fmt: skip
    return {
        "share": False, "allowed_paths": [], "max_file_size": 1, "footer_links": [], "run_history": False, "mcp_server": False,
        "ssr_mode": False, "enable_monitoring": False, "strict_cors": True, "show_error": True, "theme": theme, "css": CSS,
        "app_kwargs": {"middleware": [Middleware(Closed, local=local)]},
    }  # fmt: skip


class Closed:
    """ASGI middleware: what gradio serves to any page but this one has no use for is not found, and scripts of other sites,
    which a browser on this machine may be showing, cannot use the page.

    local: the page is for this machine alone, so nobody comes to it by another name than an address or localhost; whoever does
    was led here by a name of another site that was made to point to this machine.
    """

    def __init__(self, app: Any, local: bool) -> None:
        self.app, self.local = app, local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (refused := self._refused(scope)):
            status, words = refused
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": words})
            return
        await self.app(scope, receive, send)

    def _refused(self, scope: Any) -> tuple[int, bytes] | None:
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        host = urlsplit(f"//{headers.get(b'host', '')}")
        origin = urlsplit(headers.get(b"origin", ""))
        if b"origin" in headers and origin.netloc != host.netloc:
            return 403, b"a page of another site may not use this one\n"
        if self.local and not _loopback(host.hostname or ""):
            return 403, b"this page is for the machine that it runs on: use http://127.0.0.1\n"
        path = str(scope.get("path", "")).removeprefix("/gradio_api").lstrip("/")
        return (404, b"not here\n") if path.startswith(_CLOSED) else None


CSS = """
.gradio-container { width: 100% !important; max-width: 82rem !important; margin: 0 auto !important; }
.ab-bar { align-items: center; }
.ab h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -0.015em; margin: 0.3rem 0 0.1rem; }
h2.ab { font-size: 1.15rem; font-weight: 650; margin: 0.2rem 0 0; }
.ab p { margin: 0 0 0.4rem; max-width: 52rem; }
figure.ab { margin: 0; }
figure.ab img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; border-radius: 6px; }
figure.ab figcaption { margin-top: 0.5rem; font-variant-numeric: tabular-nums; color: var(--body-text-color); }
.ab-empty { min-height: 12rem; display: grid; place-items: center; border: 1px dashed var(--border-color-primary);
  border-radius: 8px; color: var(--body-text-color); }
.ab-refused { border-left: 4px solid #c2480f; background: var(--background-fill-secondary); padding: 0.7rem 0.9rem;
  border-radius: 6px; overflow-wrap: anywhere; }
.ab-refused p { margin: 0; color: var(--body-text-color); }
.ab-note { font-size: 0.93rem; font-variant-numeric: tabular-nums; }
.ab-scroll { overflow-x: auto; }
.ab-scores table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 0.8rem; }
.ab-scores :is(table, thead, tbody, tr) { border: 0 !important; }
.ab-scores caption { text-align: left; padding-bottom: 0.5rem; }
.ab-scores :is(th, td) { text-align: left; white-space: nowrap; padding: 0.35rem 1.2rem 0.35rem 0 !important;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.ab-scores thead th { font-weight: 500; } .ab-scores tbody th { font-weight: 600; }
"""
