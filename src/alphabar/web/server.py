"""`alphabar app`: serves the page, for this machine alone unless it is asked otherwise, and to no other site's scripts."""

import ipaddress
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alphabar.core.messages import say
from alphabar.web.page import build
from alphabar.web.playground import Playground

# what gradio would serve in addition: uploads, files fetched from other sites, other applications
_CLOSED = ("upload", "upload_progress", "proxy=", "file=http:", "file=https:", "deep_link", "component_server", "stream")
# gradio's settings that must not come from the environment; the page needs none of them
_FROM_ENVIRONMENT = ("ALLOWED_PATHS", "SHARE", "ROOT_PATH", "MCP_SERVER", "SSR_MODE", "NUM_WORKERS", "DEBUG", "HISTORY_BUCKET")


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can read, where gradio keeps files for download; it is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="alphabar-app-"))
    for name in _FROM_ENVIRONMENT:
        os.environ.pop(f"GRADIO_{name}", None)
    # without the second setting gradio would ask its makers for their latest version
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    try:
        yield folder
    finally:
        os.environ.pop("GRADIO_TEMP_DIR", None)
        shutil.rmtree(folder, ignore_errors=True)


def serve(playground: Playground, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until Ctrl-C or SIGTERM stops it. Raises OSError where the port is taken, ImportError without gradio."""
    check_address(host, port)
    root = playground.runs.typed
    if not is_loopback(host):
        say(
            f"alphabar: warning: {host} is more than this machine: everyone who reaches it over the network can use the page, "
            f"make this machine compute, and see the names of the runs under {root}. There is no password",
            sys.stderr,
        )

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell starts background processes with it ignored, and Python then leaves it ignored
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with private_folder() as folder:
            page = build(playground, folder)
            try:
                local = is_loopback(host)
                page.launch(server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, **launch_options(local))
                at = f"[{host}]" if ":" in host else host
                say(f"alphabar app: runs under {root}; Ctrl-C stops it\nnext: open http://{at}:{port}")
                signal.pause() if hasattr(signal, "pause") else page.block_thread()
            except KeyboardInterrupt:
                say("alphabar app: stopped", sys.stderr)
            finally:
                page.close(verbose=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_address(host: str, port: int) -> None:
    """Raises ValueError for a number that is not a port, and OSError for a port that is taken or a host that is not here."""
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port}: give 1 to 65535, as in --port 7861")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(f"cannot listen at {host}, port {port} ({why}): give another, as in --port {port % 65535 + 1}") from error


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def launch_options(local: bool) -> dict[str, Any]:
    """How gradio serves the page: nothing shared, only its own files, no fonts or scripts of other sites, no uploads."""
    import gradio as gr
    from starlette.middleware import Middleware

    dark, light = "*neutral_700", "*neutral_300"  # gradio's greys have too little contrast
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
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return {
        "share": False, "allowed_paths": [], "max_file_size": 1, "footer_links": [], "run_history": False, "mcp_server": False,
        "ssr_mode": False, "enable_monitoring": False, "strict_cors": True, "show_error": True, "theme": theme, "css": css,
        "app_kwargs": {"middleware": [Middleware(OnlyThisPage, local=local)]},
    }  # fmt: skip


class OnlyThisPage:
    """ASGI middleware that refuses scripts of other sites, and every path of gradio that this page does not use.

    A page for this machine alone (`local`) also refuses visitors by other names than localhost: a site that makes its name point
    to this machine led them here (DNS rebinding).
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
        if self.local and not is_loopback(host.hostname or ""):
            return 403, b"this page is for the machine that it runs on: use http://127.0.0.1\n"
        path = str(scope.get("path", "")).removeprefix("/gradio_api").lstrip("/")
        return (404, b"not found\n") if path.startswith(_CLOSED) else None
