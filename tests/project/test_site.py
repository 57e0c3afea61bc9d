"""The site builds without warnings, every link has a target, and no page makes a request to another server."""

import importlib.util
import inspect
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
API = ROOT / "docs" / "api.md"


@pytest.fixture(scope="module")
def tools() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(nav: list[dict[str, object]]) -> list[str]:
    """All paths in a navigation."""
    found = []
    for entry in nav:
        for value in entry.values():
            found += [value] if isinstance(value, str) else pages(value)  # type: ignore[arg-type]
    return found


@pytest.mark.slow(15)
def test_site_builds_without_warnings_or_dead_links(tools: ModuleType) -> None:
    assert "No issues found" in tools.build()
    assert not list(tools.problems())
    built = {p.parent.relative_to(tools.SITE).as_posix() for p in tools.SITE.rglob("index.html")}
    assert {"docs/tutorial", "docs/scores", "docs/api", "benchmarks/RESULTS"} <= built
    api = (tools.SITE / "docs" / "api" / "index.html").read_text()
    for name in ("Samples", "ImageEval", "load_extractor", "train_extractor", "sweep"):
        assert re.search(rf'id="alphabar\.[\w.]*\.{name}"', api), name


def test_navigation_has_every_page(tools: ModuleType) -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text())
    pages_of_docs = {p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")}
    pages_of_docs.remove("docs/home.md")  # becomes index.md
    outside = {"index.md", "start.md", "examples.md", "benchmarks/RESULTS.md", "CHANGELOG.md"}
    assert set(pages(config["project"]["nav"])) == pages_of_docs | outside


def test_api_page_has_every_public_name_and_every_options_class() -> None:
    import alphabar

    listed = {name: module for module, name in re.findall(r"^::: alphabar\.([\w.]+)\.(\w+)$", API.read_text(), re.MULTILINE)}
    options = set()
    for name, module in alphabar._WHERE.items():
        assert listed.pop(name, None) == module, name
        function = getattr(getattr(alphabar, name), "__wrapped__", None)  # of functions decorated with @takes
        if function is not None and "options" in inspect.signature(function).parameters:
            options.add(type(inspect.signature(function).parameters["options"].default))
    assert listed == {kind.__name__: kind.__module__.removeprefix("alphabar.") for kind in options}


def test_problems_finds_dead_links_dead_anchors_and_requests(tools: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "index.html").write_text('<h2 id="part">x</h2>')
    (tmp_path / "index.html").write_text(
        '<a href="there/">good</a><a href="there/#part">good</a><a href="https://example.org">clicked, not fetched</a>'
        '<a href="gone/">bad</a><a href="there/#other">bad</a><script src="https://cdn.example.org/x.js"></script>'
        '<link rel="stylesheet" href="//fonts.example.org/a.css"><img srcset="https://example.org/a.png 2x" src="a.png">'
    )
    (tmp_path / "a.css").write_text("@import url(https://fonts.example.org/b.css);")
    found = list(tools.problems(tmp_path))
    for word in (
        "gone/",
        "no anchor other",
        "cdn.example.org",
        "//fonts.example.org/a.css",
        "https://example.org/a.png",
        "a.png",
        "a.css requests",
    ):
        assert any(word in line for line in found), word
    assert len(found) == 7


def test_warning_about_a_docstring_is_found(tools: ModuleType) -> None:
    warning = "griffe: src/a.py:3: Parameter 'y' does not appear in the function signature"  # as printed by zensical 0.0.73
    assert tools.warnings_in(f"Build started\n{warning}\nNo issues found\nBuild finished in 1.00s\n") == [warning]
    assert tools.warnings_in("Build started\nNo issues found\nBuild finished in 3s\n") == []
