"""A page that draws new images in the reader's browser: the model in 16 bits, its samplers, and ONNX Runtime Web in one file."""

import base64
import gzip
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alphabar.core.files import write_atomically
from alphabar.core.messages import as_path
from alphabar.core.outputs import check_folder, check_output
from alphabar.denoiser.model import Model
from alphabar.denoiser.to_onnx import check_onnx, onnx_bytes, onnx_metadata
from alphabar.fitting.coefficients import coefficients_of
from alphabar.report.page import TEMPLATES, write_page
from alphabar.sampling.catalogue import SAMPLERS
from alphabar.sampling.fitted import Tuned, all_tuned, folders_of
from alphabar.schedule.grid import default_grid, for_consistency, make_grid

RUNTIME = "1.30.0"  # of npm's onnxruntime-web, from which benchmarks/make_assets.py made the files in assets/web
GPU = "_gpu"  # ends the names of the files for WebGPU
MOST_CALLS, DISTILLED_CALLS = 10, 4
CHANNELS = (1, 2, 3, 4)  # grey, grey and alpha, colour, colour and alpha
MOST_PIXELS = 256 * 256
_ASSETS = Path(__file__).parents[1] / "assets" / "web"


@dataclass(frozen=True)
class Live:
    """What a page needs to draw.

    Attributes:
        about: plain data for its script: the model's metadata, and the samplers.
        blobs: gzipped files by name: worker, model, wasm; in a folder also worker_gpu and wasm_gpu.
        deviation: of the model in the page from the run, as `export_onnx` measures it.
    """

    about: dict[str, Any]
    blobs: dict[str, bytes]
    deviation: float


def check_live(model: Model) -> None:
    """Raises ValueError for a model that a page cannot draw, and ImportError without the packages of ONNX."""
    c, h, w = model.image_shape
    check_onnx(model)
    if c not in CHANNELS:
        raise ValueError(f"its images have {c} channels, and a browser shows 1 to 4")
    if h * w > MOST_PIXELS:
        raise ValueError(f"its images are {h} x {w}, and a page draws at most {MOST_PIXELS:,} pixels: export it to ONNX")


def live_samplers(model: Model) -> list[Tuned]:
    """A sampler of 1 to 10 calls for each number of calls, sorted: fitted ones, else UniPC on the default grid; of a distilled
    model consistency sampling in 1 to 4. All have the linear form of a fitted sampler."""
    fingerprint, schedule = model.fingerprint, model.schedule
    if model.consistency:
        found = []
        for n in range(1, DISTILLED_CALLS + 1):
            levels = tuple(for_consistency(schedule, n).tolist())
            calls = len(levels) - 1
            mix = tuple((*[0.0] * k, 1.0) for k in range(calls))
            found.append(Tuned("consistency", fingerprint, levels[:-1], (0.0,) * calls, mix, levels[1:]))
        return found
    by_calls = {}
    for n in range(1, MOST_CALLS + 1):
        plain = coefficients_of(SAMPLERS["unipc"].fn, make_grid(schedule, n, default_grid(schedule))).plain()
        by_calls[n] = Tuned("unipc", fingerprint, *plain)
    for fit in reversed(all_tuned(folders_of(model), fingerprint)):  # the first of each number of calls stays
        if fit.calls <= MOST_CALLS and fit.threshold is None:
            by_calls[fit.calls] = fit
    return [by_calls[n] for n in sorted(by_calls)]


def live(model: Model, gpu: bool = False) -> Live:
    """The parts of the page for a model, with `gpu` also those for WebGPU. Raises ValueError for what a page cannot draw."""
    check_live(model)
    samplers = live_samplers(model)
    content, deviation = onnx_bytes(model, half=True)
    fitted = [k for k, fit in enumerate(samplers) if fit.name not in SAMPLERS]
    start = next((k for k in fitted if samplers[k].calls >= 2), fitted[0] if fitted else min(7, len(samplers) - 1))
    keys = ("sigmas", "keep", "mix", "fresh", "clip")
    about = onnx_metadata(model) | {
        "samplers": [{"name": _shown(fit)} | {k: v for k, v in asdict(fit).items() if k in keys} for fit in samplers],
        "start": start, "parameters": sum(p.numel() for p in model.network.parameters()), "notes": _notes(model),
    }  # fmt: skip
    blobs = {"model": gzip.compress(content, 9, mtime=0)}
    for kind in ("", GPU) if gpu else ("",):
        code = gzip.decompress((_ASSETS / f"onnxruntime{kind}.js.gz").read_bytes()) + (TEMPLATES / "live_worker.js").read_bytes()
        blobs |= {
            f"worker{kind}": gzip.compress(code, 9, mtime=0),
            f"wasm{kind}": (_ASSETS / f"onnxruntime{kind}.wasm.gz").read_bytes(),
        }
    return Live(about, blobs, deviation)


def write_live(model: Model, to: str | Path, title: str) -> tuple[Path, Live]:
    """Writes the page, or a folder with the same as files for any static host.

    Args:
        model: of images with 1 to 4 channels.
        to: NAME.html, or a folder, written with a slash at its end.
        title: of the page.

    Returns:
        The page, and what it is made of.

    Raises:
        ValueError: for a model that a page cannot draw.
        OSError: where something that is not an earlier page stands at the place.
    """
    folder, path = str(to).endswith("/"), as_path(to)
    if folder:
        check_folder(path, "page", ours=("index.html",))
        path = path / "index.html"
    check_output(path, "page")
    made = live(model, gpu=folder)
    names = {name: f"{name}.bin" for name in made.blobs}  # .gz would be decompressed on the way by some hosts
    if folder:
        for name, content in made.blobs.items():
            write_atomically(path.parent / names[name], content)
    blobs = names if folder else embedded(made)
    write_page(path, "live.html.j2", title=title, about=made.about, blobs=blobs, folder=folder, **credits())
    return path, made


def embedded(made: Live) -> dict[str, str]:
    """The files of a page as text."""
    return {name: base64.b64encode(content).decode() for name, content in made.blobs.items()}


def credits() -> dict[str, Any]:
    """The version and the licence of ONNX Runtime, which travel with every page."""
    return {"runtime": RUNTIME, "licence": (_ASSETS / "LICENSE.onnxruntime").read_text()}


def _shown(fit: Tuned) -> str:
    return fit.name if fit.name in SAMPLERS or fit.name == "consistency" else f"fitted ({fit.name})"


def _notes(model: Model) -> list[str]:
    notes = []
    if model.pixels != "uint8":
        notes.append(f"Its images are {model.pixels}; the page shows and saves 8 bits.")
    if model.value_range is not None:
        low, high = model.value_range
        notes.append(f"Black stands for the value {low:g}, white for {high:g}.")
    return notes
