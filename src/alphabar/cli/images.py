"""The commands that show and make images: `alphabar data`, `sample`, `demo` and `app`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.cli.options import Flag, Flat, Json, Reading
from alphabar.cli.runs import runs_folder
from alphabar.core.bounds import Count
from alphabar.core.messages import plural, say
from alphabar.sampling.options import SampleOptions
from alphabar.verbs.options import AppOptions, DemoOptions

if TYPE_CHECKING:
    from alphabar.sampling.samples import Samples

Verbose = Annotated[bool, Parameter(name=("--verbose", "-v"), negative="", help="Print the whole record.")]


def data(
    image_set: str, *, sheet: Path | None = None, n: Count = 100, with_paths: Flag = False, reading: Reading = Reading(),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Print the data card of a set and write a contact sheet.

    ```
    alphabar data fashion_mnist
    alphabar data photos/ --sheet photos.png --n 64
    ```

    Args:
        image_set: fashion_mnist, cifar10, a path, or hf:owner/name; SET:test is the test split.
        sheet: the contact sheet to write; SET_SPLIT.png in this folder if left out.
        n: images on the contact sheet, chosen at random with seed 0.
        with_paths: name the source of the images by its whole path on this machine.
    """
    import numpy as np

    from alphabar.core.outputs import check_output, save_picture
    from alphabar.core.places import without_places
    from alphabar.core.seeds import generator
    from alphabar.data.card import data_card
    from alphabar.data.contact_sheet import contact_sheet, screen_scale, shown_note
    from alphabar.data.image_set import load, parse_set
    from alphabar.verbs.autoencoder import decoded

    name, split = parse_set(image_set)
    images = load(name, split, **asdict(reading))
    path = sheet or Path(f"{images.name}_{split}.png")
    check_output(path, "picture", [name])
    card = data_card(images)
    chosen = np.sort(generator(0).permutation(len(images))[:n])
    pixels = decoded(images.subset(chosen))
    save_picture(contact_sheet(pixels, scale=screen_scale(images.pixels)), path)
    card = card if with_paths else without_places(card)
    show.record(card | {"sheet": str(path), "sheet_note": shown_note(pixels)}, as_json, f"{images.name}:{images.split}")
    if not as_json:
        show.hint("train", name, "--out", f"runs/{images.name}")


@Parameter(name="*")
@dataclass(frozen=True)
class CommandOptions(SampleOptions):
    """Options of `alphabar sample`: those of the Python function, but the network runs in the way that finishes soonest."""

    fast: str | None = "auto"


