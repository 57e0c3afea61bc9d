"""`push`: a run on the Hugging Face Hub, with a card made from its records. `hf:OWNER/NAME` then stands for it."""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from alphabar.core.files import append_jsonl, plain, read_jsonl, write_atomically, write_json
from alphabar.core.machine import best_device
from alphabar.core.messages import as_path, command, plural, say
from alphabar.core.options import takes
from alphabar.core.outputs import check_folder, save_picture
from alphabar.core.places import check_not_private, private_words, without_places
from alphabar.core.run import DISTILLED, Run
from alphabar.core.stored_values import naming, read_object
from alphabar.data.contact_sheet import contact_sheet, screen_scale
from alphabar.data.latents import AUTOENCODER
from alphabar.denoiser.from_hub import EXTRACTOR, FILE, HUB, WEIGHTS, check_repo, hub_api, hub_errors, local_run
from alphabar.denoiser.model import Model, save_weights
from alphabar.evaluation.score import Score
from alphabar.features.extractor import BUNDLED as BUNDLED_EXTRACTOR
from alphabar.features.extractor import read_extractor
from alphabar.report.model_card import SHEET, About, model_card, way_drawn
from alphabar.sampling.fitted import all_tuned, folders_of, save_tuned
from alphabar.sampling.guidance import every_class
from alphabar.sampling.sample import sample
from alphabar.training.checkpoint import BUNDLED_FILES, find_checkpoint, load_model, read_state
from alphabar.verbs.extractor import AUTO
from alphabar.verbs.extractor import FILE as AUTO_FILE
from alphabar.verbs.options import PushOptions

CARD = "README.md"
_STATE = Path(WEIGHTS).with_name("state.json")
_FEW_CALLS, _STEPS = 10, 25  # of the images on the card: the most calls of a fitted sampler, and the steps of another


@takes(PushOptions)
def push(run: str | Path, repo: str, *, options: PushOptions = PushOptions(), progress: bool = True) -> list[str]:
    """Puts a run on the Hugging Face Hub: averaged weights, recipe, scores, fitted samplers, distilled model, and a card.

    All weights are safetensors. The card is made from the score records of exactly these weights. Files in which a path, the user
    name or the name of this machine stands are refused.

    Args:
        run: a run folder, a .safetensors file of alphabar, or bundled.
        repo: OWNER/NAME of a new repository, or of one that holds such a run, which gets a new commit.
        options: see `PushOptions`; its fields may also be passed as keywords. `license` is required.
        progress: show the plan, on stderr, and progress bars.

    Returns:
        Sentences on what was sent or written, and what to do with it.

    Raises:
        ValueError: without a licence, for a model of another library, and for what holds a name of this machine.
        OSError: where the Hub cannot be reached or refuses the token, and where a file that is not ours would be replaced.
    """
    check_repo(repo)
    if options.license is None:
        raise ValueError(
            "name the licence under which others may use the weights: --license apache-2.0, mit, cc-by-4.0, other, ..."
        )
    model = load_model(run, options.checkpoint)
    if not isinstance(model, Model):
        raise ValueError(
            f"{run} is a model of another library: send its folder with `hf upload`; hf: addresses are of alphabar's runs"
        )
    out = as_path(options.out or f"{repo.partition('/')[2]}_on_hub")
    if options.dry_run:
        check_folder(out, "card", [str(local_run(run))], ours=())
    else:
        _check_repository(repo, options.private)
    with tempfile.TemporaryDirectory(prefix="push.") as scratch:
        folder = Path(scratch)
        _collect(run, model, repo, folder, options, progress)
        files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
        check_not_private({n: _text(p) for n, p in files.items()}, private_words(as_path(run), folder), known=repo)
        size = f"{len(files)} files, {sum(p.stat().st_size for p in files.values()) / 1e6:.1f} MB"
        if options.dry_run:
            shutil.copytree(folder, out, dirs_exist_ok=True)
            listed = [f"- {p.stat().st_size:>12,} bytes  {name}" for name, p in files.items()]
            return [
                f"{out}: what would be sent, {size}; nothing was sent",
                *listed,
                f"next: look at {out / CARD}; then the same command without --dry-run",
            ]
        if progress:
            say(f"sending {size} to {HUB}{repo}: {', '.join(files)}", sys.stderr)
        commit = _send(repo, files, model.fingerprint, options.private)
    draw = command("alphabar", "sample", f"{HUB}{repo}@{commit[:12]}", "--out", "drawn.npz")
    return [f"{hub_api().endpoint}/{repo}: {size}, commit {commit}", f"next: {draw}"]


