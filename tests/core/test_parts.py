import os
from pathlib import Path

import numpy as np
import pytest

from alphabar.core.parts import Parts, differing


@pytest.fixture(params=["", "rows"])
def parts(request, tmp_path):
    return Parts(tmp_path / "out.part", "unfinished samples", request.param)


def test_items_are_found_again_under_the_same_protocol(parts):
    parts.claim({"seed": 0, "grid": (1.0, 0.0)})
    parts.save("00000000.npz", {"images": np.arange(6).reshape(2, 3), "calls": np.array(5)})
    parts.save("cosine.json", {"nfe": 5})
    again = Parts(parts.folder, parts.what, parts.subfolder)
    again.claim({"seed": 0, "grid": (1.0, 0.0)})
    assert again.done() == ["00000000.npz", "cosine.json"]
    assert again.done(".json") == ["cosine.json"]
    arrays = again.load("00000000.npz")
    assert arrays is not None and sorted(arrays) == ["calls", "images"]
    np.testing.assert_array_equal(arrays["images"], [[0, 1, 2], [3, 4, 5]])
    assert again.load("cosine.json") == {"nfe": 5}
    assert again.load("other.json") is None
    assert again.protocol() == {"seed": 0, "grid": [1.0, 0.0]}


def test_another_protocol_is_refused_with_the_fields_that_differ(parts):
    parts.claim({"seed": 0, "steps": 50, "n": 8})
    parts.save("a.json", {})
    with pytest.raises(ValueError, match=r"out\.part holds unfinished samples that differ in seed, eta \(seed was 0, is now 1\)"):
        parts.claim({"seed": 1, "steps": 50, "n": 8, "eta": 0.5})
    assert parts.protocol()["seed"] == 0


def test_another_protocol_may_take_a_folder_without_items(parts):
    parts.claim({"seed": 0})
    parts.path(".a.npz.1234").touch()  # as a killed process leaves it
    parts.claim({"seed": 1})
    assert parts.protocol() == {"seed": 1} and parts.done() == []


def test_a_folder_with_other_files_is_refused(parts):
    parts.folder.mkdir()
    (parts.folder / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds files that are no unfinished samples: choose an empty folder"):
        parts.claim({"seed": 0})


def test_an_item_that_fails_to_be_written_is_not_done(parts):
    parts.claim({})
    with pytest.raises(TypeError):
        parts.save("a.json", {"a": object()})
    assert parts.load("a.json") is None and parts.done() == []


def test_a_clear_that_is_killed_leaves_a_folder_that_can_be_claimed(parts, monkeypatch):
    """After each number of deleted files."""
    for deleted in range(4):
        parts.claim({"seed": 0})
        for name in "abc":
            parts.save(f"{name}.json", {})
        left = deleted

        def unlink(path, missing_ok=False):
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            os.unlink(path)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            patch.setattr("shutil.rmtree", lambda path, ignore_errors: [unlink(p) for p in path.iterdir()] + [path.rmdir()])
            with pytest.raises(KeyboardInterrupt):
                parts.clear()
        parts.claim({"seed": 0})
        parts.clear()
        assert not parts.folder.exists()


def test_clear_deletes_the_folder_and_may_be_repeated(parts):
    parts.claim({})
    parts.save("a.json", {})
    parts.clear()
    assert not parts.folder.exists()
    parts.clear()


def test_the_field_of_a_dictionary_is_named(parts):
    parts.claim({"seed": 0, "versions": {"python": "3.11.7", "numpy": "2.0.0"}})
    parts.save("a.json", {})
    with pytest.raises(ValueError, match=r"differ in versions\.numpy \(versions\.numpy was '2\.0\.0', is now '2\.4\.6'\)"):
        parts.claim({"seed": 0, "versions": {"python": "3.11.7", "numpy": "2.4.6"}})


def test_differing_fields():
    assert differing({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b", "c"]
