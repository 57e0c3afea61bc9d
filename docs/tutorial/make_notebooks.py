"""The tutorial's notebooks, made from its chapters: what stands on a page and what a notebook runs can never differ.

    python docs/tutorial/make_notebooks.py

Text becomes a cell of text, a ```python block a cell of code, a ```bash block a cell of shell lines (!alphabar ...); blocks
of any other kind stay in the text. Writes NAME.ipynb beside every NAME.md that begins with a digit.
"""

import re
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
_PART = re.compile(r"^```(python|bash)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!--.*?-->\n?")  # of figures, for make_figures.py


def notebook(chapter: Path) -> nbformat.NotebookNode:
    """The notebook of a chapter."""
    text = chapter.read_text(encoding="utf-8")
    cells = []

    def add(kind: str, source: str) -> None:
        if source := source.strip("\n"):
            new = nbformat.v4.new_markdown_cell if kind == "text" else nbformat.v4.new_code_cell
            cells.append(new(source, id=f"{chapter.stem[:2]}-{len(cells):02d}"))

    end = 0
    for part in _PART.finditer(text):
        add("text", _words(text[end : part.start()]))
        code = part[2] if part[1] == "python" else "".join(f"!{line}\n" for line in part[2].splitlines() if line)
        add("code", code)
        end = part.end()
    add("text", _words(text[end:]))
    told = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=told)


def _words(text: str) -> str:
    """Text for a notebook: without the line that leads to it; commands know docs/tutorial from the folder above."""
    return re.sub(
        r"^\[This chapter as a notebook\]\(.*?\)\n",
        "*Run this notebook from the top folder of the repository.*\n",
        _MARK.sub("", text),
        flags=re.MULTILINE,
    )


def chapters() -> list[Path]:
    """The pages that have a notebook."""
    return sorted(HERE.glob("[0-9]*.md"))


def main() -> None:
    for chapter in chapters():
        target = chapter.with_suffix(".ipynb")
        made = notebook(chapter)
        nbformat.validate(made)
        target.write_text(nbformat.writes(made) + "\n", encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main()
