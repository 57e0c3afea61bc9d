"""`export`: a run for others, as a page that draws, one ONNX file, a folder for diffusers, or a list of timesteps."""

from collections.abc import Callable
from pathlib import Path

from alphabar.core.files import json_text, write_atomically
from alphabar.core.messages import as_path, command
from alphabar.core.options import takes
from alphabar.core.outputs import check_output
from alphabar.core.run import DISTILLED
from alphabar.denoiser.external import split_run
from alphabar.denoiser.model import Model
from alphabar.denoiser.to_diffusers import check_diffusers, export_diffusers
from alphabar.denoiser.to_onnx import MOST_DEVIATION, OPSET, check_onnx, export_onnx
from alphabar.report.live_page import check_live, write_live
from alphabar.sampling.fitted import fitted_timesteps
from alphabar.training.checkpoint import BUNDLED_FILES, load_model
from alphabar.verbs.options import ExportOptions

NAMED = ("diffusers", "timesteps")
CHECKS: dict[str, Callable[[Model], None]] = {"ONNX": check_onnx, "a page": check_live, "diffusers": check_diffusers}


@takes(ExportOptions)
def export(
    run: str | Path, to: str | Path = "diffusers", out: str | Path | None = None, *, options: ExportOptions = ExportOptions()
) -> list[str]:
    """Writes a run for others: as a page that draws new images in the browser, or for other programs.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH, lucidrains:FILE@SIZE or hf:OWNER/NAME.
        to: a page NAME.html, a folder NAME/ (with the slash) that holds the same page as files, a file NAME.onnx, "diffusers" or
            "timesteps".
        out: with "diffusers" a new or empty folder; with "timesteps" a JSON file, or None for the list itself.
        options: see `ExportOptions`; its fields may also be passed as keywords.

    Returns:
        Sentences on what was written, and what to do with it.

    Raises:
        ValueError: for a run that the format cannot represent, and for another `to`.
        OSError: where something that is not an earlier export stands at the place.
    """
    name = str(to)
    if name not in NAMED and not name.endswith((".onnx", ".html", "/")):
        raise ValueError(f"--to {name}: give NAME.html, NAME/, NAME.onnx, or one of {', '.join(NAMED)} (with --out)")
    if name in NAMED:
        model = load_model(run, options.checkpoint)
        return _timesteps(model, out) if name == "timesteps" else _diffusers(model, out, options)
    if out is not None:
        raise ValueError(f"--out {out} and --to {name} both name the file to write: leave --out out")
    if not name.endswith(".onnx"):
        return _page(load_model(run, options.checkpoint), name, options.title or _title(run))
    check_output(as_path(to), "ONNX model")
    return _onnx(load_model(run, options.checkpoint), as_path(to), options.half)


def exports(model: Model) -> list[str]:
    """A sentence for each format: whether a model, trained or not, can be exported to it."""
    found = []
    for name, check in CHECKS.items():
        try:
            check(model)
            found.append(f"export to {name}: yes")
        except (ValueError, ImportError) as e:
            found.append(f"export to {name}: no, {e}")
    return found


def _onnx(model: Model, path: Path, half: bool) -> list[str]:
    deviation = export_onnx(model, path, half=half)
    classes = ", labels (n,)" if model.classes else ""
    c, h, w = model.image_shape
    return [
        f"{path}: ONNX, opset {OPSET}, {path.stat().st_size / 1e6:.1f} MB; on ONNX Runtime it deviates from the run by "
        f"{deviation:.1g} (at most {MOST_DEVIATION:g} is allowed)",
        f"- inputs: x (n, {c}, {h}, {w}) = x0 + sigma noise with x0 in -1..1, sigma (n,){classes}; output: x0_hat",
        "- its metadata says how images are prepared",
        f"next: onnxruntime.InferenceSession({str(path)!r}).get_modelmeta().custom_metadata_map",
    ]


def _page(model: Model, to: str, title: str) -> list[str]:
    path, made = write_live(model, to, title)
    files = [path, *(path.parent.glob("*.bin") if to.endswith("/") else ())]
    calls = [len(fit["sigmas"]) for fit in made.about["samplers"]]
    how = "upload the folder to any static host" if to.endswith("/") else f"open it in a browser: {path.absolute().as_uri()}"
    return [
        f"{path}: {sum(f.stat().st_size for f in files) / 1e6:.1f} MB; it draws new images in the reader's browser, with "
        f"{calls[0]} to {calls[-1]} network calls each",
        f"- its model, weights in 16 bits, deviates from that of the run by {made.deviation:.1g}",
        f"next: {how}",
    ]


def _title(run: str | Path) -> str:
    """The name of a run; of a distilled model, that of the run it was made from, and that it is distilled."""
    path = as_path(split_run(run)[1]).absolute()
    distilled = path.name == DISTILLED
    name = "Garments" if str(run) in BUNDLED_FILES else (path.parent if distilled else path).stem.replace("_", " ")
    return f"{name}, distilled" if distilled else name


def _timesteps(model: Model, out: str | Path | None) -> list[str]:
    if out is not None:
        check_output(out, "list of timesteps")
    text = json_text(fitted_timesteps(model), indent=1)
    if out is None:
        return [text]
    write_atomically(as_path(out), text + "\n")
    return [str(out), "next: pass a list of the file to set_timesteps(timesteps=...) of a scheduler of diffusers"]


def _diffusers(model: Model, out: str | Path | None, options: ExportOptions) -> list[str]:
    if out is None:
        raise ValueError("name the folder to write: --out FOLDER")
    notes = export_diffusers(model, out, pipeline=options.pipeline)
    done = f"{out}: {options.pipeline.upper()}Pipeline.from_pretrained reads it, and so does alphabar"
    draw = command("alphabar", "sample", f"diffusers:{out}", "--out", "drawn.npz")
    return [done, *(f"- {note}" for note in notes), f"next: {draw}"]
