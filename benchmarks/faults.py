"""Runs a folder of small inputs that once failed, and prints what each gives today: `python benchmarks/faults.py FOLDER`.

A case is a folder with run.sh, which makes its input and runs `alphabar` in its own work/. Each is copied to a temporary folder,
which also is its home, and run with the alphabar of this source tree. What is right stands here, in CASES, by the number that the
case's name begins with; a case without a line in it counts as wrong. The exit status is the number of wrong cases.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
_STARTED = "until [ -s {0}/events.jsonl ] || ! kill -0 $!; do sleep 0.2; done; sleep 0.5"
CHANGES = {  # names since the cases were written, and what takes long: a training is stopped once it has begun, on any machine
    "from alphabar.cli import main\n": "from alphabar.cli.main import main\n",
    "-m alphabar.cli ": "-m alphabar ",
    "--out run --images 4000 & p=$!; sleep 7": f"--out run --images 4000 & p=$!; {_STARTED.format('run')}",
    '--out "my run2" --images 100000 2>&1 & sleep 7': f'--out "my run2" --images 100000 2>&1 & {_STARTED.format("my?run2")}',
    "score g.npz --against r.npz 2>": "score g.npz --against r.npz --metrics fid 2>",  # without it, FID alone is left out
    "for v in 5.0.0 5.2.0 5.3.0": "for v in",  # what the metadata say is enough
    "; classes=[0.5] is', alphabar": "; '); print('classes=[0.5] is', alphabar",  # apart, since it is refused
    "alphabar.data.sources import": "alphabar.data.image_set import",
}


@dataclass(frozen=True)
class Result:
    """What a case printed, and the folder that it worked in."""

    out: str
    work: Path
    seconds: float

    def has(self, pattern: str, times: int = 1) -> bool:
        """Whether the pattern stands at least so many times in what was printed; ^ and $ are those of a line."""
        return len(re.findall(pattern, self.out, re.MULTILINE)) >= times

    def after(self, label: str) -> str:
        """The rest of the line that begins with `label`."""
        found = re.search(rf"^{re.escape(label)}(.*)$", self.out, re.MULTILINE)
        return found[1].strip() if found else ""

    def classes(self, label: str) -> list[int] | None:
        """The sizes of the classes in the line that begins with `label`; None where it holds none."""
        found = re.search(r"\{.*\}", self.after(label))
        return list(ast.literal_eval(found[0]).values()) if found else None

    def checkpoint(self, run: str) -> bool:
        return (self.work / run / "checkpoints" / "last").exists()


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"[\d.e+-]+", text) else float("nan")


def _labels(r: Result) -> bool:
    named = ("int64", "uint8", "string", "dictionary", "named_labels", "polars", "hf")
    return all(r.classes(f"{name}: ") == [2, 2, 2] for name in named) and r.classes("npz: ") == [1] * 6 and r.checkpoint("run")


def _unchanged(r: Result) -> bool:
    before, _, after = r.out.partition("rc 2\n")
    return bool(before) and before in after and "(50, " in after


def _refused_starts(r: Result) -> bool:
    """Wrong numbers are refused without a folder, so that the corrected command trains."""
    refused = all(
        re.search(rf"^{re.escape(o)} rc 2$", r.out, re.MULTILINE) for o in ("--train.batch -4", "--images 0", "--images -5")
    )
    return refused and r.checkpoint("run") and r.checkpoint("lr") and r.out.splitlines()[-1:] == ["1"]  # "finished" in run alone


def _two_processes(r: Result) -> bool:
    """Every round ends with samples; where one of its two processes was refused, a message says why."""
    codes = re.findall(r"process \d rc (\d+)", r.out)
    rounds = [codes[k : k + 2] for k in range(0, 6, 2)]
    messages = [line for line in r.out.splitlines() if line.startswith("alphabar:")]
    return all("0" in c and set(c) <= {"0", "2"} for c in rounds) and all("process" in line for line in messages)


def _messages(r: Result) -> bool:
    return (
        r.has(r"700 (real|reference)") and not r.has(r"350") and not r.has(r"^alphabar: .*curve.*(use|take) KID alone")
        and r.has(r"foo.*\b(last|best)\b") and not r.has(r"--resume.*--out my run2|train my photos")
        and r.has(r"^rc 2$", 2) and r.has(r"^0\.1\.0$", 2)
    )  # fmt: skip


CASES: dict[str, tuple[str, Callable[[Result], bool]]] = {
    "01": ("139 held out, 161 trained on for every spelling", lambda r: r.has(r"139 161", 5)),
    "02": ("resumes wherever the images are", lambda r: not re.search(r"^alphabar:", r.out.partition("--- ")[2], re.MULTILINE)),
    "04": ("11 images, cat 6, dog 5", lambda r: r.has(r"^11 \{'cat': 6, 'dog': 5\}")),
    "05": ("8 or 9 images", lambda r: r.has(r"^[89]$")),
    "06": ("3 classes of 2 everywhere", _labels),
    "07": (
        "8 training images of a and b, 6 test images",
        lambda r: r.has(r"^8 \{'a': \d, 'b': \d\}") and not r.has("^alphabar:"),
    ),
    "08": ("dataset.json and metadata.csv", lambda r: r.has(r"^\{'0': 3, '1': 3\}") and r.has(r"^\{'cat': 2, 'dog': 1\}")),
    "09": ("nothing is overwritten", _unchanged),
    "11": ("rc 0 and a checkpoint", lambda r: r.has(r"^rc 0$") and r.has(r"^last$")),
    "12": ("the rate of the recipe is reached", lambda r: _number(r.after("highest rate ")) >= 0.95 * _number(r.after("lr = "))),
    "13": ("refused before a folder is made", _refused_starts),
    "14": ("cyclopts>=5.3 in the metadata", lambda r: "cyclopts>=5.3" in (SOURCE.parent / "pyproject.toml").read_text()),
    "15": ("a.png is converted to sRGB", lambda r: r.has(r"alphabar \[ *10 250 +10\]")),
    "17": ("what to do, in one line", lambda r: r.has("^alphabar: ", 5) and r.has("--batch|accumulate") and not r.has("Error:")),
    "18": ("one line that names the file", lambda r: r.has(r"^alphabar: .*damaged\.npz") and r.has(r"^alphabar: .*zero\.npz")),
    "19": (
        "names in full",
        lambda r: all(n in r.out for n in ("tabby [new]", "tabby [old]", "photos [final]")) and "Markup" not in r.out,
    ),
    "21": ("read, or the file is named", lambda r: r.has(r"^rc 0$") or (r.has(r"caf") and not r.has("surrogates"))),
    "22": ("~ is the home", lambda r: (r.work.parents[1] / "tilde_case.npz").exists() and not r.has(r"^\./~|at ~/")),
    "23": (
        "0 and 0.5 are refused, numeric order",
        lambda r: r.has(r"--classes 0: .*(Error|$)") and r.has("Python is 2 ;") and r.has("ValueError: class 0.5"),
    ),
    "25": ("trains", lambda r: (r.work / "e.safetensors").exists()),
    "26": ("no standard error: null", lambda r: r.has(r'^"se": null') and not r.has(r"(?i)\bnan\b")),
    "28": ("numbers and words that the user typed", _messages),
    "29": ("the second process gets a message", _two_processes),
    "30": ("a table in every encoding", lambda r: r.has(r"^rc 0$", 2)),
}


def run(case: Path, timeout: float) -> Result:
    """Runs a copy of the case, which is kept in a temporary folder until the process ends."""
    home = Path(tempfile.mkdtemp(prefix="case-"))
    copy = home / case.name
    shutil.copytree(case, copy)
    script = (copy / "run.sh").read_text()
    for old, new in CHANGES.items():
        script = script.replace(old, new)
    (copy / "run.sh").write_text(script)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(home), "PATH": path, "PYTHONPATH": str(SOURCE)}
    start = time.monotonic()
    with (home / "out.txt").open("wb") as out:
        try:
            subprocess.run(["bash", "run.sh"], cwd=copy, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=timeout)
        except subprocess.TimeoutExpired:
            out.write(b"\nstopped: it took too long\n")
    return Result((home / "out.txt").read_text(errors="replace"), copy / "work", time.monotonic() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", help="numbers of cases; all by default")
    parser.add_argument("--timeout", type=float, default=900, help="seconds of one case, whose commands each load torch")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases that run at once; all processors by default")
    parser.add_argument("--show", action="store_true", help="print what the wrong cases printed")
    options = parser.parse_args()
    found = sorted(p for p in options.folder.iterdir() if (p / "run.sh").exists())
    cases = [c for c in found if not options.cases or c.name[:2] in options.cases]
    wrong = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for case, result in zip(cases, pool.map(lambda c: run(c, options.timeout), cases), strict=True):
            right, is_right = CASES.get(case.name[:2], ("unknown", lambda r: False))
            good = is_right(result)
            wrong += not good
            print(f"{case.name:32} {right:52} {'right' if good else 'WRONG'} {result.seconds:4.0f} s", flush=True)
            if options.show and not good:
                print(result.out)
            shutil.rmtree(result.work.parents[1])
    print(f"{wrong} of {len(cases)} wrong")
    return min(wrong, 100)


if __name__ == "__main__":
    sys.exit(main())
