"""Builds the documentation site: `make site`, or python docs/build_site.py.

The pages of the repository are copied to build/pages, with docs/home.md as the first page, and zensical builds build/site from
them. Any warning, also one about a docstring, ends the build with status 1. The build downloads nothing, and no page of the site
makes a request to another server.
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
COPIED = (".md", ".ipynb", ".png", ".svg", ".toml")  # types of the files of docs/ that are copied
# elements that make a request when the page opens, and the attribute with the address
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
QUIET = re.compile(r"\s*|Build started|Build finished in .*|No issues found")  # the output of a build without warnings
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def lay_out(pages: Path = PAGES) -> None:
    """Writes the pages of the site to a folder: docs/home.md as index.md, README as start.md, docs/, the results, the changes,
    and one page with all examples."""
    shutil.rmtree(pages, ignore_errors=True)
    for source in (ROOT / "docs").rglob("*"):
        if source.suffix in COPIED and source.is_file() and source.name != "home.md":
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
    # README and examples/ have other addresses on the site
    text = re.sub(r"\]\((\.\./)*README\.md(#[^)]*)?\)", lambda m: f"]({_up(source)}start.md{m[2] or ''})", text)
    text = re.sub(r"\]\((\.\./)*examples/?\)", f"]({_up(source)}examples.md)", text)
    target.write_text(text, encoding="utf-8")


def _up(source: Path) -> str:
    return "../" * (len(source.relative_to(ROOT).parts) - 1)


def build() -> str:
    """Builds the site and returns the output of zensical.

    Raises:
        SystemExit: If the build failed or printed a warning.
    """
    lay_out()
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(ROOT / "zensical.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    output = _COLOUR.sub("", done.stdout + done.stderr)
    if done.returncode or warnings_in(output):
        raise SystemExit(f"the site was not built without warnings:\n{output}")
    return output


def warnings_in(output: str) -> list[str]:
    """The lines of zensical's output that are warnings; --strict misses those about docstrings ("griffe: ...")."""
    return [line for line in output.splitlines() if not QUIET.fullmatch(line)]


class Page(HTMLParser):
    """The links of a page, the addresses that it requests when it opens, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.requested: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {k: v or "" for k, v in attrs}
        self.anchors |= {given[k] for k in ("id", "name") if k in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in FETCHES and given.get(FETCHES[tag]):
            self.requested.append(given[FETCHES[tag]])
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "alternate", "edit"):
            self.requested.append(given.get("href", ""))
        self.requested += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]


def problems(site: Path = SITE) -> Iterator[str]:
    """The problems of a built site: links without a target, and requests to other servers."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.requested:
            if urlsplit(link).scheme in ("http", "https") or link.startswith("//"):
                yield f"{path.relative_to(site)} requests {link}"
        if path.name == "404.html":  # its links are relative to the root of a server
            continue
        for link in [*page.links, *(f for f in page.requested if not f.startswith("data:"))]:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{path.relative_to(site)} links to {link}, which does not exist"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors | {"__skip"}:
                yield f"{path.relative_to(site)} links to {link}: that page has no anchor {parts.fragment}"
    for style in site.rglob("*.css"):
        for link in re.findall(r"(?:url\(|@import\s)[\"']?(?:https?:)?//[^\"')]+", style.read_text(encoding="utf-8")):
            yield f"{style.relative_to(site)} requests {link}"


def main() -> None:
    build()
    found = list(problems())
    print("\n".join([*found, f"{SITE}: {len(list(SITE.rglob('*.html')))} pages"]))
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
