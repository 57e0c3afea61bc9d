"""The site builds without a warning, every link in it leads somewhere, and no page asks the network."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tools() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(nav: list[dict[str, object]]) -> list[str]:
    """The paths in a nav, from all its levels."""
    found = []
    for entry in nav:
        for value in entry.values():
            found += [value] if isinstance(value, str) else pages(value)  # type: ignore[arg-type]
    return found


def test_the_site_builds_and_leads_nowhere_wrong(tools: ModuleType) -> None:
    said = tools.build()
    assert "No issues found" in said
    assert not list(tools.problems())
    built = {p.parent.relative_to(tools.SITE).as_posix() for p in tools.SITE.rglob("index.html")}
    assert {"docs/tutorial", "docs/scores", "docs/api", "benchmarks/RESULTS"} <= built
    api = (tools.SITE / "docs" / "api" / "index.html").read_text()
    for name in ("Samples", "ImageEval", "load_extractor", "train_extractor", "sweep"):
        assert re.search(rf'id="alphabar\.[\w.]*\.{name}"', api), name


def test_the_nav_knows_every_page(tools: ModuleType) -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text())
    there = {p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")}
    there.remove("docs/home.md")  # which is index.md
    outside = {"index.md", "start.md", "examples.md", "benchmarks/RESULTS.md", "CHANGELOG.md"}
    assert set(pages(config["project"]["nav"])) == there | outside


def test_every_public_name_is_on_the_page_of_the_interface() -> None:
    import alphabar

    told = re.findall(r"^::: alphabar\.([\w.]+)\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert {name: module for module, name in told} == alphabar._WHERE


def test_a_dead_link_a_dead_name_and_a_call_home_are_found(tools: ModuleType, tmp_path: Path) -> None:
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
        "no other",
        "cdn.example.org",
        "//fonts.example.org/a.css",
        "https://example.org/a.png",
        "a.png",
        "a.css fetches",
    ):
        assert any(word in line for line in found), word
    assert len(found) == 7


def test_a_warning_of_a_docstring_is_seen(tools: ModuleType) -> None:
    warning = "griffe: src/a.py:3: Parameter 'y' does not appear in the function signature"  # as zensical 0.0.73 says it
    assert tools.warnings_in(f"Build started\n{warning}\nNo issues found\nBuild finished in 1.00s\n") == [warning]
    assert tools.warnings_in("Build started\nNo issues found\nBuild finished in 3s\n") == []
