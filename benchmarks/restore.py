"""How well `restore` restores held-out images, next to deepinv on the same weights, operator and noise, and classical methods.

    pip install --no-deps --target PEERS deepinv==0.5.0 torchvision==0.28.0 einops natsort h5py opencv-python-headless
    python benchmarks/restore.py --peers PEERS --n 64 --draws 16 --calls 30 --peer-calls 60 --known 100
    python benchmarks/restore.py --peers PEERS --n 600 --draws 1 --calls 20 --peer-calls 40 --methods --metric fid
    python benchmarks/restore.py --run runs/emoji --images emoji:test --alpha white --n 64 --metric kid --extractor e.safetensors

Tasks: inpainting of a centre box and of 80 % of the pixels (the same ones in all images), super-resolution by 4, and a Gaussian
blur of 1.5 pixels with noise 0.1. Every row: PSNR and SSIM of the mean of the draws and PSNR of a draw, the share of pixels
inside the 90 % interval, network calls of a draw, and time relative to the first method of the task, with 95 % intervals over
images. With `--known` that share also for intervals that are calibrated on so many other images. After each task: the default of
alphabar against the best of the others (the highest PSNR), image by image; `--peer-calls` gives these more calls. `--metric`
adds the FID or KID of the first draws against all of --images; FID needs more images than the extractor has features.

deepinv gets images in [0, 1], A as its physics, and DDRM, DiffPIR and DPS with their defaults for everything but the number of
calls. Its DDRM takes no operator whose singular vectors do not span all images, so super-resolution has no row of it. Without
--peers, or where deepinv or OpenCV cannot be imported, their rows are left out.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alphabar
from alphabar.core.messages import say
from alphabar.core.seeds import MEASURE, SeededNoise
from alphabar.core.types import Images, Measured
from alphabar.data.images import to_model, to_pixels
from alphabar.evaluation.estimate import Estimate, over_seeds
from alphabar.restoration.calibration import widening
from alphabar.restoration.catalogue import default_method
from alphabar.restoration.operators import Blur, BoxAverage, Mask, Operator, Spectral
from alphabar.restoration.result import Restoration
from alphabar.restoration.tasks import make_mask, rounding_noise
from alphabar.sampling.model import image_shape

TASKS = ("centre box", "80 % of pixels", "super-resolution by 4", "blur with noise")
OURS = ("mmps", "ddrm", "diffpir", "gibbs", "daps", "repaint", "dps")
THEIRS = ("DDRM", "DiffPIR", "DPS")
ROOT = Path(__file__).parents[1]


def tasks(shape: tuple[int, int, int]) -> dict[str, tuple[Spectral, float]]:
    """The operator of each task, and the noise of its measurement."""
    least = rounding_noise("uint8")
    made = (make_mask("box", shape), make_mask("random", shape), BoxAverage(4), Blur(1.5, shape[1:]))
    return dict(zip(TASKS, zip(made, (least, least, least, 0.1), strict=True), strict=True))


def ours(model: Any, pixels: Any, operator: Operator, sigma: float, method: str, calls: int, draws: int) -> Restoration:
    return alphabar.restore(
        model,
        pixels,
        task=operator,
        sigma=sigma,
        method=method,
        calls=calls,
        draws=draws,
        degrade=True,
        progress=False,
        batch=128,
    )


class Zero(torch.nn.Module):
    """The model as a denoiser of deepinv: images in [0, 1], sigma in their units."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x: Images, sigma: Any, *args: Any, **more: Any) -> Images:
        self.calls += len(x)
        level = (2 * torch.as_tensor(sigma, dtype=torch.float32)).flatten().expand(len(x)).clamp(0.002, 80)
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            return ((self.model((2 * x - 1).float(), level).clamp(-1, 1) + 1) / 2).to(x.dtype)