def sample(
    run: str, *, out: str, n: Count = 64, options: CommandOptions = CommandOptions(), checkpoint: str = "last",
    device: str | None = None, gif: Path | None = None, verbose: Verbose = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Draw images from a run.

    ```
    alphabar sample bundled --n 64 --steps 25 --out garments.npz
    alphabar sample runs/garments --n 10000 --sampler ddim --steps 50 --eta 1 --seed 1 --out samples.npz
    ```

    Writes OUT.npz with `images` (n x h x w x c, of the type that the model was trained on) and the record of how they were
    made, or, when OUT ends in a slash, a folder of PNGs; and a contact sheet of the first 100 next to it. An interrupted
    command continues where it stopped. Under torchrun (torchrun --nproc_per_node 2 -m alphabar -- sample ...) the processes
    divide the images among themselves, which are those of one process.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH (a pipeline), lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        out: PATH.npz, or a folder ending in a slash.
        n: number of images.
        checkpoint: last, best, or ema:LENGTH.
        device: cpu, cuda or mps; the fastest there is if left out.
        gif: also write how the first 100 images form from noise, x0_hat step by step, as a GIF; OUT.npz then keeps x0_hat too.
    """
    from alphabar.core.machine import device_of
    from alphabar.core.outputs import check_output, save_picture
    from alphabar.core.processes import world
    from alphabar.core.run import DISTILLED, Run
    from alphabar.data.animation import check_animation, save_animation
    from alphabar.data.contact_sheet import contact_sheet, screen_scale
    from alphabar.denoiser.from_hub import local_run
    from alphabar.sampling.batches import spread_out
    from alphabar.sampling.preview import FRAMES
    from alphabar.sampling.resolved import resolve_options
    from alphabar.sampling.sample import sample
    from alphabar.sampling.samples import sheet_path
    from alphabar.training.checkpoint import BUNDLED_FILES, load_model

    if options.sampler == DISTILLED:
        stage = Run(Run(local_run(run)).distilled)
        while Run(stage.distilled).recipe.exists():  # the last one
            stage = Run(stage.distilled)
        run, options = str(stage.path), replace(options, sampler=None)
    sheet = sheet_path(out)
    check_output(sheet, "picture", [run])
    check_animation(gif, [run])
    model = load_model(run, checkpoint)
    keep_x0 = spread_out(resolve_options(model, options).steps, FRAMES) if gif else False
    with show.stopped_by_ctrl_c("stopped; the finished batches are kept, and the same command continues from them"):
        samples = sample(model, n, options=options, out=out, device=str(device_of(device)), channels_last=True, keep_x0=keep_x0)
    if world()[0] != 0:  # the first process prints for all
        return
    save_picture(contact_sheet(samples.images[:100], scale=screen_scale(samples.images)), sheet)
    if gif:
        save_animation([x[:100] for x in (*(samples.x0 or ()), samples.images)], gif)
    record = {k: v for k, v in samples.record.items() if k not in ("grid", "x0_steps")}
    if verbose or as_json:
        show.record({**record, "sheet": str(sheet)}, as_json, out)
    else:
        say("\n".join(_in_words(samples, out)))
        say(f"sheet: {sheet}" + (f"; GIF: {gif}" if gif else ""))
    if not as_json:
        real = "fashion_mnist:test" if run in BUNDLED_FILES else "SET"
        show.hint("score", out, *(["--run", run, "--keep", run] if Run(run).recipe.exists() else ["--against", real]))


def _in_words(samples: "Samples", out: str) -> list[str]:
    """Three lines on samples: what they are, how they were drawn, what that cost."""
    from alphabar.core.progress import duration

    record, (n, h, w, c) = samples.record, samples.images.shape
    fit = f" {found['name']}" if (found := record.get("tuned")) else ""
    eta = f", eta {record['eta']:g}" if record.get("eta") is not None else ""
    fast = record["fast"]["method"] if record.get("fast") else "PyTorch"
    return [
        f"{out}: {plural(n, 'image')} of {h}x{w}x{c}, {samples.images.dtype}, of model {record['model']}",
        f"{record['sampler']}{fit}, {plural(record['steps'], 'step')}{eta}, seed {record['seed']}: "
        f"{plural(record['nfe'], 'network call')} an image",
        f"{duration(record['seconds'])}, {duration(record['seconds_per_image'])} an image, on {record['device']} ({fast})",
    ]


def demo(*, options: Flat[DemoOptions] = DemoOptions()) -> None:
    """Sample, score and compare garments from the bundled model, without a download; three to five minutes on 2 cores.

    ```
    alphabar demo
    alphabar demo --out /tmp/demo --minutes 1
    ```
    """
    from alphabar.verbs.demo import demo

    demo(options=options)


def app(root: Path | None = None, *, export_space: Path | None = None, options: Flat[AppOptions] = AppOptions()) -> None:
    """Serve a page for the browser: draw from runs, watch images form, set two settings side by side, score them.

    ```
    alphabar app
    alphabar app runs --port 7861 --against fashion_mnist:test
    ```

    Only this machine can open the page, unless --host says otherwise; it has no password. It asks no other machine for anything.
    Needs pip install 'alphabar[app]'. Ctrl-C stops it.

    Args:
        root: the folder with the runs that may be chosen, as well as bundled; runs/ if there is one here, else this folder.
        export_space: serve nothing, and write the page into this folder, with a Dockerfile and the versions of all packages, for
            a Space of Hugging Face or `docker build`. The runs are copied where a ROOT is named.
    """
    if export_space is not None:
        from alphabar.web.space import write_space

        say("\n".join(write_space(root, export_space)))
        return
    from alphabar.web.playground import Playground
    from alphabar.web.server import serve

    serve(Playground(root or runs_folder(), options.against, options.extractor), host=options.host, port=options.port)
