"""The card of a model on the Hugging Face Hub, made from the records of its run: README.md with the Hub's metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alphabar.core.messages import command, plural, printable
from alphabar.data.image_set import parse_set
from alphabar.data.named_sets import NAMED
from alphabar.denoiser.from_hub import HUB
from alphabar.denoiser.model import Model
from alphabar.denoiser.own_networks import BUILT_IN
from alphabar.evaluation.floor import HALF
from alphabar.evaluation.score import INTERVALS, TITLES, Score
from alphabar.features.extractor import BUNDLED, read_extractor
from alphabar.report.words import count
from alphabar.sampling.fitted import Tuned
from alphabar.schedule.grid import GRIDS, default_grid

TASK = "unconditional-image-generation"  # of the Hub's list
SHEET, EXTRACTOR = "samples.png", "own_extractor.safetensors"  # the second stands for an extractor that does not travel along


@dataclass(frozen=True)
class About:
    """What a card tells.

    Attributes:
        repo: OWNER/NAME.
        license: an identifier of the Hub's list.
        model: the model, as it travels.
        drawn: the words after `alphabar sample RUN` that draw the images of the sheet.
        data: the data.json of the run: name and fingerprint of the training images, and their numbers.
        recipe: whether recipe.toml travels along.
        images_seen: training images that the model has seen, or None.
        scores: of this model and of what was distilled from it.
        fits: fitted samplers that travel along.
        distilled: whether a distilled model travels along.
        extractor: fingerprint of the extractor that travels along, or None.
    """

    repo: str
    license: str
    model: Model
    drawn: Sequence[str]
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe: bool = False
    images_seen: int | None = None
    scores: Sequence[Score] = ()
    fits: Sequence[Tuned] = ()
    distilled: bool = False
    extractor: str | None = None


def model_card(about: About) -> str:
    """The text of README.md: metadata of the Hub between two lines of dashes, then Markdown."""
    from huggingface_hub import ModelCardData

    name = about.repo.partition("/")[2]
    data = ModelCardData(
        license=about.license, library_name="alphabar", pipeline_tag=TASK, tags=["alphabar", "diffusion", "image-generation"],
        model_name=name, eval_results=[_result(s, about) for s in about.scores] or None,
    )  # fmt: skip
    parts = [f"# {name}", _what(about), f"![Images that the model drew]({SHEET})", _use(about), _scores(about), _training(about)]
    return printable(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n")


def _result(score: Score, about: About) -> Any:
    """A score as the Hub's metadata has it."""
    from huggingface_hub import EvalResult

    calls = "" if score.nfe is None else f", {plural(score.nfe, 'network call')}"
    args = {
        "n": score.n, "n_reference": score.n_reference, "extractor": score.extractor, "reference": score.reference,
        "floor": score.floor, "floor_n": score.floor_n, "nfe": score.nfe, "sampler": (score.sampler or {}).get("sampler"),
        "steps": (score.sampler or {}).get("steps"),
        "interval": None if score.interval is None else list(score.interval),
    }  # fmt: skip
    return EvalResult(
        task_type=TASK, dataset_type=_reference(score).partition(":")[0], dataset_name=score.reference_name,
        metric_type=score.metric, metric_name=f"{TITLES.get(score.metric, score.metric)} ({score.n:,} images{calls})",
        metric_value=score.value, metric_args={k: v for k, v in args.items() if v is not None},
    )  # fmt: skip


def _what(about: About) -> str:
    model = about.model
    c, h, w = model.decoded_shape
    size = f"{h - 2 * model.crop} x {w - 2 * model.crop} with {plural(c, 'channel')}, {model.pixels}"
    classes = f", in {plural(model.classes, 'class')} ({', '.join(model.class_names[:20])})" if model.classes else ""
    parameters = sum(p.numel() for p in model.network.parameters())
    kind = "A distilled diffusion model" if model.consistency else "A diffusion model"
    return (
        f"{kind} of images of {size}{classes}: {parameters / 1e6:.1f} million parameters, fingerprint `{model.fingerprint}`. "
        "Trained and measured with alphabar."
    )


