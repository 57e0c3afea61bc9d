"""Files for download, each visitor's in a private folder."""

import hashlib
import hmac
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alphabar.sampling.samples import Samples
from alphabar.web.html import sheet

# gradio's settings that must not come from the environment; the page needs none of them
_FROM_ENVIRONMENT = ("ALLOWED_PATHS", "SHARE", "ROOT_PATH", "MCP_SERVER", "SSR_MODE", "NUM_WORKERS", "DEBUG", "HISTORY_BUCKET")


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can read, where gradio keeps files for download; it is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="alphabar-app-"))
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio would ask its makers for their latest version
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
    """Each visitor's files in a folder whose name only the server can compute."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._key = folder, secrets.token_bytes(32)

    def of(self, visitor: str | None) -> Path:
        """The folder of a visitor, from the random name that gradio gave the browser tab."""
        return self.folder / hmac.new(self._key, str(visitor).encode(), hashlib.sha256).hexdigest()

    def write(self, visitor: str | None, side: str, samples: Samples) -> tuple[Path, Path]:
        """Writes the .npz with the sampling record and the sheet as PNG, and removes the files of the last sampling.

        They get a new address each time, since a browser may cache what was at the old one.
        """
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
        """Removes a visitor's files."""
        shutil.rmtree(self.of(visitor), ignore_errors=True)