def theirs(model: Any, y: Measured, operator: Spectral, sigma: float, name: str, calls: int, shape: Any) -> tuple[Images, float]:
    """Draws of deepinv for measurements y in our range, and calls of each."""
    import deepinv

    denoiser = Zero(model)
    offset = operator.forward(torch.ones(1, *shape))
    noise = deepinv.physics.GaussianNoise(sigma / 2)
    if name == "DDRM":
        physics = deepinv.physics.DecomposablePhysics(
            U=operator.unrotate, U_adjoint=operator.rotate, V=operator.synthesise if isinstance(operator, Blur) else lambda z: z,
            V_adjoint=operator.analyse if isinstance(operator, Blur) else lambda x: x, img_size=shape,
            mask=operator.s.float().expand(1, *shape).clone(), noise_model=noise,
        )  # fmt: skip
        levels = np.append(np.geomspace(40.0, 0.005, calls - 1), 0.0)
        solver = deepinv.sampling.DDRM(denoiser, sigmas=levels)
    else:
        physics = deepinv.physics.LinearPhysics(A=operator.forward, A_adjoint=operator.adjoint, img_size=shape, noise_model=noise)
        if name == "DiffPIR":
            solver = deepinv.sampling.DiffPIR(denoiser, deepinv.optim.data_fidelity.L2(), sigma=sigma / 2, max_iter=calls)
        else:
            solver = deepinv.sampling.DPS(denoiser, num_steps=calls, dtype=torch.float32)
    torch.manual_seed(0)
    out = solver((y + offset) / 2, physics)  # A (x + 1) / 2 = (A x + A 1) / 2
    return 2 * out.detach() - 1, denoiser.calls / len(y)


def classical(name: str, y: Measured, operator: Spectral, pixels: Any) -> Any:
    """Telea's inpainting or bicubic enlargement, uint8."""
    import cv2

    out = []
    for image in to_pixels(y):
        if name == "Telea":
            hole = (1 - operator.keep[0, 0].numpy()).astype(np.uint8) * 255  # type: ignore[attr-defined]
            out.append(cv2.inpaint(image if image.shape[2] == 3 else image[..., 0], hole, 3, cv2.INPAINT_TELEA))
        else:
            out.append(cv2.resize(image, pixels.shape[2:0:-1], interpolation=cv2.INTER_CUBIC))
    return np.stack(out).reshape(pixels.shape)


def rows(
    model: Any,
    pixels: Any,
    n: int,
    task: str,
    calls: list[int],
    peer_calls: list[int],
    draws: int,
    methods: list[str],
    peers: list[str],
) -> Iterator[tuple[str, str, float, float, Restoration]]:
    """(role, method, calls, seconds an image, result) of a task; roles are default, other and peer. Peers restore the first n."""
    (operator, sigma), shape, first = tasks(image_shape(model))[task], image_shape(model), pixels[:n]
    x = to_model(first)
    y = operator.forward(x)
    y = y + sigma * SeededNoise(0, range(n), stream=MEASURE)(0, y)
    unmeasured = (operator.keep == 0).expand(n, *shape).movedim(1, 3).numpy() if isinstance(operator, Mask) else None

    def result(made: Any, k: int) -> Restoration:
        return Restoration(made.reshape(n, k, *first.shape[1:]).swapaxes(0, 1), first, {}, first, unmeasured)

    default = default_method(operator)
    for c in calls:
        for method in [default, *(m for m in methods if m != default and not (m == "repaint" and c < 20))]:
            start = time.perf_counter()
            found = ours(model, pixels, operator, sigma, method, c, draws)
            role, took = "default" if method == default else "other", (time.perf_counter() - start) / len(pixels)
            yield role, method, found.record["nfe"], took, found
    for c in peer_calls:
        for name in peers:
            if name == "DDRM" and isinstance(operator, BoxAverage):
                continue
            start = time.perf_counter()
            repeated = y.repeat_interleave(draws, 0)
            made, used = theirs(model, repeated, operator, sigma, name, c, shape)
            yield "peer", f"deepinv {name}", used, (time.perf_counter() - start) / n, result(to_pixels(made.float()), draws)
    name = {"centre box": "Telea", "80 % of pixels": "Telea", "super-resolution by 4": "bicubic"}.get(task)
    if name and peer_calls and shape[0] in (1, 3):
        yield "peer", name, 0, 0.0, result(classical(name, y, operator, first), 1)


def calibrated(found: Restoration, n: int) -> tuple[Restoration, Restoration | None]:
    """The first n images, with the intervals of their draws and with intervals that are calibrated on the others."""
    where, originals = found.unmeasured, found.originals
    first = Restoration(found.draws[:, :n], found.measurement[:n], {}, originals[:n], None if where is None else where[:n])
    if found.interval is None or len(originals) == n:
        return first, None
    factor = widening(found.draws[:, n:], originals[n:], None if where is None else where[n:])
    return first, replace(first, record={"interval_factor": factor})


