"""`import alphabar` costs no more than `import torch` and a fifth, and leaves heavy packages alone."""

import subprocess
import sys

import pytest

HEAVY = ("diffusers", "torchmetrics", "datasets", "matplotlib", "accelerate", "pandas", "pyarrow", "scipy", "transformers")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_door_and_the_layers_import_nothing_heavy() -> None:
    # Counted in modules, not in seconds, so that a busy machine changes nothing.
    code = (
        "import sys, torch; before = set(sys.modules); import alphabar, alphabar.cli.main; "
        "from alphabar import sample, ImageEval, load_model, train; "
        f"print(sorted(set(m.split('.')[0] for m in sys.modules) & set({HEAVY!r}) - set(m.split('.')[0] for m in before)))"
    )
    assert run(code).strip() == "[]"


@pytest.mark.slow(5)
def test_import_alphabar_alone_imports_less_than_a_fifth_of_torch() -> None:
    torch_modules = int(run("import sys, torch; print(len(sys.modules))"))
    both = int(run("import sys, torch, alphabar; print(len(sys.modules))"))
    assert both <= 1.2 * torch_modules


def test_help_and_lists_need_no_torch() -> None:
    """Whose import takes seconds: nobody waits for it to read which options there are."""
    code = (
        "import contextlib, io, sys; from alphabar.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main([{!r}, '--help'])\n"
        "print('torch' in sys.modules)"
    )
    for command in ("sample", "train", "score"):
        assert run(code.format(command)).strip() == "False"


def test_dir_shows_the_interface_only() -> None:
    import alphabar

    assert dir(alphabar) == sorted(alphabar.__all__)
