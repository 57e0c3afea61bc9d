"""Commands that messages and pages suggest can be pasted, whatever the names in them hold."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from alphabar.denoiser.from_diffusers import read_diffusers
from alphabar.sampling.sample_set import open_samples
from alphabar.sampling.samples import Samples

PACKAGE = Path(__file__).parents[2] / "src" / "alphabar"
PROGRAM = re.compile(r"(?:^|[`\s:])(?:alphabar (?!has )[a-z]+ |hf |pip |wandb |mlflow |tensorboard )")
PLAIN = re.compile(r"(--calls|--port|--n) $|alphabar\[$")  # before a number, or the name of an extra
OWN = ("known.repo", "folder", "FORMAT")  # values that the package holds itself


def unquoted(text: str, parts: list[ast.expr]) -> Iterator[str]:
    """The values, \\0 in the text, that stand in a command unquoted. A command ends at a backtick or a sign of a sentence."""
    for found in PROGRAM.finditer(text):
        words = re.split(r"[`;,:(]|\. ", text[found.end() :])[0]
        for place in re.finditer("\0", words):
            value = ast.unparse(parts[text[: found.end() + place.start()].count("\0")])
            if not PLAIN.search(words[: place.start()]) and value not in OWN:
                yield value


def test_no_command_of_a_message_holds_a_name_that_is_not_quoted() -> None:
    bad = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value for v in node.values if isinstance(v, ast.FormattedValue)]
                text = "".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)
                bad += [f"{file.name}:{node.lineno}: {what}" for what in unquoted(text, parts) if "quote" not in what]
    for file in PACKAGE.rglob("*.j2"):
        bad += [f"{file.name}: {words}" for words in re.findall(r"<code>alphabar [^<]*\{\{[^<]*", file.read_text())]
    assert bad == []


def test_a_name_that_is_not_quoted_is_found() -> None:
    source = 'f"make some with `alphabar sample {run} --calls {n} --out {path}`, or take {one}"'
    node = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.JoinedStr))
    parts = [v.value for v in node.values if isinstance(v, ast.FormattedValue)]
    joined = "".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values)
    assert list(unquoted(joined, parts)) == ["run", "path"]


def test_suggested_commands_quote_their_paths(tmp_path: Path) -> None:
    odd = tmp_path / "my [best] run"
    with pytest.raises(FileNotFoundError, match=r"`alphabar sample RUN --out '.*my \[best\] run'`"):
        Samples.load(odd)
    with pytest.raises(FileNotFoundError, match=r"`hf download OWNER/NAME --local-dir '.*my \[best\] run'`"):
        read_diffusers(odd)
    weights = tmp_path / "my weights.safetensors"
    weights.touch()
    with pytest.raises(ValueError, match=r"`alphabar sample '.*my weights.safetensors' --out PATH`"):
        open_samples(f"{weights}[0:5]")
