"""What all tests share: threads, the environment, type checks, the order of tests, skips that are allowed, a small data set."""

import gzip
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import typecheck

ASSETS = Path(__file__).parents[1] / "src" / "alphabar" / "assets"
ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")
N_TRAIN, N_TEST = 4000, 600

pytest_plugins = [
    "tests.fixtures.sets",
    "tests.fixtures.runs",
    "tests.fixtures.oracles",
    "tests.fixtures.training",
    "tests.fixtures.hub",
]

torch.set_num_threads(1)  # two workers share two cores, and one thread gives the same bits everywhere
for name, value in {
    "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true", "GRADIO_ANALYTICS_ENABLED": "False",
}.items():  # fmt: skip
    os.environ.setdefault(name, value)  # no test asks the network, nor do its child processes


def pytest_runtest_protocol() -> None:
    typecheck.begin()  # before the fixtures of a test, which count as its own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that no worker is left alone with one: `@pytest.mark.slow(30)` gives the seconds."""

    def seconds(item: pytest.Item) -> float:
        mark = item.get_closest_marker("slow")
        return 0.0 if mark is None else float(mark.args[0]) if mark.args else 5.0

    items.sort(key=seconds, reverse=True)


_skipped: set[str] = set()
_only_fast = False


def pytest_configure(config: pytest.Config) -> None:
    global _only_fast
    _only_fast = config.option.markexpr == "not slow"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple) and not hasattr(report, "wasxfail"):
        _skipped.add(f"{report.nodeid}: {report.longrepr[2].removeprefix('Skipped: ')}")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    # A whole file that needs an extra is skipped when it is collected. All its tests are slow, so `make test` runs none of them.
    if report.skipped and not _only_fast and isinstance(report.longrepr, tuple):
        _skipped.add(f"{report.nodeid}: {report.longrepr[2].removeprefix('Skipped: ')}")


def unlisted(skipped: set[str]) -> list[str]:
    """Skips whose reason no pattern of allowed_skips.txt matches."""
    lines = [line.strip() for line in ALLOWED_SKIPS.read_text().splitlines()]
    patterns = [re.compile(line) for line in lines if line and not line.startswith("#")]
    return sorted(one for one in skipped if not any(p.search(one.partition(": ")[2]) for p in patterns))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI=true a skip that allowed_skips.txt does not list fails the whole run."""
    if os.environ.get("CI") == "true" and not hasattr(session.config, "workerinput") and (found := unlisted(_skipped)):
        session.config.stash[_UNLISTED] = found
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_UNLISTED = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for one in config.stash.get(_UNLISTED, []):
        terminalreporter.write_line(f"SKIP NOT ALLOWED (tests/allowed_skips.txt): {one}", red=True)


def write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray) -> None:
    n, h, w = images.shape[:3]
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz", "wb", 1) as f:
        f.write(struct.pack(">IIII", 0x803, n, h, w) + np.ascontiguousarray(images).tobytes())
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz", "wb", 1) as f:
        f.write(struct.pack(">II", 0x801, n) + labels.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose fashion_mnist has 4,000 training and 600 test images, made of the bundled test images."""
    root = tmp_path_factory.mktemp("data-root")
    folder = root / "fashion-mnist"
    folder.mkdir()
    with np.load(ASSETS / "fashion_mnist_test.npz", allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    write_idx(folder, "train", images[:N_TRAIN], labels[:N_TRAIN])
    write_idx(folder, "t10k", images[-N_TEST:], labels[-N_TEST:])
    return root


@pytest.fixture
def small_data(small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`small_root` as the data root of this process and its children, with a cache for this test alone."""
    monkeypatch.setenv("ALPHABAR_DATA", str(small_root))
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    return small_root