def _use(about: About) -> str:
    address = HUB + about.repo
    lines = [command("alphabar", "sample", address, *about.drawn, "--out", "drawn.npz")]
    if about.distilled:
        lines.append(command("alphabar", "sample", address, "--sampler", "distilled", "--steps", 2, "--out", "two.npz"))
    model = about.model
    classes = ', classes="all"' if model.classes else ""
    python = [
        "import alphabar",
        "",
        f'model = alphabar.load_model("{address}")',
        f"samples = alphabar.sample(model, 16{classes})",
    ]
    parts = ["## Draw images", "The first command draws the images above; the same seed gives the same images."]
    parts += [_code("bash", lines), _code("python", python)]
    if model.classes:
        parts.append(f"Images of one class alone: `{command('--classes', model.class_names[0])}`.")
    if about.fits:
        calls = ", ".join(str(f.calls) for f in about.fits)
        parts.append(
            f"Samplers that were fitted to it, of {calls} network calls: `--sampler tuned --steps {about.fits[0].calls}`."
        )
    if about.extractor:
        parts.append(f"The extractor `{about.extractor}` travels along: `--extractor {address}`.")
    if (own := model.spec["network"]) not in BUILT_IN:
        parts.append(f"The network {own!r} is not part of alphabar: call `alphabar.register_network({own!r}, ...)` first.")
    return "\n\n".join(parts)


def _scores(about: About) -> str:
    if not about.scores:
        return "## Scores\n\nThis model was not scored."
    groups: dict[tuple[Any, ...], list[Score]] = {}
    for s in about.scores:
        groups.setdefault((s.extractor, s.reference, s.n, way_drawn(s), str(s.seeds)), []).append(s)
    parts = [
        "## Scores",
        "In brackets: 95 % intervals. The floor is the score of as many real images, which a perfect model has.",
    ]
    for scores in groups.values():
        first = scores[0]
        of = "" if (first.sampler or {}).get("model") == about.model.fingerprint else " of the distilled model"
        floors = ["–" if s.floor is None else f"{s.floor:.4g}" for s in scores]
        rows = [f"| {TITLES.get(s.metric, s.metric)} | {s.estimate} | {f} |" for s, f in zip(scores, floors, strict=True)]
        parts += [
            f"{first.n:,} images{of}{_drawn_in_words(first, about.model)}, against {first.n_reference:,} real images, "
            f"{first.reference_name} (`{first.reference}`); features of the extractor `{first.extractor}`:",
            "\n".join(["| metric | value | floor |", "|---|---|---|", *rows]),
        ]
        if (lines := _again(first, about)) is not None:
            parts.append(_code("bash", lines))
            if EXTRACTOR in lines[-1]:
                parts.append(
                    f"`{EXTRACTOR}` stands for the file of the extractor `{first.extractor}`, which is not part of this model."
                )
    meant = dict.fromkeys(
        f"{TITLES[s.metric]}: {INTERVALS[s.metric]}" for s in about.scores if s.metric in INTERVALS and s.interval
    )
    return "\n\n".join([*parts, *(["What the intervals are for: " + "; ".join(meant) + "."] if meant else [])])


def way_drawn(score: Score) -> str:
    """What tells apart how the images of two scores were drawn: every option but the seed."""
    made = {k: v for k, v in (score.sampler or {}).items() if k not in ("calls", "source", "seconds_per_image")}
    return str((score.nfe, sorted(made.items())))


def _drawn_in_words(score: Score, model: Model) -> str:
    """How the images of a score were drawn, as words after their number."""
    made = score.sampler or {}
    tuned = made.get("tuned") or {}
    sampler = f"fitted sampler {tuned['name']}" if tuned else f"sampler {made['sampler']}" if made.get("sampler") else ""
    parts = [sampler, "" if score.nfe is None else f"{plural(score.nfe, 'network call')} an image"]
    if made.get("classes"):
        names = _class_words(made["classes"], model)
        parts.append(("all classes" if names == ["all"] else ", ".join(names)) + (" in turn" if len(made["classes"]) > 1 else ""))
    if made.get("guidance") not in (None, 1):
        parts.append(f"guidance {made['guidance']:g}")
    return "".join(f", {part}" for part in parts if part)


