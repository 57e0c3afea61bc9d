"""Draws the figures of the tutorial and writes their captions into the pages.

    python docs/tutorial/make_figures.py noising
    python docs/tutorial/make_figures.py all
    python docs/tutorial/make_figures.py captions
    python docs/tutorial/make_figures.py experiments --experiment experiments     # docs/experiments.md; the folder of all four
    python docs/tutorial/make_figures.py own_images --run runs/emoji              # the run of chapter 10

Draws docs/tutorial/figures/NAME.png, stores its numbers and its caption in NAME.json, and writes both into the page that shows
the figure. Samples are stored in the folder given by --work, so that drawing a figure again needs no sampling.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from figure_parts import Drawn
from figures_of_noise import extractor, noising, range_corruption, schedules
from figures_of_samples import comparing, eta, few_calls, skipping
from figures_of_trainings import experiments, own_images, tracking, trained
from figures_of_use import determinism

from alphabar.core.machine import machine

HERE = Path(__file__).parent
PAGES = (*sorted(HERE.glob("*.md")), HERE.parent / "experiments.md")  # the pages that show figures
RANGE = {"linear_0.02": "input in -1..1", "narrow": "input in -0.5..0.5", "wide": "input in -1..1"}
SCHEDULE = {"linear_0.02": "linear to 0.02", "linear_0.01": "linear to 0.01", "cosine": "cosine"}
FIGURES: dict[str, Callable[..., Drawn]] = {
    "noising": noising,
    "range_corruption": range_corruption,
    "range": trained,
    "schedules": schedules,
    "schedule": trained,
    "extractor": extractor,
    "skipping": skipping,
    "eta": eta,
    "few_calls": few_calls,
    "tracking": tracking,
    "comparing": comparing,
    "own_images": own_images,
    "determinism": determinism,
    "experiments": experiments,
}


def block(name: str, stored: dict[str, Any], page: Path) -> str:
    """The Markdown between the two comments that mark a figure's place in a page."""
    picture = (HERE / "figures" / f"{name}.png").relative_to(page.parent)
    lines = [
        f"<!-- figure: {name} -->",
        f"![{stored['alt']}]({picture.as_posix()})",
        "",
        f"*{stored['caption']}* `{stored['command']}` ({stored['machine']}, {stored['minutes']:.1f} minutes)",
    ]
    return "\n".join([*lines, *(["", stored["table"]] if stored["table"] else []), "<!-- end of figure -->"])


def put(name: str, stored: dict[str, Any]) -> list[Path]:
    """Writes a figure and its caption into the pages that show it. Returns the pages that changed."""
    wrote = []
    for page in PAGES:
        text = page.read_text()
        new = re.sub(
            rf"<!-- figure: {name} -->.*?<!-- end of figure -->",
            lambda _, page=page: block(name, stored, page),  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
        if new != text:
            page.write_text(new)
            wrote.append(page)
    return wrote


def make(name: str, work: Path, experiment: Path, extra: dict[str, Any], shown: str) -> None:
    function = FIGURES[name]
    if name == "range":
        wide = "wide" if (experiment / "rows" / "wide-seed0.json").exists() else "linear_0.02"
        function = partial(
            trained,
            pairs=[("narrow", wide)],
            names={k: v for k, v in RANGE.items() if k in ("narrow", wide)},
            experiment=experiment,
        )
    elif name == "schedule":
        function = partial(
            trained, pairs=[(k, "linear_0.02") for k in ("linear_0.01", "cosine")], names=SCHEDULE, experiment=experiment
        )
    elif name in ("tracking", "experiments"):
        function = partial(function, experiment=experiment)
    start = time.perf_counter()
    made = function(work, **extra)
    target = HERE / "figures" / f"{name}.png"
    target.parent.mkdir(exist_ok=True)
    made.figure.savefig(target, dpi=110, metadata={"Software": None})
    stored = {
        "command": f"python docs/tutorial/make_figures.py {shown}", "alt": made.alt, "caption": made.caption,
        "table": made.table,
        "machine": f"{machine()['cpu']}, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}",
        "minutes": (time.perf_counter() - start) / 60, "numbers": made.numbers,
    }  # fmt: skip
    target.with_suffix(".json").write_text(json.dumps(stored, indent=1) + "\n")
    print(f"{target}: {', '.join(str(p) for p in put(name, stored)) or 'no page changed'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=[*FIGURES, "all", "captions"])
    parser.add_argument("--work", type=Path, default=Path("runs/tutorial"), help="the folder of samples and trainings")
    parser.add_argument(
        "--experiment", type=Path, help="a finished experiment for range, schedule and tracking; default: the short one"
    )
    parser.add_argument("--n", type=int, help="number of images to score")
    parser.add_argument("--run", help="for own_images: a trained run")
    parser.add_argument("--set", help="for noising: another image set, e.g. cifar10")
    given = parser.parse_args()
    if given.figure == "captions":  # writes the stored captions into the pages again
        for path in sorted((HERE / "figures").glob("*.json")):
            put(path.stem, json.loads(path.read_text()))
        return
    experiment = given.experiment or given.work / "short"
    long = {"experiments": given.experiment, "own_images": given.run}  # trainings of an hour or more
    every = [name for name in FIGURES if long.get(name, True)]
    for name in every if given.figure == "all" else [given.figure]:
        extra: dict[str, Any] = {}
        if given.n and name in ("range_corruption", "extractor", "skipping", "eta", "few_calls", "comparing", "determinism"):
            extra["n"] = given.n
        if given.set and name == "noising":
            extra["image_set"] = given.set
        if name == "own_images":
            extra["run"] = given.run or parser.error("own_images needs --run, the folder of a trained run")
        if name in ("range", "schedule", "tracking") and given.experiment is None and not (experiment / "index.html").exists():
            subprocess.run(
                [sys.executable, "-m", "alphabar", "experiment", str(HERE / "short.toml"), "--out", str(experiment)],
                check=True,
            )
        other = given.experiment and name in ("range", "schedule", "tracking", "experiments")
        shown = name + (f" --experiment {given.experiment}" if other else "")
        shown += " --run runs/emoji" if name == "own_images" else ""
        make(name, given.work, experiment, extra, shown + (f" --n {given.n}" if "n" in extra else ""))


if __name__ == "__main__":
    main()
