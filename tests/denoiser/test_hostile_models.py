"""Damaged and hostile files of models: each ends in one error that names the file, in bounded time and memory."""

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from alphabar.denoiser.from_diffusers import WEIGHTS, read_diffusers
from alphabar.denoiser.model import Model, build, load_weights, save_weights
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.runtime.choose import Timing, TimingFile
from alphabar.denoiser.runtime.job import Job
from alphabar.denoiser.to_diffusers import export_diffusers
from alphabar.training.ema import post_hoc
from tests.fixtures.mutations import faults, faults_of, tree_mutations

TINY = ModelRecipe(channels=(8, 16), embedding=16, groups=4)
NAN = float("nan")
Tensors = dict[str, Tensor]


def tiny() -> Model:
    return build(TINY, {"kind": "cosine"}, (1, 8, 8))


def tiny_unet2d(**more: Any) -> Model:
    pytest.importorskip("diffusers")
    recipe = ModelRecipe(network="unet2d", channels=(8, 16), groups=4, attention=(1,), conditional="classes" in more)
    return build(recipe, {"kind": "linear"}, (1, 16, 16), **more)


def packed(tensors: Tensors, spec: Any) -> bytes:
    return bytes(save(tensors, metadata={"alphabar": spec if isinstance(spec, str) else json.dumps(spec)}))


def refused(read: Callable[[], object], name: str, reason: str) -> None:
    """`read` raises an expected error in one line that names the file and says why."""
    with pytest.raises((ValueError, OSError), match=reason) as e:
        read()
    assert name in str(e.value)
    assert len(str(e.value)) < 700


# ---- one case for each kind


def swapped(tensors: Tensors, name: str, value: Tensor | None) -> Tensors:
    return {k: v for k, v in {**tensors, name: value}.items() if v is not None}