def against_the_best(task: str, seen: list[tuple[str, str, Restoration]]) -> list[str]:
    """The default of alphabar at every number of calls against the peer with the highest PSNR, image by image."""
    peers = [(name, found) for role, name, found in seen if role == "peer"]
    if not peers:
        return []
    best, other = max(peers, key=lambda row: row[1].scores["psnr"].value)
    lines = []
    for name, found in ((name, found) for role, name, found in seen if role == "default"):
        off = over_seeds((found.each["psnr"] - other.each["psnr"]).tolist())
        low, high = off.interval or (float("nan"), float("nan"))
        word = "better" if low > 0 else "worse" if high < 0 else "not decided"
        lines.append(f"{task}: {name} against {best}: PSNR of the mean {off.value:+.2f} [{low:+.2f}, {high:+.2f}] dB, {word}")
    return lines


def figure(e: Estimate | None, digits: int) -> str:
    if e is None:
        return "–"
    ends = "" if e.interval is None else f" [{e.interval[0]:.{digits}f}, {e.interval[1]:.{digits}f}]"
    return f"{e.value:.{digits}f}{ends}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="bundled")
    parser.add_argument("--images", default="fashion_mnist:test", help="SET:test, images that the run was not trained on")
    parser.add_argument("--alpha", default="refuse")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--calls", type=int, nargs="+", default=[30])
    parser.add_argument("--peer-calls", type=int, nargs="+", help="of the other programs; left out: those of --calls")
    parser.add_argument("--methods", nargs="*", default=list(OURS), help="of alphabar, beside the default of the task")
    parser.add_argument("--peer-methods", nargs="*", default=list(THEIRS), choices=THEIRS, help="of deepinv")
    parser.add_argument("--known", type=int, default=0, help="further images that calibrate the intervals, 20 or more")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--peers", type=Path, help="folder with deepinv, torchvision and OpenCV")
    parser.add_argument("--metric", choices=("fid", "kid"), help="of the first draws")
    parser.add_argument("--extractor", default="bundled", help="for --metric; bundled is for garments")
    args = parser.parse_args()
    peers = False
    if args.peers:
        sys.path[:0] = [str(args.peers), str(ROOT / "tests" / "references")]
        try:
            for module in ("tvshim", "cv2", "deepinv"):  # the first makes torchvision importable
                import_module(module)
            peers = True
        except ImportError as error:
            say(f"without deepinv and OpenCV: {error}", sys.stderr)
    model = alphabar.load_model(args.run)
    name, _, split = args.images.rpartition(":")
    images = alphabar.load(name, split, alpha=args.alpha, size="x".join(map(str, model.image_shape[1:])) if model.fit else None)
    pixels = np.asarray(images.limited(args.n + args.known).pixels)
    evaluator = alphabar.ImageEval(args.extractor, images, progress=False) if args.metric else None
    known = f", intervals calibrated on {args.known} others" if args.known else ""
    print(f"{args.run} on {args.n} images of {args.images}, {args.draws} draws of each{known}\n")
    columns = ["task", "method", "calls", "PSNR, mean", "SSIM, mean", "PSNR, draw", "inside 90 %", "the same, calibrated", "time"]
    columns += [args.metric.upper()] if args.metric else []
    print("| " + " | ".join(columns) + " |")
    print("|" + "--|" * len(columns))
    peer_calls, verdicts = (args.peer_calls or args.calls) if peers else [], list[str]()
    for task in args.tasks:
        base, seen = 0.0, list[tuple[str, str, Restoration]]()
        for role, method, calls, seconds, every in rows(
            model, pixels, args.n, task, args.calls, peer_calls, args.draws, args.methods, args.peer_methods
        ):
            base = base or seconds
            found, held = calibrated(every, args.n)
            seen.append((role, f"{method}, {calls:.0f} calls", found))
            cells = [task, method, f"{calls:.0f}"]
            digits = {"psnr": 1, "ssim": 3, "psnr_draw": 1, "inside": 2}
            cells += [figure(found.scores.get(score), most) for score, most in digits.items()]
            cells += [figure(held.scores.get("inside"), 2) if held else "–", f"{seconds / base:.1f}" if seconds else "–"]
            if evaluator:
                cells.append(figure(evaluator.measure(found.draws[0], {}, (args.metric,)).scores[args.metric], 3))
            print("| " + " | ".join(cells) + " |", flush=True)
        for line in against_the_best(task, seen):
            verdicts.append(line)
            say(line, sys.stderr)  # the tables take hours on a slow machine
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
