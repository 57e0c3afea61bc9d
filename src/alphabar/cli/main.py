"""The program `alphabar`: its commands, and what happens to their errors and warnings.

The modules of this package import torch only when a command runs, so that --help is fast.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cyclopts import App, Parameter

from alphabar.cli import (
    anomaly,
    autoencoder,
    distill,
    edit,
    extractor,
    images,
    restore,
    runs,
    samplers,
    scores,
    train,
)  # fmt: skip
from alphabar.core.bounds import checks_numbers, exact
from alphabar.core.messages import console, expanded, explain, open_streams, printable, say, signals_to, stop_code

app = App(
    name="alphabar",
    help="A laboratory for image diffusion models.\n\n```\nalphabar demo\nalphabar train photos/ --out runs/photos\n```"
    "\n\n--debug, after any command, shows the traceback of an error.",
    help_format="markdown",
    default_parameter=Parameter(consume_multiple=True, negative_iterable=(), converter=exact),
)
for command in (
    images.demo, images.data, train.train, train.recipes, images.sample, edit.vary, edit.invert,
    edit.interpolate, scores.ema, train.experiment, samplers.samplers,
    samplers.tune, distill.distill, restore.restore, scores.score, scores.compare, samplers.sweep, runs.export, runs.push,
    scores.loss, scores.likelihood, anomaly.anomaly,
    images.app, runs.sync, runs.report, runs.app, extractor.app, autoencoder.app, autoencoder.encode,
):  # fmt: skip
    app.command(command if isinstance(command, App) else checks_numbers(command))
app.register_install_completion_command(help="Install completion of commands and options in this shell (bash, zsh, fish).")
PIPE_CODE = 141  # as shells give it: 128 + SIGPIPE


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line, or `words` in its place.

    A wrong input ends in one line that says what to type, a diverged training (FloatingPointError) in one line that says what to
    try, both with exit code 2. Any other error is a fault of alphabar: one line and exit code 70. --debug, anywhere in the
    command, or ALPHABAR_DEBUG=1 shows the traceback of either. Exit code 130 is Ctrl-C, 143 SIGTERM, 129 SIGHUP (a closed
    terminal, or a closed pipe of messages) and 141 output that nobody reads any more.
    """
    given = list(sys.argv[1:] if words is None else words)
    end = given.index("--") if "--" in given else len(given)
    if "--debug" in given[:end]:
        os.environ["ALPHABAR_DEBUG"] = "1"  # child processes see it as well
        given = [word for k, word in enumerate(given) if k >= end or word != "--debug"]
    before = warnings.formatwarning

    def brief(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        """A warning of alphabar without the line of code that issued it."""
        path = Path(filename)  # contextlib: of a decorator, such as memory_for
        ours = category is UserWarning and (path.is_relative_to(Path(__file__).parents[1]) or path.name == "contextlib.py")
        return f"alphabar: {printable(message)}\n" if ours else before(message, category, filename, lineno, line)

    open_streams()
    warnings.formatwarning = brief
    try:
        try:
            with signals_to(_interrupt):
                app([expanded(word) for word in given], console=console(), error_console=console(stderr=True))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        _drop_output()
        raise SystemExit(PIPE_CODE) from None
    except KeyboardInterrupt as stop:
        if str(stop):  # of a training that has kept its state
            say(f"{stop}; the same command continues", sys.stderr)
        raise SystemExit(stop_code()) from None
    except Exception as error:
        message, code = explain(error)
        with suppress(OSError):  # standard error may be a full disk too
            say(f"alphabar: {message}", sys.stderr)
        if isinstance(error, OSError):
            _drop_output()
        raise SystemExit(code) from None
    finally:
        warnings.formatwarning = before


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM and SIGHUP stop what runs as Ctrl-C does: what is finished is kept."""
    raise KeyboardInterrupt


def _drop_output() -> None:
    """Standard output that cannot be written gets nothing more, so that the interpreter does not fail on it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