WEIGHT = "network.enter.weight"
TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "one missing": (lambda t: swapped(t, WEIGHT, None), "'network.enter.weight' is missing"),
    "all missing": (lambda t: {"network.enter.bias": t["network.enter.bias"]}, r"is missing, and \d+ more"),
    "one unknown": (lambda t: swapped(t, "network.more", torch.zeros(1)), "'network.more' is unknown"),
    "another shape": (lambda t: swapped(t, WEIGHT, t[WEIGHT][:1].clone()), r"of shape \(1, 4, 3, 3\), wanted float32 of"),
    "empty": (lambda t: swapped(t, WEIGHT, torch.zeros(0)), r"is float32 of shape \(0,\)"),
    "whole numbers": (lambda t: swapped(t, WEIGHT, t[WEIGHT].int()), "is int32 of shape .* wanted float32"),
    "true and false": (lambda t: swapped(t, WEIGHT, t[WEIGHT] > 0), "is bool of shape"),
    "NaN": (lambda t: swapped(t, WEIGHT, t[WEIGHT] * NAN), "holds NaN or infinity"),
    "infinity": (lambda t: swapped(t, WEIGHT, t[WEIGHT] / 0), "holds NaN or infinity"),
    "too large for float32": (lambda t: swapped(t, WEIGHT, t[WEIGHT].double() + 1e300), "holds NaN or infinity"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
def test_weights_that_do_not_fit_their_description(kind: str, tmp_path: Path) -> None:
    model, file = tiny(), tmp_path / "m.safetensors"
    change, reason = TENSORS[kind]
    file.write_bytes(packed(change(model.state_dict()), model.spec))
    refused(lambda: load_weights(file), "m.safetensors", reason)


SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "no format": ({"format": None}, "format None"), "format of tomorrow": ({"format": 99}, "reads formats"),
    "network a list": ({"network": ["unet"]}, "network is"),
    "another network": ({"network": "exec"}, "network 'exec' is not registered"),
    "arguments a list": ({"arguments": [1]}, "arguments is"), "arguments unknown": ({"arguments.x": 1}, "'x'"),
    "no blocks": ({"arguments.blocks": 0}, "blocks is 0; wanted a whole number from 1 to 64"),
    "a thousand million blocks": ({"arguments.blocks": 10**9}, "blocks is 1000000000"),
    "half a block": ({"arguments.blocks": 1.5}, "blocks is 1.5"), "true blocks": ({"arguments.blocks": True}, "blocks is True"),
    "no patch": ({"arguments.patch": 0}, "patch is 0"), "patch -2": ({"arguments.patch": -2}, "patch is -2"),
    "huge patch": ({"arguments.patch": 10**6}, "patch is 1000000"),
    "no levels": ({"arguments.channels": []}, r"channels is \[\]; wanted a list of 1 to 16"),
    "wide": ({"arguments.channels": [8, 10**10]}, r"channels\[1\]"),
    "deep": ({"arguments.channels": [8] * 2000}, "1 to 16"),
    "channels text": ({"arguments.channels": "88"}, "channels is '88'"),
    "embedding": ({"arguments.embedding": 10**10}, "embedding is 10000000000"),
    "group": ({"arguments.group_size": 0}, "group_size is 0"),
    "dropout": ({"arguments.dropout": 5}, "dropout is 5"), "dropout NaN": ({"arguments.dropout": NAN}, "dropout is nan"),
    "t_scale": ({"arguments.t_scale": 0}, "t_scale is 0"), "attention": ({"arguments.attention": [7]}, "attention at level 7"),
    "attention text": ({"arguments.attention": ["0"]}, r"attention\[0\] is '0'"),
    "augment": ({"arguments.augment": -1}, "augment is -1"),
    "classes of the network": ({"arguments.classes": 10**9}, "classes is 1000000000"),
    "classes that nobody names": ({"arguments.classes": 3}, "names 0 classes, and the network has 3"),
    "names that are numbers": ({"classes": [1]}, r"classes\[0\] is 1; wanted a text"),
    "channels differ": ({"arguments.in_channels": 3}, "in_channels is 3, and images have 1"),
    "shape of two": ({"image_shape": [1, 8]}, "image_shape"), "shape 0": ({"image_shape": [1, 0, 8]}, "image_shape"),
    "shape 2^40": ({"image_shape": [1, 2**40, 8]}, "image_shape"),
    "shape in floats": ({"image_shape": [1.0, 8, 8]}, "image_shape"),
    "crop": ({"crop": -1}, "crop is -1"), "crop all": ({"crop": 4}, "crop is 4"), "crop text": ({"crop": "1"}, "crop is '1'"),
    "range 0": ({"data_range": 0}, "data_range is 0"), "range NaN": ({"data_range": NAN}, "data_range is nan"),
    "range 1e30": ({"data_range": 1e30}, "data_range is 1e"), "range text": ({"data_range": "1"}, "data_range is '1'"),
    "prediction": ({"prediction": "z"}, "'z' is unknown"), "prediction number": ({"prediction": 1}, "prediction is 1"),
    "schedule": ({"schedule": {"kind": "x"}}, "use one of linear"), "schedule text": ({"schedule": "cosine"}, "schedule is"),
    "steps": ({"schedule": {"kind": "linear", "steps": 10**9}}, "steps = 1000000000: a schedule has 2 to"),
    "offset": ({"schedule": {"kind": "cosine", "s": -1}}, "s = -1.0: give"),
    "levels": ({"schedule": {"kind": "log_sigma", "high": 1e299}}, r"levels 0\.004\.\.1e\+299"),
    "times": ({"schedule": {"kind": "cosine", "t_end": 3}}, "times"),
    "pixels": ({"pixels": "uint4"}, "uint4"), "pixels number": ({"pixels": 8}, "pixels is 8"),
    "values": ({"value_range": [1]}, "range"), "values text": ({"value_range": ["a", "b"]}, "wanted two numbers"),
    "values fall": ({"value_range": [2, 1]}, "the lower first"),
    "values NaN": ({"value_range": [0, NAN]}, "the range 0 nan"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPECS)
def test_descriptions_with_odd_values(kind: str, tmp_path: Path) -> None:
    model, file = tiny(), tmp_path / "m.safetensors"
    changes, reason = SPECS[kind]
    spec = json.loads(json.dumps(model.spec))
    for key, value in changes.items():
        *way, last = key.split(".")
        (spec[way[0]] if way else spec)[last] = value
    file.write_bytes(packed(model.state_dict(), spec))
    refused(lambda: load_weights(file), "m.safetensors", reason)


def test_every_key_of_a_description_is_needed_or_has_a_default(tmp_path: Path) -> None:
    model, file = tiny(), tmp_path / "m.safetensors"
    for key in model.spec:
        file.write_bytes(packed(model.state_dict(), {k: v for k, v in model.spec.items() if k != key}))
        if key == "crop":
            assert load_weights(file).crop == 0
        else:
            refused(lambda: load_weights(file), "m.safetensors", key)


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda b: b"", "not a safetensors file, or is truncated"),
    "seven bytes": (lambda b: b[:7], "not a safetensors file, or is truncated"),
    "a header of 2^63 bytes": (lambda b: struct.pack("<Q", 2**63) + b[8:], "a header of 9,223,372,036,854,775,808 bytes"),
    "a header beyond the file": (lambda b: struct.pack("<Q", 10**7) + b[8:], "not a safetensors file, or is truncated"),
    "without its end": (lambda b: b[:-1], "not a safetensors file, or is truncated"),
    "with more": (lambda b: b + b"x", "not a safetensors file, or is truncated"),
    "text": (lambda b: b"hello, this is text", "not a safetensors file, or is truncated"),
    "tensors of 2^60 numbers": (lambda b: header({"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 4]}}), "truncated"),
    "tensors outside": (lambda b: header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [2**50, 2**50 + 4]}}), "truncated"),
    "an unknown type": (lambda b: header({"a": {"dtype": "F128", "shape": [1], "data_offsets": [0, 4]}}), "truncated"),
    "no description": (lambda b: save({"a": torch.zeros(1)}), "not written by alphabar"),
    "a description that is no JSON": (lambda b: packed({"a": torch.zeros(1)}, "{"), "is not valid JSON"),
    "a description that is a list": (lambda b: packed({"a": torch.zeros(1)}, "[1]"), "holds list"),
    "a deep description": (lambda b: packed({"a": torch.zeros(1)}, '{"a":' * 900 + "1" + "}" * 900), "nests more than 64"),
    "a very deep description": (lambda b: packed({"a": torch.zeros(1)}, "[" * 10**6), "is not valid JSON"),
    "a number of 10,000 digits": (lambda b: packed({"a": torch.zeros(1)}, '{"crop": ' + "9" * 10**4 + "}"), "is not valid JSON"),
}  # fmt: skip


