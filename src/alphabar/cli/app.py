"""`alphabar app`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from alphabar.cli.runs import runs_folder
from alphabar.web.options import AppOptions


def app(root: Path | None = None, *, options: Annotated[AppOptions, Parameter(name="*")] = AppOptions()) -> None:
    """Serve a page for the browser: draw from runs, watch images form, set two settings side by side, score them.

    ```
    alphabar app
    alphabar app runs --port 7861 --against fashion_mnist:test
    ```

    Only this machine can open the page, unless --host says otherwise; it has no password. It asks no other machine for anything.
    Needs pip install 'alphabar[app]'. Ctrl-C stops it.

    Args:
        root: the folder with the runs that may be chosen, as well as bundled; runs/ if there is one here, else this folder.
    """
    from alphabar.web.playground import Playground
    from alphabar.web.server import serve

    serve(Playground(root or runs_folder(), options.against, options.extractor), host=options.host, port=options.port)
