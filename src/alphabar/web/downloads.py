"""The files of the page for download, in a folder of each visitor."""

import hashlib
import hmac
import secrets
import shutil
from pathlib import Path

from alphabar.sampling.samples import Samples
from alphabar.web.html import sheet


class Downloads:
    """Each visitor's files in a folder whose name only the server can compute."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._key = folder, secrets.token_bytes(32)

    def of(self, visitor: str | None) -> Path:
        """The folder of a visitor, from the random name that gradio gave the browser tab."""
        return self.folder / hmac.new(self._key, str(visitor).encode(), hashlib.sha256).hexdigest()

    def write(self, visitor: str | None, side: str, samples: Samples) -> tuple[Path, Path]:
        """Writes the .npz with the sampling record and the sheet as PNG, and removes the files of the last sampling."""
        folder = self.fresh(visitor, side)
        picture = folder / f"{side}.png"
        sheet(samples.images).save(picture)
        return samples.save(folder / f"{side}.npz"), picture

    def fresh(self, visitor: str | None, name: str) -> Path:
        """An empty folder for files of that name, whose last ones are removed."""
        shutil.rmtree(self.of(visitor) / name, ignore_errors=True)
        folder = self.of(visitor) / name / secrets.token_hex(8)  # a new address, since a browser may cache the old one
        self.of(visitor).mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(parents=True)
        return folder

    def forget(self, visitor: str | None) -> None:
        shutil.rmtree(self.of(visitor), ignore_errors=True)