def header(tensors: dict[str, Any], data: bytes = b"\0\0\0\0") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_weights(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_weights(file, tiny())
    change, reason = FILES[kind]
    file.write_bytes(change(file.read_bytes()))
    refused(lambda: load_weights(file), "m.safetensors", reason)
    refused(lambda: load_weights(tmp_path), tmp_path.name, "not a safetensors file")


# ---- mutations


def test_mutated_files_of_weights(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_weights(file, tiny())
    assert faults(file.read_bytes(), file, lambda: load_weights(file)) == []


def used(file: Path) -> None:
    """Reads a model and calls it once, since an odd value may be used only then."""
    model = load_weights(file)
    x = torch.zeros(1, *model.image_shape)
    if x.numel() < 10**5:
        with torch.no_grad():
            model(x, torch.ones(1))


def tiny_unet2d_with_classes() -> Model:
    return tiny_unet2d(classes=("a", "b"), pixels="uint16", value_range=(0, 4095))


@pytest.mark.parametrize("make", [tiny, pytest.param(tiny_unet2d_with_classes, marks=pytest.mark.slow(7))])
def test_mutated_descriptions(make: Callable[[], Model], tmp_path: Path) -> None:
    model, file = make(), tmp_path / "m.safetensors"
    tensors = model.state_dict()
    cases = ((what, packed(tensors, spec)) for what, spec in tree_mutations(model.spec))
    assert faults_of(cases, file, lambda: used(file)) == []


PARTS = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json", f"unet/{WEIGHTS}")


@pytest.mark.slow(9)
@pytest.mark.parametrize("part", PARTS)
def test_mutated_folders_of_diffusers(part: str, tmp_path: Path) -> None:
    export_diffusers(tiny_unet2d(), tmp_path / "pipe")
    file = tmp_path / "pipe" / part

    def read() -> None:
        model = read_diffusers(tmp_path / "pipe")
        if part.endswith("json"):
            with torch.no_grad():
                model(torch.zeros(1, *model.image_shape), torch.ones(1))

    good = file.read_bytes()
    assert faults(good, file, read) == []
    if part.endswith("json"):
        cases = ((what, json.dumps(values).encode()) for what, values in tree_mutations(json.loads(good)))
        assert faults_of(cases, file, read) == []


@pytest.mark.slow(5)
def test_mutated_snapshots_of_averages(tmp_path: Path) -> None:
    model = tiny()
    halves = {name: t.half() for name, t in model.state_dict().items()}
    for images in (100, 200):
        for length in ("0.050", "0.100"):
            (tmp_path / f"{images:012d}-{length}.safetensors").write_bytes(packed(halves, model.spec))
    file = tmp_path / "000000000200-0.100.safetensors"
    assert faults(file.read_bytes(), file, lambda: post_hoc(tmp_path, 0.08)) == []


def test_mutated_timings_are_left_out_one_by_one(tmp_path: Path) -> None:
    timings = TimingFile(tmp_path / "fast.json", Job(tiny(), 2, torch.device("cpu"), "float32"))
    whole = {"eager": Timing(0.1, 0.2), "channels_last": Timing(0.3, 0.1)}
    timings.write(whole)

    def read() -> None:
        assert all(0 <= seconds <= 1e6 and 0 <= prepare <= 1e6 for seconds, prepare in timings.read().values())

    good = (tmp_path / "fast.json").read_bytes()
    assert faults(good, tmp_path / "fast.json", read) == []
    cases = ((what, json.dumps(v).encode()) for what, v in tree_mutations(json.loads(good)))
    assert faults_of(cases, tmp_path / "fast.json", read) == []
    damaged = json.loads(good)
    damaged[timings.key]["eager"]["seconds"] = -1
    (tmp_path / "fast.json").write_text(json.dumps(damaged))
    assert timings.read() == {"channels_last": whole["channels_last"]}


# ---- memory, in a process that has read nothing else

WORST = """
import json, resource, struct, sys, torch
from pathlib import Path
from safetensors.torch import save
from alphabar.denoiser.model import load_weights
from alphabar.sampling.samples import Samples
from alphabar.sampling.fitted import load_tuned
read = {".safetensors": load_weights, ".npz": Samples.load, ".json": load_tuned}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read[file.suffix](file)
    except ValueError as e:
        assert file.name in str(e), e
    else:
        raise AssertionError(f"{file} was read")
    print(file.name, round(peak() - before))
assert peak() - before < 250, peak() - before
"""


@pytest.mark.slow(6)
def test_the_worst_kinds_take_no_memory(tmp_path: Path) -> None:
    """Numbers of 10^10 channels, 2^40 images and 2^60 weights are refused before anything of that size is allocated."""
    spec = tiny().spec
    for number, changes in enumerate(
        ({"channels": [65536] * 16}, {"channels": [10**10]}, {"blocks": 10**9}, {"embedding": 10**10})
    ):
        content = packed({"a": torch.zeros(1)}, {**spec, "arguments": {**spec["arguments"], **changes}})
        (tmp_path / f"{number}.safetensors").write_bytes(content)
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    for name, shape, method in (("stored", (2**40, 8, 8, 1), 0), ("deflated", (2**30, 8, 8, 1), 8)):
        start = io.BytesIO()
        np.lib.format.write_array_header_1_0(start, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w", method) as archive:
            archive.writestr("images.npy", start.getvalue() + bytes(10**6))
            record = io.BytesIO()
            np.save(record, np.array("{}"))
            archive.writestr("record.npy", record.getvalue())
    (tmp_path / "long.json").write_bytes(b'{"format": 1, "how": "' + b"x" * 2**26 + b'"}')
    (tmp_path / "deep.json").write_bytes(b"[" * 2**24)
    done = subprocess.run([sys.executable, "-c", WORST, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 9