def _check_repository(repo: str, private: bool) -> None:
    """Refuses, before long work, a token that is missing, a repository of something else, and a public one for `private`."""
    from huggingface_hub.errors import RepositoryNotFoundError

    with hub_errors(f"{HUB}{repo}", "sent"):
        hub_api().whoami()
        try:
            info = hub_api().model_info(repo)
        except RepositoryNotFoundError:
            return
    names = {str(s.rfilename) for s in info.siblings or ()} - {".gitattributes", CARD, "LICENSE"}
    if names and WEIGHTS not in names:
        raise FileExistsError(f"{HUB}{repo} holds files, and no run of alphabar ({min(names)}): give another name")
    if private and not info.private:
        raise ValueError(f"{HUB}{repo} exists and is public: leave --private out, or give another name")


def _collect(run: str | Path, model: Model, repo: str, folder: Path, options: PushOptions, progress: bool) -> None:
    """Writes everything that is sent into a folder, which is a run folder as well."""
    home = None if model.home is None else Run(model.home)
    seen = _write_model(run, model, folder, options.checkpoint)
    data: dict[str, Any] = {}
    if home is not None:
        for name in ("recipe.toml", "data.json"):
            if (home.path / name).is_file():
                shutil.copyfile(home.path / name, folder / name)
        if (folder / "data.json").is_file():  # its list of skipped images names files
            data = {k: v for k, v in without_places(read_object(folder / "data.json")).items() if k != "skipped"}
            write_json(folder / "data.json", data)
    found = {(f.calls, f.name): f for f in reversed(all_tuned(folders_of(model), model.fingerprint))}
    fits = [*found.values()][::-1]  # of the same name and calls, the run's before that of the current folder
    for fit in fits:
        (folder / "tuned").mkdir(exist_ok=True)
        save_tuned(replace(fit, how=without_places(fit.how)), folder / "tuned")
    if model.latents is not None and model.autoencoder is not None:
        (folder / AUTOENCODER).mkdir()
        model.autoencoder.save(folder / AUTOENCODER)
    fingerprints = [model.fingerprint, *_copy_distilled(run, model, folder)]
    scores = list(_scores(home, fingerprints))
    for score in scores:
        append_jsonl(folder / "scores.jsonl", plain(score))
    extractor = None
    if options.extractor is not None:
        path = _extractor_file(options.extractor, home)
        extractor = read_extractor(path).fingerprint
        shutil.copyfile(path, folder / EXTRACTOR)
    short = [f for f in fits if f.calls <= _FEW_CALLS]
    how: dict[str, Any] = (
        {"sampler": f"tuned:{short[-1].name}", "steps": short[-1].calls}
        if short
        else {"steps": 2 if model.consistency else _STEPS}
    )
    classes = {"classes": "all"} if every_class(model) else {}
    drawn = sample(model, options.shown, **how, **classes, device=best_device(), channels_last=True, progress=progress)
    save_picture(contact_sheet(drawn.images, scale=screen_scale(drawn.images)), folder / SHEET)
    words = ["--n", options.shown, *(w for k, v in {**how, **classes}.items() for w in (f"--{k}", v))]
    about = About(
        repo, str(options.license), model, [*map(str, words)], data, recipe=(folder / "recipe.toml").is_file(), images_seen=seen,
        scores=scores, fits=fits, distilled=(folder / DISTILLED).is_dir(), extractor=extractor,
    )  # fmt: skip
    write_atomically(folder / CARD, model_card(about))


