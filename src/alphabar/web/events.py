"""What happens when a visitor changes a control or presses a button of the page, and the files for download."""

import hashlib
import hmac
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alphabar.sampling.samples import Samples
from alphabar.web.html import empty, error_words, figure, note, refusal, scores, sheet
from alphabar.web.job import Job
from alphabar.web.playground import Frame, Playground
from alphabar.web.request import MOST_SCORED, Setting

SIDES = ("A", "B")
_FIELDS = len(fields(Setting))


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


class Downloads:
    """Each visitor's files in a folder whose name only the server can compute."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._key = folder, secrets.token_bytes(32)

    def of(self, visitor: str | None) -> Path:
        """The folder of a visitor, from the random name that gradio gave the browser tab."""
        return self.folder / hmac.new(self._key, str(visitor).encode(), hashlib.sha256).hexdigest()

    def write(self, visitor: str | None, side: str, samples: Samples) -> tuple[Path, Path]:
        """Writes the .npz with the sampling record and the sheet as PNG, and removes the files of the last sampling."""
        shutil.rmtree(self.of(visitor) / side, ignore_errors=True)
        folder = self.of(visitor) / side / secrets.token_hex(8)  # a new address, since a browser may cache the old one
        self.of(visitor).mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(parents=True)
        picture = folder / f"{side}.png"
        sheet(samples.images).save(picture)
        return samples.save(folder / f"{side}.npz"), picture

    def forget(self, visitor: str | None) -> None:
        shutil.rmtree(self.of(visitor), ignore_errors=True)


class Events:
    """The functions that the page calls; those that yield update the page with every item."""

    def __init__(self, playground: Playground, downloads: Downloads, state: Any, sides: Mapping[str, Side]) -> None:
        self.playground, self.downloads, self.state, self.sides = playground, downloads, state, sides

    def runs(self) -> list[Any]:
        """The list of runs for both settings, at the time the page is opened."""
        import gradio as gr

        names = self.playground.runs.names()
        return [gr.Dropdown(choices=names) for _ in SIDES]

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
