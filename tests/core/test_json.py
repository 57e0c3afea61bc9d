"""NaN and infinity are not JSON: no file, header, array or line that alphabar writes holds them, whatever a number was."""

import ast
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alphabar
from alphabar.core.files import append_jsonl, finite, json_text, write_json
from alphabar.core.npz import read_npz
from alphabar.core.parts import Parts
from alphabar.core.weights import read_tensors
from alphabar.denoiser.autoencoder import read_autoencoder
from alphabar.denoiser.model import save_weights
from alphabar.features.load import load_extractor
from alphabar.sampling.samples import Samples
from tests.denoiser.test_autoencoder import autoencoder
from tests.fixtures.runs import untrained_extractor, untrained_model

SOURCE = Path(alphabar.__file__).parent
ODD = {"nan": math.nan, "deep": [{"inf": math.inf}, (-math.inf, 1.5)], "n": 1, "word": "NaN"}
PLAIN = {"nan": None, "deep": [{"inf": None}, [None, 1.5]], "n": 1, "word": "NaN"}
NO_FILE = {"web/job.py", "report/words.py", "report/comparisons.py"}  # text for people, and a key


def writers() -> Iterator[str]:
    """FILE:LINE of every json.dumps that neither makes a key or a digest (sort_keys) nor is compared or read back at once."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        tree = ast.parse(path.read_text())
        inside = {
            call
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.loads", "processes.alike")
            for call in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump", "dumps"):
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if "sort_keys" not in options and node not in inside and options.get("allow_nan") != "False":
                    yield f"{name}:{node.lineno}"


def test_json_is_written_by_one_function() -> None:
    assert [place for place in writers() if place.partition(":")[0] not in NO_FILE] == []


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in {text[:80]}")

    return json.loads(text, parse_constant=refuse)


def _json(folder: Path) -> str:
    write_json(folder / "a.json", ODD)
    return (folder / "a.json").read_text()


def _lines(folder: Path) -> str:
    append_jsonl(folder / "a.jsonl", ODD)
    return (folder / "a.jsonl").read_text()


def _samples(folder: Path) -> str:
    Samples(np.zeros((1, 4, 4, 1), np.uint8), ODD).save(folder / "s.npz")
    assert Samples.load(folder / "s.npz").record == PLAIN
    return str(read_npz(folder / "s.npz")["record"])


def _folder(folder: Path) -> str:
    Samples(np.zeros((1, 4, 4, 1), np.uint8), ODD).save(f"{folder}/s/")
    return (folder / "s" / "record.json").read_text()


def _autoencoder(folder: Path) -> str:
    made = autoencoder(factor=2)
    made.record = ODD
    made.save(folder / "a.safetensors")
    assert read_autoencoder(folder / "a.safetensors").record == PLAIN
    return json_text(strict(read_tensors(folder / "a.safetensors")[1]["alphabar_autoencoder"])["record"])


def _extractor(folder: Path) -> str:
    made = untrained_extractor()
    made.training_record = ODD
    made.save(folder / "e.safetensors")
    load_extractor(folder / "e.safetensors")
    return json_text(strict(read_tensors(folder / "e.safetensors")[1]["alphabar_extractor"])["training"])


def _model(folder: Path) -> str:
    made = untrained_model()
    made.spec = ODD
    save_weights(folder / "m.safetensors", made)
    return read_tensors(folder / "m.safetensors")[1]["alphabar"]


def _protocol(folder: Path) -> str:
    """The same work is found again: what is compared is what was written."""
    for _ in range(2):
        Parts(folder / "parts", "parts").claim(ODD)
        Parts(folder / "parts", "parts").save("a.json", ODD)
    return (folder / "parts" / "protocol.json").read_text()


@pytest.mark.parametrize("write", [_json, _lines, _samples, _folder, _autoencoder, _extractor, _model, _protocol])
def test_what_is_no_number_is_null(write: Callable[[Path], str], tmp_path: Path) -> None:
    assert strict(write(tmp_path)) == PLAIN


def test_finite_numbers_are_written_as_before() -> None:
    plain = {"a": [1, 0.1, True, None, "x", {"b": 1e300}]}
    assert json_text(plain) == json.dumps(plain)
    assert finite(plain) == plain


def test_an_open_interval_of_guidance_is_read_back(tmp_path: Path) -> None:
    record = {"guidance_interval": [0.1, math.inf]}
    Samples(np.zeros((1, 4, 4, 1), np.uint8), record).save(tmp_path / "s.npz")
    assert Samples.load(tmp_path / "s.npz").record == {"guidance_interval": [0.1, None]}