def _write_model(run: str | Path, model: Model, folder: Path, checkpoint: str = "last") -> int | None:
    """Weights and state of a checkpoint; returns the images that it has seen, where that is known."""
    file, seen = folder / WEIGHTS, None
    file.parent.mkdir(parents=True)
    path = BUNDLED_FILES.get(str(run)) or as_path(local_run(run))
    if (path / "checkpoints").is_dir() and not checkpoint.startswith("ema:"):
        found = find_checkpoint(path / "checkpoints" / checkpoint)
        path, seen = found / Path(WEIGHTS).name, int(read_state(found)["images"])
    if path.is_file():  # the same bytes, which may be of 16 bits
        shutil.copyfile(path, file)
    else:
        save_weights(file, model)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    write_json(folder / _STATE, {"images": seen or 0, "fingerprint": model.fingerprint, "sha256": {file.name: digest}})
    return seen


def _copy_distilled(run: str | Path, model: Model, folder: Path) -> Iterator[str]:
    """Copies the models that were distilled from one, the later in the folders of the earlier; yields their fingerprints."""
    stages = [f"{run}/{DISTILLED}"] if str(run) in BUNDLED_FILES else []
    stage = None if stages or model.home is None else Run(Run(model.home).distilled)
    while stage is not None and stage.recipe.exists():
        stages, stage = [*stages, str(stage.path)], Run(stage.distilled)
    for found in stages:
        folder /= DISTILLED
        made = load_model(found)
        _write_model(found, made, folder)
        if Run(found).recipe.exists():
            shutil.copyfile(Run(found).recipe, folder / "recipe.toml")
        yield made.fingerprint


def _scores(home: Run | None, fingerprints: list[str]) -> Iterator[Score]:
    """The latest score of every kind of these models, drawn in every way, in the order of the run's scores.jsonl."""
    latest: dict[tuple[Any, ...], Score] = {}
    for row in () if home is None else read_jsonl(home.scores):
        with naming("scores.jsonl"):
            score = Score.from_json({k: v for k, v in without_places(row).items() if k != "images"})
        if (score.sampler or {}).get("model") in fingerprints:
            way = (str(score.options), way_drawn(score))
            latest[(score.metric, score.extractor, score.reference, score.n, *way)] = score
    yield from latest.values()


def _extractor_file(name: str, home: Run | None) -> Path:
    """The file of an extractor that is named as for `score`."""
    if name == AUTO:
        path = None if home is None else home.path / AUTO_FILE
        if path is None or not path.is_file():
            raise FileNotFoundError(
                "the run has no extractor yet: `alphabar score RUN --extractor auto` trains one and keeps it there"
            )
        return path
    return BUNDLED_EXTRACTOR if name == "bundled" else as_path(name)


def _text(path: Path) -> str:
    """What of a file can hold words: a text, or the header of safetensors; "" of a picture, which is drawn here."""
    if path.suffix == ".png":
        return ""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return "\n".join(f"{k} {v}" for k, v in (file.metadata() or {}).items())
    return path.read_text(encoding="utf-8")


def _send(repo: str, files: dict[str, Path], fingerprint: str, private: bool) -> str:
    """Sends files in one commit, which takes away those of an earlier run; returns the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = hub_api()
    with hub_errors(f"{HUB}{repo}", "sent"):
        api.create_repo(repo, private=private or None, exist_ok=True)
        there = {str(s.rfilename) for s in api.model_info(repo).siblings or ()}
        old = sorted(name for name in there - files.keys() if FILE.fullmatch(name))
        operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        done = api.create_commit(
            repo,
            [*operations, *(CommitOperationDelete(name) for name in old)],
            commit_message=f"Model {fingerprint}, {plural(len(files), 'file')}",
        )
    return str(done.oid)
