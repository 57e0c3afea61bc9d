"""The program `alphabar`: its commands, and what happens to their errors and warnings.

The modules of this package import torch only when a command runs, so that --help is fast.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, Parameter

from alphabar.cli import extractor, images, runs, samplers, scores, train

app = App(
    name="alphabar",
    help="A laboratory for image diffusion models.\n\n```\nalphabar demo\nalphabar train fashion_mnist --out runs/garments\n```",
    help_format="markdown",
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
)
for command in (
    images.demo, images.data, train.train, images.sample, scores.ema, train.experiment, samplers.samplers, samplers.tune,
    scores.score, scores.compare, samplers.sweep, runs.export, scores.loss, images.app, runs.sync, runs.report, runs.app,
    extractor.app,
):  # fmt: skip
    app.command(command)


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line, or `words` in its place.

    A wrong input ends in one line that says what to type, a diverged training (FloatingPointError) in one line that says what to
    try, both with exit code 2. Any other error is shown with its traceback.
    """
    before = warnings.formatwarning

    def brief(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        """A warning of alphabar without the line of code that issued it."""
        ours = category is UserWarning and Path(filename).is_relative_to(Path(__file__).parents[1])
        return f"alphabar: {message}\n" if ours else before(message, category, filename, lineno, line)

    warnings.formatwarning = brief
    try:
        app(words)
    except (ValueError, OSError, ImportError, FloatingPointError) as e:
        print(f"alphabar: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        warnings.formatwarning = before


if __name__ == "__main__":
    main()
