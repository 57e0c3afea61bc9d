"""The documentation as a site: `make site`, or python docs/build_site.py.

The pages lie where the repository has them, so that they read well there too. They are copied to build/pages with docs/home.md as
the first page, and zensical builds build/site from them. A warning of any kind, a docstring's too, ends it with status 1. Nothing
is fetched, and no page that is made asks the network for anything.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
KEPT = (".md", ".ipynb", ".png", ".svg", ".toml")  # of docs/
# what a page may do to the network by itself: these elements fetch, a link that is clicked does not
FETCHES = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "audio": "src",
    "video": "src",
    "embed": "src",
    "object": "data",
}
QUIET = re.compile(r"\s*|Build started|Build finished in .*|No issues found")  # all that a build without a warning says
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def lay_out(pages: Path = PAGES) -> None:
    """Writes the pages of the site to a folder: docs/home.md as index.md, README as start.md, docs/, the results, the changes,
    and the examples on one page."""
    shutil.rmtree(pages, ignore_errors=True)
    for source in (ROOT / "docs").rglob("*"):
        if source.suffix in KEPT and source.is_file() and source.name != "home.md":
            _copy(source, pages / source.relative_to(ROOT))
    for name in ("CHANGELOG.md", "benchmarks/RESULTS.md"):
        _copy(ROOT / name, pages / name)
    _copy(ROOT / "README.md", pages / "start.md")
    home = (ROOT / "docs" / "home.md").read_text(encoding="utf-8")
    home = re.sub(r"\]\((?!\.\./|https?:)", "](docs/", home).replace("](../README.md", "](start.md").replace("](../", "](")
    (pages / "index.md").write_text(home, encoding="utf-8")
    lines = ["# Examples", "", "Short scripts, each under 60 lines, run by the tests."]
    for script in sorted((ROOT / "examples").glob("*.py")):
        lines += ["", f"## {script.name}", "", "```python", script.read_text(encoding="utf-8").rstrip(), "```"]
    (pages / "examples.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".md":
        shutil.copyfile(source, target)
        return
    text = source.read_text(encoding="utf-8")
    # two links whose target has another place on the site
    text = re.sub(r"\]\((\.\./)*README\.md(#[^)]*)?\)", lambda m: f"]({_up(source)}start.md{m[2] or ''})", text)
    text = re.sub(r"\]\((\.\./)*examples/?\)", f"]({_up(source)}examples.md)", text)
    target.write_text(text, encoding="utf-8")


def _up(source: Path) -> str:
    return "../" * (len(source.relative_to(ROOT).parts) - 1)


def build() -> str:
    """Builds the site and returns what zensical said. Raises SystemExit where it warned."""
    lay_out()
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(ROOT / "zensical.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = _COLOUR.sub("", done.stdout + done.stderr)
    if done.returncode or warnings_in(said):
        raise SystemExit(f"the site was not built without warnings:\n{said}")
    return said


def warnings_in(said: str) -> list[str]:
    """The lines of zensical's output that say more than that all is well; --strict misses docstrings' ("griffe: ...")."""
    return [line for line in said.splitlines() if not QUIET.fullmatch(line)]


class Page(HTMLParser):
    """What a page links to, what it fetches, and the names that can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {k: v or "" for k, v in attrs}
        self.names |= {told[k] for k in ("id", "name") if k in told}
        if tag == "a" and "href" in told:
            self.links.append(told["href"])
        if tag in FETCHES and told.get(FETCHES[tag]):
            self.fetched.append(told[FETCHES[tag]])
        if tag == "link" and told.get("rel") not in ("canonical", "prev", "next", "alternate", "edit"):
            self.fetched.append(told.get("href", ""))
        self.fetched += [part.split()[0] for part in told.get("srcset", "").split(",") if part.strip()]


def problems(site: Path = SITE) -> Iterator[str]:
    """What is wrong with a built site: links that lead nowhere, and pages that ask the network."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.fetched:
            if urlsplit(link).scheme in ("http", "https") or link.startswith("//"):
                yield f"{path.relative_to(site)} fetches {link}"
        if path.name == "404.html":  # its links are meant from the top of a server
            continue
        for link in [*page.links, *(f for f in page.fetched if not f.startswith("data:"))]:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{path.relative_to(site)} links to {link}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].names | {"__skip"}:
                yield f"{path.relative_to(site)} links to {link}: that page has no {parts.fragment}"
    for style in site.rglob("*.css"):
        for link in re.findall(r"(?:url\(|@import\s)[\"']?(?:https?:)?//[^\"')]+", style.read_text(encoding="utf-8")):
            yield f"{style.relative_to(site)} fetches {link}"


def main() -> None:
    build()
    found = list(problems())
    print("\n".join([*found, f"{SITE}: {len(list(SITE.rglob('*.html')))} pages"]))
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
