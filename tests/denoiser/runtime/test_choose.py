"""The choice of a method by measurement, with given timings in place of a clock."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.runtime import choose
from alphabar.denoiser.runtime.fast_model import speed_up
from alphabar.denoiser.runtime.job import Job
from alphabar.denoiser.runtime.methods import METHODS, prepare
from tests.denoiser.runtime.conftest import BATCH

pytestmark = pytest.mark.usefixtures("three_methods")


def use_timings(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[list[str]]:
    """Replaces the measurement by given seconds per image and call. Returns a list of the methods measured, in groups."""
    measured: list[list[str]] = []

    def measure(job: Job, names: Sequence[str]) -> dict[str, float]:
        measured.append(list(names))
        for name in names:
            prepare(job, name)
        return {name: seconds[name] for name in names}

    monkeypatch.setattr(choose, "measure", measure)
    return measured


def replace_compile(monkeypatch: pytest.MonkeyPatch, make: Callable[[Job], Any]) -> None:
    monkeypatch.setitem(METHODS, "compile", replace(METHODS["compile"], make=make))


@pytest.fixture
def three_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only eager, channels_last and compile are usable, and compile is quick to prepare but counts as expensive."""
    usable = ("eager", "channels_last", "compile")
    monkeypatch.setattr(choose, "unavailable", lambda name, *_: None if name in usable else "not in this test")
    replace_compile(monkeypatch, METHODS["channels_last"].make)


def test_auto_takes_the_fastest_and_stores_the_timings(
    model: Preconditioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = use_timings(monkeypatch, eager=3e-3, channels_last=2e-3, compile=1e-3)
    fast = speed_up(model, batch=BATCH, cache=tmp_path)
    assert fast.method == "compile" and fast.milliseconds == pytest.approx({"eager": 3, "channels_last": 2, "compile": 1})
    assert measured == [["eager", "channels_last"], ["channels_last", "compile"]]
    again = speed_up(model, batch=BATCH, cache=tmp_path)
    assert again.method == "compile" and len(measured) == 2
    assert speed_up(model, batch=BATCH + 1, cache=tmp_path).method == "compile" and len(measured) == 4  # another key
    assert len(json.loads((tmp_path / "fast.json").read_text())) == 2


def test_compiling_is_tried_only_where_it_may_pay(model: Preconditioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = use_timings(monkeypatch, eager=1e-3, channels_last=2e-3, compile=0.5e-3)
    # 40 s to compile against a tenth of 100 s: not tried
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=100_000).method == "eager"
    assert measured == [["eager", "channels_last"]]
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=1_000_000).method == "compile"
    assert measured[1:] == [["eager", "compile"]]


def test_known_preparation_times_count(model: Preconditioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_timings(monkeypatch, eager=1e-3, channels_last=2e-3, compile=0.5e-3)
    speed_up(model, batch=BATCH, cache=tmp_path)
    file = tmp_path / "fast.json"
    (key,) = (found := json.loads(file.read_text()))
    found[key]["compile"]["prepare"] = 30.0
    file.write_text(json.dumps(found))
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=50_000).method == "eager"  # compiling would save 25 s of 50
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=70_000).method == "compile"


def test_little_work_is_not_measured(model: Preconditioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = use_timings(monkeypatch)
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=8).method == "channels_last"
    assert measured == [] and not list(tmp_path.iterdir())


def test_a_real_measurement(model: Preconditioned, tmp_path: Path, noisy: tuple[Tensor, Tensor]) -> None:
    fast = speed_up(model, batch=BATCH, cache=tmp_path, work=2_000)
    assert fast.method in ("eager", "channels_last") and set(fast.milliseconds) == {"eager", "channels_last"}
    assert all(v > 0 for v in fast.milliseconds.values()) and "cuda_graphs" in fast.failed
    assert torch.allclose(fast(*noisy), model(*noisy).detach(), atol=1e-5)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"eager": {"seconds": "x"}}}'])
def test_a_damaged_file_of_timings_is_replaced(
    model: Preconditioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    use_timings(monkeypatch, eager=3e-3, channels_last=2e-3, compile=1e-3)
    (tmp_path / "fast.json").write_text(text)
    assert speed_up(model, batch=BATCH, cache=tmp_path).method == "compile"
    assert json.loads((tmp_path / "fast.json").read_text())


def test_a_method_that_fails_is_skipped_with_its_reason(
    model: Preconditioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(job: Job) -> Any:
        raise RuntimeError("no C++ compiler was found")

    replace_compile(monkeypatch, broken)
    use_timings(monkeypatch, eager=3e-3, channels_last=2e-3)
    fast = speed_up(model, batch=BATCH, cache=tmp_path)
    assert fast.method == "channels_last" and "no C++ compiler" in fast.failed["compile"]
    with pytest.raises(RuntimeError, match="compile does not work here: RuntimeError: no C\\+\\+ compiler"):
        speed_up(model, "compile", batch=BATCH)


def test_a_method_with_wrong_output_is_refused(model: Preconditioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_compile(monkeypatch, lambda job: lambda y, t: 1.01 * job.model.network(y, t) + 0.01)
    with pytest.raises(RuntimeError, match=r"the output of compile deviates from the network's by 0.0"):
        speed_up(model, "compile", batch=BATCH)
    use_timings(monkeypatch, eager=3e-3, channels_last=2e-3)
    assert speed_up(model, batch=BATCH, cache=tmp_path).method == "channels_last"
