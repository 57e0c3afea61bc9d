"""Makes the notebooks of the tutorial from its chapters, so that page and notebook have the same content.

    python docs/tutorial/make_notebooks.py

Text becomes text cells, a ```python block a code cell, a ```bash block a code cell of shell lines (!alphabar ...). Other blocks
stay in the text. NAME.ipynb is written next to every NAME.md whose name starts with a digit.
"""

import re
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
_BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->\n?")  # marks the places of figures for make_figures.py


def notebook(chapter: Path) -> nbformat.NotebookNode:
    """The notebook made from a chapter."""
    text = chapter.read_text(encoding="utf-8")
    cells = []

    def add(kind: str, source: str) -> None:
        if source := source.strip("\n"):
            new = nbformat.v4.new_markdown_cell if kind == "text" else nbformat.v4.new_code_cell
            cells.append(new(source, id=f"{chapter.stem[:2]}-{len(cells):02d}"))

    end = 0
    for part in _BLOCK.finditer(text):
        add("text", _text(text[end : part.start()]))
        code = part[2] if part[1] == "python" else "".join(f"!{line}\n" for line in part[2].splitlines() if line)
        add("code", code)
        end = part.end()
    add("text", _text(text[end:]))
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def _text(text: str) -> str:
    """Text for a notebook, with a note on the working directory instead of the link to the notebook."""
    return re.sub(
        r"^\[This chapter as a notebook\]\(.*?\)\n",
        "*Run this notebook in the root folder of the repository.*\n",
        _COMMENT.sub("", text),
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
