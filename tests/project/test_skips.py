"""A skip that nobody has allowed does not pass unseen."""

from tests.conftest import unlisted


def test_only_listed_reasons_are_allowed() -> None:
    found = {"tests/a.py::test_a: no CUDA device here", "tests/b.py::test_b: sample takes no adaptive plans yet"}
    assert unlisted(found) == ["tests/b.py::test_b: sample takes no adaptive plans yet"]
