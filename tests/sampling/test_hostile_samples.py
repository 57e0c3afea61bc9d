"""Damaged and hostile files of samples and fitted samplers, and nonsense from Python: each ends in one clear error."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.denoiser.model import Model, build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.evaluation.score import sampling_fields
from alphabar.sampling.fitted import Tuned, load_tuned, save_tuned
from alphabar.sampling.guidance import class_numbers
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import open_samples
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model
from tests import typecheck
from tests.fixtures.mutations import faults, faults_of, tree_mutations

TINY = ModelRecipe(channels=(8, 16), embedding=16, groups=4)
NAN = float("nan")


@pytest.fixture(scope="module")
def model() -> Model:
    return build(TINY, {"kind": "cosine"}, (1, 8, 8)).eval()


@pytest.fixture(scope="module")
def made(model: Model) -> Samples:
    return sample(model, 3, steps=3, keep_x0=True, progress=False)


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def with_record(made: Samples, record: Any) -> bytes:
    return npz(images=made.images, record=np.array(record if isinstance(record, str) else json.dumps(record)))


def use(file: Path) -> None:
    Samples.load(file)
    opened = open_samples(file)
    assert opened.part(0, 1).pixels.ndim == 4
    sampling_fields(opened.record)


def lying(shape: tuple[int, ...], descr: str = "|u1", data: bytes = bytes(64), method: int = zipfile.ZIP_STORED) -> bytes:
    """An .npz whose array `images` says that it has a shape."""
    array, record, out = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": descr, "fortran_order": False, "shape": shape})
    np.save(record, np.array("{}"))
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("images.npy", array.getvalue() + data)
        archive.writestr("record.npy", record.getvalue())
    return out.getvalue()


def flipped(data: bytes) -> bytes:
    """One bit of the images changed."""
    at = data.index(b"images.npy") + 300
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


FILES: dict[str, tuple[Callable[[Samples], bytes], str]] = {
    "empty": (lambda m: b"", "is damaged, or no .npz file"),
    "text": (lambda m: b"hello", "is damaged, or no .npz file"),
    "torn": (lambda m: with_record(m, m.record)[:-40], "is damaged, or no .npz file"),
    "one bit": (lambda m: flipped(with_record(m, m.record)), "Bad CRC-32"),
    "2^40 images": (lambda m: lying((2**40, 8, 8, 1)), "which the file does not hold"),
    "2^30 deflated": (lambda m: lying((2**30, 8, 8, 1), method=zipfile.ZIP_DEFLATED), "which the file does not hold"),
    "fewer images": (lambda m: lying((3, 8, 8, 1)), "expected 192 bytes got 64"),
    "more images": (lambda m: lying((1, 4, 4, 1)), "holds more than 16 bytes"),
    "objects": (lambda m: lying((8,), "|O"), "which the file does not hold"),
    "void": (lambda m: lying((1,), "|V64"), "images is"),
    "times": (lambda m: lying((8,), "<M8[s]"), "images is"),
    "int64": (lambda m: npz(images=m.images.astype(np.int64), record=np.array("{}")), "images is int64"),
    "float64": (lambda m: npz(images=m.images / 255, record=np.array("{}")), "images is float64"),
    "three axes": (lambda m: npz(images=m.images[..., 0], record=np.array("{}")), r"images is uint8 of shape \(3, 8, 8\)"),
    "no images": (lambda m: npz(images=m.images[:0], record=np.array("{}")), r"of shape \(0, 8, 8, 1\)"),
    "record of numbers": (lambda m: npz(images=m.images, record=np.zeros(3)), "record is float64"),
    "records": (lambda m: npz(images=m.images, record=np.array(["{}", "{}"])), r"record is <U2 of shape \(2,\)"),
    "record without JSON": (lambda m: with_record(m, "{"), "is not valid JSON"),
    "record a list": (lambda m: with_record(m, "[1]"), "holds list"),
    "record deep": (lambda m: with_record(m, "[" * 10**5), "is not valid JSON"),
    "x0 of another size": (lambda m: npz(images=m.images, record=np.array("{}"), x0=m.images), "x0 is uint8 of shape"),
    "n of others": (lambda m: with_record(m, {**m.record, "n": 7}), "holds 3 images, but its record is of 7"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_samples(kind: str, made: Samples, tmp_path: Path) -> None:
    file = tmp_path / "s.npz"
    make, reason = FILES[kind]
    file.write_bytes(make(made))
    with pytest.raises(ValueError, match=reason) as e:
        use(file)
    assert "s.npz" in str(e.value)


RECORDS: dict[str, tuple[str, Any]] = {
    "n": ("n", "3"), "seed": ("seed", [1]), "first": ("first_index", -1), "nfe": ("nfe", "5"), "nfe true": ("nfe", True),
    "steps": ("steps", 2.5), "range": ("value_range", 5), "range of one": ("value_range", [1]),
    "range falls": ("value_range", [2, 1]),
    "range NaN": ("value_range", [0, NAN]), "grid": ("grid", "karras"), "grid of texts": ("grid", ["3"]),
    "sampler": ("sampler", 1),
    "model": ("model", {}), "versions": ("versions", "1"), "tuned": ("tuned", "mine"), "classes": ("classes", ["a"]),
    "eta": ("eta", "0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS)
def test_records_with_values_of_other_types(kind: str, made: Samples, tmp_path: Path) -> None:
    key, value = RECORDS[kind]
    file = tmp_path / "s.npz"
    file.write_bytes(with_record(made, {**made.record, key: value}))
    with pytest.raises(ValueError, match=r"s\.npz"):
        use(file)
    folder = made.save(f"{tmp_path}/folder/")
    (folder / "record.json").write_text(json.dumps({**made.record, key: value}))
    with pytest.raises(ValueError, match="folder"):
        open_samples(folder)
    file.write_bytes(with_record(made, {**made.record, key: None}))  # null is unknown, which every value may be
    use(file)


def test_images_of_another_program_need_no_record(made: Samples, tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(npz(images=made.images))
    assert open_samples(tmp_path / "s.npz").record is None


def test_folders_of_images_that_do_not_fit_together(made: Samples, tmp_path: Path) -> None:
    folder = made.save(f"{tmp_path}/folder/")
    (folder / "000001.png").unlink()
    with pytest.raises(ValueError, match="folder holds 2 images, but its record is of 3"):
        open_samples(folder)
    Samples(made.images[:, :4], made.record).save(f"{tmp_path}/other/")
    (tmp_path / "other" / "000001.png").replace(folder / "000001.png")
    with pytest.raises(ValueError, match=r"folder/ holds uint8 \(4, 8, 1\), uint8 \(8, 8, 1\); samples have one size"):
        open_samples(folder)


def test_mutated_samples(made: Samples, tmp_path: Path) -> None:
    file = tmp_path / "s.npz"
    made.save(file)
    assert faults(file.read_bytes(), file, lambda: use(file)) == []
    np.savez_compressed(file, images=made.images, record=np.array(json.dumps(made.record)))
    assert faults(file.read_bytes(), file, lambda: use(file)) == []
    cases = ((what, with_record(made, record)) for what, record in tree_mutations(made.record))
    assert faults_of(cases, file, lambda: use(file)) == []


@pytest.mark.parametrize("name", ["record.json", "000001.png"])
def test_mutated_folders_of_samples(name: str, made: Samples, tmp_path: Path) -> None:
    file = made.save(f"{tmp_path}/folder/") / name
    assert faults(file.read_bytes(), file, lambda: Samples.load(f"{tmp_path}/folder/")) == []


def test_mutated_fitted_samplers(tmp_path: Path) -> None:
    mix = ((1.0,), (0.0, 1.0), (0.0, 0.0, 1.0))
    fit = Tuned("mine", "m" * 16, (3.0, 1.0, 0.5), (0.5, 0.5, 0.0), mix, (0.1, 0.1, 0.0), 1.0, 0.99, 2.0, {"n": 8, "scores": [1]})
    file = save_tuned(fit, tmp_path)
    assert faults(file.read_bytes(), file, lambda: load_tuned(file)) == []
    cases = ((what, json.dumps(data).encode()) for what, data in tree_mutations(fit.to_json()))
    assert faults_of(cases, file, lambda: load_tuned(file)) == []


def test_damaged_batches_of_an_interrupted_sampling(model: Model, tmp_path: Path) -> None:
    def interrupt(step: Any) -> None:
        if step.first == 2:
            raise KeyboardInterrupt

    out = tmp_path / "s.npz"
    with pytest.raises(KeyboardInterrupt):
        sample(model, 4, steps=2, batch=2, out=out, progress=False, on_step=interrupt)
    (file,) = (tmp_path / "s.part").glob("*.npz")
    good = file.read_bytes()

    def again() -> None:
        with pytest.raises(KeyboardInterrupt):
            sample(model, 4, steps=2, batch=2, out=out, progress=False, on_step=interrupt)

    assert faults(good, file, again, 100) == []
    for arrays in (
        {},
        {"images": np.zeros((2, 8, 8, 1), np.float32), "x0": np.zeros(0), "calls": np.array(1), "seconds": np.array(1)},
    ):
        file.write_bytes(npz(**arrays))
        with pytest.raises(ValueError, match=r"00000000\.npz is damaged: delete it, and the batch is made again"):
            sample(model, 4, steps=2, batch=2, out=out, progress=False)
    file.write_bytes(good)
    assert len(sample(model, 4, steps=2, batch=2, out=out, progress=False).images) == 4


# ---- from Python


@pytest.fixture
def unchecked() -> None:
    """The types that the tests check are passed wrong here."""
    typecheck.off()


class Denoiser:
    """A model whose answer is `answer(x, sigma)`."""

    def __init__(self, like: Model, answer: Callable[[Any, Any], Any]) -> None:
        self.schedule, self.image_shape, self.answer = like.schedule, like.image_shape, answer

    def __call__(self, x: Any, sigma: Any) -> Any:
        return self.answer(x, sigma)


ANSWERS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "NaN": (lambda x, s: x * NAN, r"NaN or infinity at its first call \(sigma = "),
    "infinity": (lambda x, s: x / 0, "NaN or infinity at its first call"),
    "NaN at the end": (lambda x, s: x * (NAN if s[0] < 1 else 1), "NaN or infinity in 2 of 2 images"),
    "another size": (lambda x, s: x[:, :, :4], r"gave torch\.float32 of shape \(2, 1, 4, 8\) for images of shape \(2, 1, 8, 8\)"),
    "one image": (lambda x, s: x[:1], r"of shape \(1, 1, 8, 8\)"), "nothing": (lambda x, s: None, "gave NoneType"),
    "whole numbers": (lambda x, s: x.long(), "gave torch.int64"), "an array": (lambda x, s: x.numpy(), "gave ndarray"),
    "more than memory": (lambda x, s: torch.empty(2**50), "2 images does not fit into memory.* smaller --batch"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_models_that_answer_nonsense(kind: str, model: Model) -> None:
    answer, reason = ANSWERS[kind]
    with pytest.raises(ValueError, match=reason):
        sample(Denoiser(model, answer), 2, batch=2, steps=6, progress=False)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_model(model: Model) -> None:
    for other in (object(), None, model.network):
        with pytest.raises(ValueError, match="without schedule and image_shape: give what load_model returns"):
            sample(other, 2, progress=False)  # type: ignore[arg-type]


NONSENSE: dict[str, tuple[dict[str, Any], str]] = {
    "device": ({"device": "cuda:77"}, "device 'cuda:77' is not on this machine, which has cpu"),
    "gpu": ({"device": "gpu"}, "device 'gpu' is not on this machine"), "no device": ({"device": ""}, "device '' is not on"),
    "a list as grid": ({"grid": [3.0, 1.0, 0.0]}, "a grid is a float64 tensor of levels, not list"),
    "a number as grid": ({"grid": 7}, "not int"),
    "a number as plan": ({"plan": 3}, "plan is int: give a text"),
    "a function as plan": ({"plan": lambda k: 1}, "plan is function"),
    "half an index": ({"indices": [0, 1.5]}, "index = 1.5"), "true index": ({"indices": [0, True]}, "index = True"),
    "index 2^64": ({"indices": [0, 2**64]}, "index = 18446744073709551616"),
    "index text": ({"indices": [0, "1"]}, "index = 1: give"),
    "steps kept": ({"keep_x0": "x"}, "keep_x0 = 'x'"), "half a step": ({"keep_x0": [0.5]}, r"keep_x0 = \[0.5\]"),
    "guidance alone": ({"guidance": 2.0}, "guidance leads towards a class"),
    "classes": ({"classes": 0}, "trained without classes"),
    "churn": ({"sampler": "heun", "options": {"s_churn": "x"}}, "s_churn = 'x': heun takes a number"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NONSENSE)
@pytest.mark.usefixtures("unchecked")
def test_nonsense_is_refused_before_anything_is_written(kind: str, model: Model, tmp_path: Path) -> None:
    options, reason = NONSENSE[kind]
    with pytest.raises(ValueError, match=reason):
        sample(model, 2, progress=False, out=tmp_path / "s.npz", **{"steps": 2, **options})
    assert list(tmp_path.iterdir()) == []


CALLS: dict[str, tuple[Any, ...]] = {
    "levels": (torch.zeros(2, 1, 8, 8), torch.ones(3)), "one level": (torch.zeros(2, 1, 8, 8), torch.tensor(1.0)),
    "channels": (torch.zeros(2, 3, 8, 8), torch.ones(2)), "last": (torch.zeros(2, 8, 8, 1), torch.ones(2)),
    "three axes": (torch.zeros(1, 8, 8), torch.ones(1)), "bytes": (torch.zeros(2, 1, 8, 8).byte(), torch.ones(2)),
    "label beyond": (torch.zeros(2, 1, 8, 8), torch.ones(2), torch.tensor([0, 9])),
    "label below": (torch.zeros(2, 1, 8, 8), torch.ones(2), torch.tensor([-1, 0])),
    "one label": (torch.zeros(2, 1, 8, 8), torch.ones(2), torch.tensor([0])),
}  # fmt: skip


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.usefixtures("unchecked")
def test_calls_of_a_model_that_do_not_fit(kind: str) -> None:
    conditional = build(
        ModelRecipe(channels=(8,), embedding=16, conditional=True), {"kind": "cosine"}, (1, 8, 8), classes=("a", "b")
    )
    with pytest.raises(ValueError, match=r"noisy images came as|labels"):
        conditional(*CALLS[kind])


# ---- classes by name and by number


def named(*names: str) -> Model:
    return build(ModelRecipe(channels=(8,), embedding=16, conditional=True), {"kind": "cosine"}, (1, 8, 8), classes=names)


@pytest.mark.usefixtures("unchecked")
def test_classes_by_name_and_number() -> None:
    letters, digits = named("shoe", "bag", "coat"), named("1", "2", "3")
    for given, wanted in (
        ("bag", [1]), ("2", [2]), (["shoe", 2], [0, 2]), ("all", [0, 1, 2]), (range(2), [0, 1]), (np.array([0, 2]), [0, 2]),
        (torch.tensor([1]), [1]), (np.int64(1), [1]), (torch.tensor(2), [2]),
    ):  # fmt: skip
        assert class_numbers(given, letters) == wanted  # type: ignore[arg-type]
    # where classes are called by numbers, a text is a name, and a number is still the place of a class
    assert class_numbers("1", digits) == [0] and class_numbers(1, digits) == [1] and class_numbers(["3", 0], digits) == [2, 0]
    with pytest.raises(ValueError, match="class '0' is unknown to this model"):
        class_numbers("0", digits)


@pytest.mark.parametrize(
    "bad", [3, -1, 0.5, True, None, "sho", "-1", "3", "9" * 5000, [], [[0]], ["shoe", None], [0.0], np.array([0.5])]
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_class(bad: Any) -> None:
    with pytest.raises(ValueError, match="class"):
        class_numbers(bad, named("shoe", "bag", "coat"))


# ---- paths


def test_a_tilde_is_the_home(made: Samples, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alphabar.denoiser.model import save_weights

    monkeypatch.setenv("HOME", str(tmp_path))
    made.save(tmp_path / "s.npz")
    (tmp_path / "run" / "checkpoints" / "last").mkdir(parents=True)
    save_weights(tmp_path / "run" / "checkpoints" / "last" / "ema.safetensors", model)
    (tmp_path / "run" / "checkpoints" / "last" / "state.json").write_text("{}")
    assert np.array_equal(Samples.load("~/s.npz").images, made.images)
    assert np.array_equal(open_samples("~/s.npz[1:]").pixels, made.images[1:])
    assert load_model("~/run").home == tmp_path / "run"
    assert load_model("~/run/checkpoints/last/ema.safetensors").fingerprint == model.fingerprint


def test_checkpoints_that_no_run_has(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for run, which, reason in (
        ("bundled", "nope", "which is one file of weights"), (tmp_path, "../x", "give the name of a folder"),
        (tmp_path, "", "give the name of a folder"), (tmp_path, "nope", "no checkpoint nope at"),
        ("bundled", "ema:x", "write ema:LENGTH"),
    ):  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            load_model(run, which)
