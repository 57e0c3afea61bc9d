"""The commands that train: `alphabar train` and `alphabar experiment`."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from alphabar.cli import show
from alphabar.cli.options import Flat, Json, Reading
from alphabar.core.bounds import Count, Positive, Seed
from alphabar.core.messages import command, console, say
from alphabar.core.suggest import did_you_mean
from alphabar.verbs.options import ExperimentOptions

RECIPES = ", ".join(sorted(p.stem for p in (Path(__file__).parents[1] / "recipes").glob("*.toml")))
Recipes = Annotated[str | None, Parameter(help=f"auto (the default, planned for the set), {RECIPES}, or a TOML file.")]


@Parameter(name="*")
@dataclass(frozen=True)
class ReadingOfRecipe(Reading):
    """How images are read, in place of the recipe's keys [data] range, alpha, skip_broken, axes, size and fit."""

    alpha: str = ""
    """Transparent images: refuse, keep (one more channel), or the background: white, black, R,G,B."""

    def settings(self) -> list[str]:
        """The same as keys of the recipe on the command line."""
        found = [] if self.value_range is None else ["--data.range", *map(str, self.value_range)]
        found += ["--data.alpha", self.alpha] if self.alpha else []
        found += ["--data.skip-broken"] if self.skip_broken else []
        named = {"axes": self.axes, "size": self.size, "fit": self.fit}
        return found + [token for key, value in named.items() if value for token in (f"--data.{key}", value)]


def train(
    image_set: str,
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    out: Path,
    recipe: Recipes = None,
    images: Count | None = None,
    minutes: Positive | None = None,
    seed: Seed | None = None,
    resume: bool = False,
    early_stop: bool | None = None,
    dry_run: bool = False,
    reading: ReadingOfRecipe = ReadingOfRecipe(),
) -> None:
    """Train a model on a set, into a run folder; previews, held-out loss and FID appear during training.

    ```
    alphabar train photos/ --out runs/photos --minutes 60
    alphabar train fashion_mnist --recipe garments --out runs/garments --train.lr 1e-3
    ```

    Without --recipe, the recipe is planned for the set and this machine, and printed: the network by the size of the images, the
    length by their number, --images or --minutes, the precision by measured speed. Every key of a recipe can be set as
    --section.key VALUE; --dry-run prints them all, and what the run costs here. Ctrl-C stops with a checkpoint, and the same
    command with --resume continues from it: with the run's recipe, of which only [watch], track and the length may be changed,
    and with its images, wherever they are now.

    Args:
        image_set: fashion_mnist, cifar10, a path, or hf:owner/name.
        out: the run folder.
        images: length of the training in images seen, in place of the recipe's; with --resume the new length of the whole
            training, also of a finished one.
        minutes: length in minutes on this machine, of a run without --recipe or, with --resume, of the whole training.
        seed: in place of the recipe's.
        resume: continue from the run's last checkpoint; what is not named here comes from the run.
        early_stop: end at the best checkpoint once the held-out loss has turned or samples are copies of training images; on
            in a planned run. With --resume, --no-early-stop goes on with a run that ended so.
        dry_run: print the plan, the cost, what the run can be exported to and the resolved recipe, and train nothing.
    """
    from alphabar.core import processes
    from alphabar.core.run import Run
    from alphabar.training.auto import AutoRecipe, measured
    from alphabar.training.config import typed
    from alphabar.training.initial_model import cost, untrained_model
    from alphabar.verbs.export import exports
    from alphabar.verbs.train import recipe_images, watching
    from alphabar.verbs.train import train as train_run
    from alphabar.verbs.train_images import recipe_for

    _check_options(tokens)
    named = ["--data.set", image_set]  # typed twice, it may stand only once
    settings = [*tokens, *([] if named in map(list, pairwise(tokens)) else named), *reading.settings()]
    settings += [] if images is None else ["--train.images", str(images)]
    settings += [] if early_stop is None else [f"--train.{'' if early_stop else 'no-'}early-stop"]
    settings += [] if seed is None else ["--train.seed", str(seed)]
    if minutes is not None and recipe not in (None, "auto") and not resume:
        raise ValueError(f"--minutes {minutes:g} is for a planned run, and --recipe {recipe} has a length: give --images N")
    chosen = recipe_for(out, recipe, keys := typed(settings), minutes=minutes, resume=resume)
    plan, resolved = (chosen, chosen.recipe) if isinstance(chosen, AutoRecipe) else (None, chosen)
    if dry_run and plan is None:
        plan = measured(resolved, recipe_images(resolved))
    if plan is not None and processes.world()[0] == 0:
        say("\n".join(plan.lines()))
    if dry_run and plan is not None:
        say("\n".join(watching(resolved, resolved, plan.images, Run(out), resume)[1]))
        here = {"hours_here": plan.seconds / 3600, "gib_here": plan.speeds[0].mib / 1024}
        show.record(cost(resolved, plan.images) | here, False, "cost")
        say("\n".join(exports(untrained_model(resolved, plan.images))))
        say(resolved.toml())
        show.without_dry_run()
        return
    new_length = resume and "images" in keys.get("train", {})
    again = command("alphabar", "train", image_set, "--out", out, "--resume", *["--no-early-stop"] * (early_stop is False))
    with show.stopped_by_ctrl_c("{}\ncontinue with: " + again):
        train_run(plan or resolved, out, resume=resume, new_length=new_length, minutes=minutes if resume else None)
    if processes.world()[0] == 0:
        show.hint("sample", out, "--n", 64, "--out", f"{out.name}.npz")


