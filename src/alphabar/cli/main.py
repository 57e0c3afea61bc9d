"""The program `alphabar`: its commands, and what happens to their errors and warnings.

Every command is a module of this package, which imports torch only when the command runs, so that --help is fast.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, Parameter

from alphabar.cli import app as page
from alphabar.cli import (
    compare,
    data,
    demo,
    ema,
    experiment,
    export,
    extractor,
    loss,
    report,
    runs,
    sample,
    samplers,
    score,
    sweep,
    sync,
    train,
    tune,
)  # fmt: skip

app = App(
    name="alphabar",
    help="A laboratory for image diffusion models.\n\n```\nalphabar demo\nalphabar train fashion_mnist --out runs/garments\n```",
    help_format="markdown",
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
)
for command in (
    demo.demo, data.data, train.train, sample.sample, ema.ema, experiment.experiment, samplers.samplers, tune.tune, score.score,
    compare.compare, sweep.sweep, export.export, loss.loss, page.app, sync.sync, report.report, runs.app, extractor.app,
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