def _class_words(classes: Sequence[int], model: Model) -> list[str]:
    """Classes as `--classes` takes them."""
    return ["all"] if [*classes] == [*range(model.classes)] else [model.class_names[int(k)] for k in classes]


def _reference(score: Score) -> str:
    """SET:SPLIT of the real images, of which a half may have been the reference."""
    return score.reference_name.removeprefix(HALF)


def _drawing(score: Score, model: Model) -> list[str] | None:
    """The options of `alphabar sample` that draw the images of a score; None where its record has options that are not typed
    here, or does not tell the classes."""
    made, seeds = score.sampler or {}, score.seeds or {}
    tuned, more = made.get("tuned") or {}, made.get("options") or {}
    other = ["variance", *([] if tuned else ["clip", "threshold"])]
    if not made.get("sampler") or seeds.get("first_index") or any(made.get(k) for k in other):
        return None
    if (model.classes and not made.get("classes")) or any(type(v) not in (int, float, str) for v in more.values()):
        return None
    sampler = f"tuned:{tuned['name']}" if tuned else str(made["sampler"])
    words = ["--n", str(score.n), "--sampler", sampler, "--steps", str(made.get("steps")), "--seed", str(seeds.get("seed", 0))]
    words += ["--eta", f"{made['eta']:g}"] if made.get("eta") else []
    words += ["--plan", str(made["plan"])] if made.get("plan") not in (None, "full") else []
    words += ["--classes", *_class_words(made["classes"], model)] if model.classes else []
    words += ["--guidance", f"{made['guidance']:g}"] if made.get("guidance") not in (None, 1) else []
    words += ["--guidance-interval", *(f"{v:g}" for v in made["guidance_interval"])] if made.get("guidance_interval") else []
    words += ["--precision", str(made["precision"])] if made.get("precision") else []
    words += [word for name, value in more.items() for word in (f"--options.{name}", str(value))]
    if tuned or (grid := str(made.get("grid_name"))) == default_grid(model.schedule) or model.consistency:
        return words
    return [*words, "--grid", grid] if grid in GRIDS else None


def _again(score: Score, about: About) -> list[str] | None:
    """The commands that measure a score again, where all of it can be typed."""
    words, address, against = _drawing(score, about.model), HUB + about.repo, _reference(score)
    if words is None or " " in against:
        return None
    if against != score.reference_name and parse_set(against)[0] in NAMED and parse_set(against)[1] == "test":
        against = f"./{against}"  # a folder of that name, of which a half is the reference; of the named set it would be all
    extractor = ["--extractor", address if about.extractor == score.extractor else EXTRACTOR]
    if score.extractor == read_extractor(BUNDLED).fingerprint:
        extractor = []
    if (score.sampler or {}).get("model") != about.model.fingerprint:  # by what was distilled from it
        words = ["distilled" if before == "--sampler" else word for before, word in zip(["", *words], words, strict=False)]
    return [
        command("alphabar", "sample", address, *words, "--out", "scored.npz"),
        command("alphabar", "score", "scored.npz", "--against", against, *extractor),
    ]


def _training(about: About) -> str:
    data = about.data
    parts = ["## Training"]
    if data.get("fingerprint"):
        held = f", {count(data.get('held_out'))} more held out" if data.get("held_out") else ""
        parts.append(
            f"Trained on {count(data.get('images'))} images of {data.get('set')}{held}, fingerprint `{data['fingerprint']}`."
        )
    if about.images_seen:
        parts.append(f"The training has seen {about.images_seen:,} images, repetitions included.")
    if about.recipe:
        name = str(data.get("set") or "SET")
        parts.append(f"With `recipe.toml` of this model, and `{name}` for such images of yours:")
        parts.append(_code("bash", [command("alphabar", "train", name, "--recipe", "recipe.toml", "--out", "runs/again")]))
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _code(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])