def _check_options(tokens: tuple[str, ...]) -> None:
    """Raises ValueError for an option that is neither a key of the recipe nor an option of the command, naming the nearest."""
    own = App(default_command=train, default_parameter=Parameter(negative=())).assemble_argument_collection()
    known = [name for argument in own for name in argument.names if name.startswith("--")]
    for token in tokens:
        name = token.partition("=")[0]
        if name.startswith("--") and "." not in name and name not in ("--", "--track"):
            near = did_you_mean(name, [*known, "--track", "--help"], 0.6)
            raise ValueError(f"{name} is no option of alphabar train (keys of the recipe are written --section.key): {near}")


def recipes(*, as_json: Json = False) -> None:
    """List the recipes: the purpose of each, the size of its network, and how long it takes on this machine.

    ```
    alphabar recipes
    ```

    Without --recipe, `alphabar train` plans one for the set and this machine. The times follow from a few training
    steps of each recipe, measured now.
    """
    from alphabar.core.progress import duration
    from alphabar.training.auto import shipped_recipes

    found = shipped_recipes()
    if as_json:
        show.as_json_line(found)
        return
    rows = [
        (r["name"], r["purpose"], f"{r['parameters'] / 1e6:.1f} M", f"{r['images']:,}", duration(r["seconds"])) for r in found
    ]
    show.table(("recipe", "purpose", "parameters", "images", "here, about"), rows, "recipes, for `alphabar train --recipe NAME`")
    show.hint("train", "SET", "--recipe", rows[-1][0], "--out", f"runs/{rows[-1][0]}")


def experiment(
    file: str, *, out: Path, options: Flat[ExperimentOptions] = ExperimentOptions(), dry_run: bool = False, as_json: Json = False
) -> None:
    """Decide a hypothesis by training: variants of a recipe, several seeds, one budget for all, and a verdict with intervals.

    ```
    alphabar experiment range --out experiments/range
    alphabar experiment mine.toml --out experiments/mine --dry-run
    ```

    FILE is TOML: hypothesis (words), better and than (names of variants), seeds, [budget] images or minutes,
    [variants.NAME] with recipe keys, and optionally recipe, metric and [scoring]. Those that ship: range, schedule,
    prediction, average. The same command resumes an experiment that was stopped or killed.

    Args:
        file: a TOML file, or the name of an experiment that ships.
        out: folder for the runs, their scores, and the page index.html.
        dry_run: say what would be trained, sampled and scored, and stop; with --json the resolved experiment.
    """
    from alphabar.core.files import json_text
    from alphabar.results.experiments import read_experiment

    definition = read_experiment(file)
    if dry_run:
        say(json_text(definition.to_json()) if as_json else "\n".join(definition.lines()))
        if not as_json:
            show.without_dry_run()
        return
    from alphabar.report.experiment_page import experiment_table
    from alphabar.verbs.experiment import experiment as run_experiment

    with show.stopped_by_ctrl_c("{}; the same command resumes the experiment"):
        outcome = run_experiment(definition, out, options=options, progress=not as_json)
    if as_json:
        show.as_json_line(outcome.to_json())
        return
    console().print(experiment_table(outcome))
    say(f"{outcome.verdict}: {outcome.words}\npage: {outcome.page}")
    show.hint("report", out)
