"""`sample`: image k of a seed is one image, the record says what was done, and an interruption loses nothing."""

import json
import os
import time

import numpy as np
import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.data.images import to_pixels
from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.plan import every, predicate
from alphabar.denoiser.runtime import fast_model
from alphabar.denoiser.runtime.fast_model import speed_up
from alphabar.sampling import catalogue, precision
from alphabar.sampling.model import fingerprint
from alphabar.sampling.sample import sample
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samples import Samples
from alphabar.schedule.betas import Linear
from alphabar.schedule.grid import karras, make_grid
from tests.fixtures.oracles import tiny_network


def quick(model, n=5, **options):
    return sample(model, n, **({"steps": 4, "progress": False} | options))


# ---- the same image whatever the batch


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0), ("euler", 0.0)])
def test_image_k_of_a_seed_is_the_same_in_batches_of_1_7_and_64(network, sampler, eta):
    made = [quick(network, 64, sampler=sampler, eta=eta, batch=b, steps=3).images for b in (1, 7, 64)]
    assert made[0].std() > 10  # pictures of something
    for other in made[1:]:
        assert np.abs(made[0].astype(int) - other).max() <= 1


def test_order_and_number_change_nothing(network):
    whole = quick(network, 10, eta=1.0)
    some = quick(network, 3, eta=1.0, indices=[7, 0, 4])
    assert np.abs(whole.images[[7, 0, 4]].astype(int) - some.images).max() <= 1
    assert some.record["first_index"] == 7 and some.record["indices"] == [7, 0, 4]
    later = quick(network, 4, eta=1.0, indices=range(6, 10))
    assert np.abs(whole.images[6:].astype(int) - later.images).max() <= 1
    assert later.record["first_index"] == 6 and "indices" not in later.record
    assert not np.array_equal(quick(network, 3, seed=1).images, whole.images[:3])


def test_images_are_the_samplers_own(network):
    grid = make_grid(network.schedule, 4)
    x = float(grid[0]) * starting_noise(0, range(5), network.image_shape)
    x = ddim(network, x, grid, eta=0.5, noise=SeededNoise(0, range(5)))
    wanted = ((x.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy()
    assert np.array_equal(quick(network, eta=0.5).images, wanted)


def test_oracles_are_sampled_to_their_mean(gaussian):
    samples = sample(gaussian, 400, steps=60, grid="log_sigma", batch=200, progress=False)
    x = samples.images.astype(float) / 127.5 - 1
    mean = gaussian.data.mean.permute(1, 2, 0).numpy()
    std = gaussian.data.std.permute(1, 2, 0).numpy()
    inside = std < 0.6  # the widest pixels are clamped to 0..255
    assert np.abs(x.mean(0) - mean)[inside].max() < 5 * 0.6 / 20
    assert np.abs(x.std(0) - std)[inside].max() < 0.08


# ---- the record


def test_the_record(network):
    r = quick(network, 5, batch=2, seed=3, clip=True).record
    assert r["sampler"] == "ddim" and r["eta"] == 0 and r["steps"] == 4 and r["clip"] is True
    assert r["grid"] == make_grid(network.schedule, 4).tolist() and r["grid_name"] == "time"
    assert (r["n"], r["batch"], r["seed"], r["first_index"], r["plan"]) == (5, 2, 3, 0, None)
    assert r["nfe"] == 4 and r["seconds"] > 0 and r["seconds_per_image"] == r["seconds"] / 5
    assert r["image_shape"] == [1, 8, 8] and r["device"] == "cpu" and r["model"] == fingerprint(network)
    assert {"alphabar", "torch", "numpy"} <= set(r["versions"])
    assert json.loads(json.dumps(r)) == r


@pytest.mark.parametrize("plan", ["every(3, last=2)", every(3, 2), predicate(lambda k, t: k in (3, 6, 8, 9))])
def test_calls_are_measured_under_a_plan(network, plan):
    r = quick(network, 5, steps=10, plan=plan, batch=2).record
    assert r["nfe"] == 5  # steps 0, 3, 6, 8 and 9
    assert r["plan"] == ("predicate" if "predicate" in str(plan) else "every(3, last=2)")


def test_plans_that_look_at_timesteps_are_given_them():
    model = tiny_network()
    model.own_schedule, model.schedule = Linear(), Linear()
    called = quick(model, 2, steps=1000, plan="progressive").record["nfe"]
    assert called == 296


def test_options_reach_their_sampler(network):
    a = quick(network, sampler="ddpm", variance="beta")
    b = quick(network, sampler="ddpm")
    assert a.record["variance"] == "beta" and b.record["variance"] == "posterior" and a.record["eta"] is None
    assert not np.array_equal(a.images, b.images)
    half = tiny_network(data_range=0.5)
    seen = {}

    def spy(denoise, x, sigmas, *, variance, data_range, noise, on_step):
        seen.update(variance=variance, data_range=data_range)
        return x

    entry = catalogue.SAMPLERS["ddpm"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalogue.SAMPLERS, "ddpm", type(entry)(**(vars(entry) | {"fn": spy})))
        quick(half, 1, sampler="ddpm", variance="beta")
    assert seen == {"variance": "beta", "data_range": 0.5}


def test_further_options_go_by_name(network):
    first = quick(network, sampler="ipndm", options={"order": 1})
    assert (first.images == quick(network).images).mean() > 0.99  # Adams-Bashforth of one slope is DDIM at eta 0
    assert first.record["options"] == {"order": 1, "coefficients": "fixed"}
    assert (first.images != quick(network, sampler="ipndm", options={"order": 3}).images).mean() > 0.01
    # an eta that was left out is the sampler's own
    assert quick(network, sampler="euler_ancestral").record["eta"] == 1.0
    assert quick(network, sampler="ddim").record["eta"] == 0.0
    assert np.array_equal(quick(network, sampler="euler", eta=0.0).images, quick(network, sampler="euler").images)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_adaptive_plan_tells_how_calls_are_spread(network, tmp_path, batch):
    made = quick(network, 6, steps=30, plan="adaptive(0.05)", batch=batch)
    calls = made.record["calls"]
    assert made.record["plan"] == "adaptive(0.05)"
    assert sum(calls["histogram"].values()) == 6 and calls["mean"] == pytest.approx(made.record["nfe"])
    assert 2 <= calls["min"] <= calls["max"] < 30
    # and remembers it over an interruption
    out = f"{tmp_path}/set"
    with pytest.raises(KeyboardInterrupt):
        quick(Tired(network, int(5 * calls["max"])), 6, steps=30, plan="adaptive(0.05)", batch=1, out=out)
    again = quick(Tired(network, -1), 6, steps=30, plan="adaptive(0.05)", batch=1, out=out)
    assert again.record["calls"] == quick(network, 6, steps=30, plan="adaptive(0.05)", batch=1).record["calls"]


def test_the_fast_path_says_how_it_ran(network):
    plain, fast = quick(network), quick(network, fast="channels_last")
    assert fast.record["fast"]["method"] == "channels_last" and "fast" not in plain.record
    assert np.abs(plain.images.astype(int) - fast.images.astype(int)).max() <= 1
    assert fast.record["model"] == plain.record["model"]
    coarse = quick(network, precision="bf16")
    assert coarse.record["precision"] == "bf16" and "precision" not in fast.record


@pytest.mark.slow(6)
@pytest.mark.parametrize(("ratio", "coarser", "want"), [(0.5, 1.0, "bf16"), (1.5, 1.0, None), (0.5, 1e3, None)])
def test_the_precision_is_the_faster_one_if_images_agree(network, monkeypatch, ratio, coarser, want):
    """With a clock by which bfloat16 takes `ratio` of the time, and an outcome in bfloat16 that is `coarser`."""
    calls = []

    class Clocked(precision.FastModel):
        def __call__(self, x, sigma, labels=None):
            bf16 = self.precision == "bf16"
            calls.append(ratio if bf16 else 1.0)
            return super().__call__(x, sigma, labels) * (coarser if bf16 else 1.0)

    monkeypatch.setattr(fast_model, "FastModel", Clocked)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: sum(calls))
    monkeypatch.setattr(precision, "WORTH", 0)
    made = quick(network, 4, precision="auto", batch=2)
    assert made.record.get("precision") == want
    check = made.record["precision_check"]
    assert check["time"] == pytest.approx(ratio)
    assert ("why" in check) == (want is None)
    if want is None:
        assert (made.images == quick(network, 4, batch=2).images).all()


def test_an_automatic_precision_is_kept_over_an_interruption(network, tmp_path, monkeypatch):
    out, how = tmp_path / "set.npz", {"precision": "auto", "batch": 1, "steps": 4}
    plain = quick(network, 2, batch=1, steps=4)
    assert quick(network, 2, **how).record["precision_check"]["why"].startswith("too few images")
    with pytest.raises(KeyboardInterrupt):
        quick(Tired(network, 5), 2, out=out, **how)
    monkeypatch.setattr("alphabar.sampling.sample.faster_precision", None)  # nothing is found out again
    again = quick(Tired(network, -1), 2, out=out, **how)
    assert (again.images == plain.images).all()


def test_clipping_reaches_the_denoiser(gaussian):
    gaussian.data.mean[:] = 3.0  # x0_hat near 3, held at 1
    gaussian.data.std[:] = 0.1
    seen = quick(gaussian, 2, clip=True, keep_x0=True)
    assert (seen.images == 255).all()
    moved = []
    for clip in (False, True):
        grid = make_grid(gaussian.schedule, 4)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "alphabar.sampling.model.to_pixels", lambda x, dtype: moved.append(x.max()) or np.zeros((2, 2, 2, 1), np.uint8)
            )
            quick(gaussian, 2, clip=clip, grid=grid)
    assert moved[0] > 2 and moved[1] <= 1


def test_grids_by_name_and_by_hand(network):
    grid = karras(network.schedule, 3)
    assert quick(network, 1, grid=grid).record["grid"] == grid.tolist()
    assert quick(network, 1, grid=grid, steps=50).record["steps"] == 3
    assert quick(network, 1, grid="karras", steps=3).record["grid"] == grid.tolist()
    assert quick(network, 1, grid=grid).record["grid_name"] == "by hand"


def test_padding_is_cut_off():
    model = tiny_network((1, 12, 8))
    whole = quick(model, 3, keep_x0=True)
    model.crop = 2
    cut = quick(model, 3, keep_x0=True)
    assert cut.images.shape == (3, 8, 4, 1) and cut.record["image_shape"] == [1, 8, 4]
    assert np.array_equal(cut.images, whole.images[:, 2:-2, 2:-2])
    assert np.array_equal(cut.x0[0], whole.x0[0][:, 2:-2, 2:-2])


def test_the_network_is_left_as_it_was(network):
    network.train()
    network.network.middle.eval()
    quick(network, 2)
    assert network.training and network.network.enter.training and not network.network.middle.training
    assert not torch.is_inference_mode_enabled()
    network.network.enter.register_forward_hook(lambda m, *_: pytest.fail("trains") if m.training else None)
    quick(network, 1)


def test_channels_last_draws_the_same(network):
    plain = quick(network, 3).images
    assert np.abs(plain.astype(int) - quick(network, 3, channels_last=True).images).max() <= 1


def test_fingerprints(network, gaussian):
    assert fingerprint(network) == fingerprint(tiny_network()) != fingerprint(tiny_network(seed=1))
    assert fingerprint(gaussian) is None
    network.fingerprint = "mine"
    assert quick(network, 1).record["model"] == "mine"


# ---- files


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_saved_and_read(tmp_path, channels):
    model = tiny_network((channels, 8, 8))
    samples = quick(model, 12, keep_x0=[0, -1])
    for where in (f"{tmp_path}/set", f"{tmp_path}/other.npz", f"{tmp_path}/new/folder/"):
        target = samples.save(where)
        again = Samples.load(where)
        assert np.array_equal(again.images, samples.images) and again.record == samples.record
        assert target.exists()
    with np.load(tmp_path / "set.npz", allow_pickle=False) as file:
        assert file["images"].dtype == np.uint8 and json.loads(str(file["record"]))["n"] == 12
        assert file["x0"].shape == (2, 12, 8, 8, channels)
    names = sorted(os.listdir(tmp_path / "new/folder"))
    assert names == [*(f"{k:06d}.png" for k in range(12)), "record.json"]


def test_fewer_images_leave_no_old_ones_in_a_folder(network, tmp_path):
    quick(network, 5).save(f"{tmp_path}/a/")
    quick(network, 2).save(f"{tmp_path}/a/")
    assert len(Samples.load(f"{tmp_path}/a/").images) == 2
    (tmp_path / "b").mkdir()
    (tmp_path / "b/holiday.png").touch()
    with pytest.raises(FileExistsError, match="holds files that are not samples"):
        quick(network, 2).save(f"{tmp_path}/b/")
    untouched = Tired(network, 0)
    with pytest.raises(FileExistsError, match="holds files that are not samples"):
        quick(untouched, 2, out=f"{tmp_path}/b/")  # refused before any network call
    with pytest.raises(ValueError, match="2 channels do not fit PNG"):
        quick(tiny_network((2, 8, 8)), 2, out=f"{tmp_path}/c/")


def test_files_of_others_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", pictures=np.zeros(3))
    with pytest.raises(ValueError, match="holds pictures: samples have `images` and `record`"):
        Samples.load(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="alphabar sample RUN --out"):
        Samples.load(tmp_path / "none")
    (tmp_path / "d").mkdir()
    with pytest.raises(ValueError, match=r"no record.json"):
        Samples.load(tmp_path / "d")


def test_the_sheet_shows_all(network):
    sheet = quick(network, 6).sheet(columns=3)
    assert sheet.width >= 24 and sheet.height >= 16


# ---- interruptions


class Tired:
    """A model that is interrupted at its k-th call, as Ctrl-C would."""

    def __init__(self, model, calls):
        self.model, self.left = model, calls
        self.schedule, self.image_shape, self.fingerprint = model.schedule, model.image_shape, "same"

    def __call__(self, x, sigma):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.model(x, sigma)


@pytest.mark.parametrize("where", ["set", "folder/"])
def test_an_interruption_loses_no_finished_batch(network, tmp_path, where):
    out = f"{tmp_path}/{where}"
    wanted = quick(Tired(network, -1), 7, batch=2, keep_x0=True, eta=1.0)
    with pytest.raises(KeyboardInterrupt):
        quick(Tired(network, 10), 7, batch=2, keep_x0=True, eta=1.0, out=out)  # in the middle of the third batch
    part = tmp_path / (where.rstrip("/") + ".part")
    assert sorted(os.listdir(part)) == ["00000000.npz", "00000002.npz", "protocol.json"]
    rest = Tired(network, 8)  # as many calls as are left
    made = quick(rest, 7, batch=2, keep_x0=True, eta=1.0, out=out)
    assert rest.left == 0 and not part.exists()
    assert np.array_equal(made.images, wanted.images)
    assert all(np.array_equal(a, b) for a, b in zip(made.x0, wanted.x0, strict=True))
    assert made.record["nfe"] == 4
    assert np.array_equal(Samples.load(out).images, wanted.images)


def test_unfinished_samples_of_another_protocol_are_kept(network, tmp_path):
    out = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        quick(Tired(network, 5), 4, batch=2, out=out)
    with pytest.raises(ValueError, match=r"set.part holds unfinished samples that differ in seed \(seed was 0, is now 1\)"):
        quick(Tired(network, 5), 4, batch=2, seed=1, out=out)
    assert (tmp_path / "set.part/00000000.npz").exists()
    quick(Tired(network, 4), 4, batch=2, out=out)


def test_batches_of_a_model_without_a_name_are_not_trusted(gaussian, tmp_path):
    class Nameless(Tired):
        fingerprint = None

        def __init__(self, model, calls):
            super().__init__(model, calls)
            self.fingerprint = None

    with pytest.raises(KeyboardInterrupt):
        quick(Nameless(gaussian, 5), 4, batch=2, out=tmp_path / "set")
    again = Nameless(gaussian, 8)
    quick(again, 4, batch=2, out=tmp_path / "set")
    assert again.left == 0


# ---- classes


def conditional_network():
    model = build(ModelRecipe(channels=(8, 16), embedding=16, groups=4, conditional=True), {"kind": "cosine"}, (1, 8, 8), 0,
                  classes=("shoe", "bag", "coat"))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=generator)
    return model.eval()


def test_images_take_classes_in_turns():
    model = conditional_network()
    mixed = quick(model, 7, classes=[2, 0], batch=3)
    assert mixed.record["classes"] == [2, 0] and mixed.record["guidance"] == 1 and mixed.record["nfe"] == 4
    for rest, k in ((0, 2), (1, 0)):
        own = quick(model, 7, classes=k).images
        assert np.abs(mixed.images[rest::2].astype(int) - own[rest::2]).max() <= 1
    some = quick(model, 2, classes=[2, 0], indices=[5, 2])
    assert np.abs(some.images.astype(int) - mixed.images[[5, 2]]).max() <= 1
    assert "classes" not in quick(model, 2).record
    assert not np.array_equal(quick(model, 7).images, mixed.images)


@pytest.mark.parametrize(
    "fast",
    [None, "channels_last", *(pytest.param(name, marks=pytest.mark.slow(12)) for name in ("onnxruntime", "openvino", "mnn"))],
)
def test_guidance_calls_twice_where_it_acts(fast):
    model = conditional_network()
    run = model if fast is None else speed_up(model, fast, batch=4)
    guided = quick(run, 4, classes=1, guidance=2.0)
    assert guided.record["nfe"] == 8
    grid = make_grid(model.schedule, 4)
    x = float(grid[0]) * starting_noise(0, range(4), model.image_shape)
    labels = torch.ones(4, dtype=torch.int64)
    with torch.no_grad():
        x = ddim(lambda x, s: 2 * model(x, s, labels) - model(x, s), x, grid)
    assert np.abs(to_pixels(x, "uint8").astype(int) - guided.images).max() <= 1
    low = quick(run, 4, classes=1, guidance=2.0, guidance_interval=(0, float(grid[2]) * 1.001))
    assert low.record["nfe"] == 6 and low.record["guidance_interval"] == [0, float(grid[2]) * 1.001]


def test_guidance_works_under_every_kind_of_plan():
    model = conditional_network()
    for plan, calls in (("every(2)", 4), ("adaptive(0.5)", None)):
        r = quick(model, 3, steps=4, classes=range(3), guidance=1.5, plan=plan).record
        assert r["nfe"] <= 8 and (calls is None or r["nfe"] == calls)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": 3}, r"classes = \[3\]: give numbers from 0 to 2"), ({"classes": []}, "give numbers from 0 to 2"),
        ({"guidance": 2.0}, "say which, classes=3"), ({"classes": 1, "guidance": float("inf")}, "give a number from"),
        ({"classes": 1, "guidance": 2.0, "guidance_interval": (3.0, 1.0)}, "0 <= low < high"),
    ],
)  # fmt: skip
def test_classes_that_are_none_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        quick(conditional_network(), 2, **options)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 0}, "n = 0: give a whole number from 1"),
        ({"batch": 0}, "batch = 0: give a whole number from 1"),
        ({"sampler": "dimm"}, "did you mean 'ddim'"),
        ({"eta": 1.5}, "eta = 1.5: give a number from 0 to 1"),
        ({"eta": -0.1}, "eta = -0.1: give a number from 0"),
        ({"sampler": "euler", "eta": 0.5}, "eta = 0.5, but the options of euler are: none; leave it out, or use ddim"),
        ({"sampler": "ipndm", "options": {"ordr": 2}}, "ordr = 2, but the options of ipndm are: .* did you mean .order"),
        ({"fast": "fastest"}, "'fastest' is unknown: "),
        ({"plan": "adaptive(-1)"}, "adaptive"),
        ({"variance": "beta"}, "variance = 'beta', but the options of ddim are: eta; leave it out, or use ddpm"),
        ({"sampler": "ddpm", "variance": "big"}, "'big' is unknown: use one of posterior, beta"),
        ({"steps": 0}, "steps = 0: give"),
        ({"grid": "karas"}, "'karas' is unknown"),
        ({"grid": "leading"}, "continuous"),
        ({"classes": 0}, "trained without classes: leave them out, or train one with --model.conditional"),
        ({"plan": "evry(3)"}, "did you mean 'every'"),
        ({"indices": [1, 2]}, "2 indices for 5 images"),
        ({"indices": [-1, 0, 1, 2, 3]}, "index = -1"),
        ({"keep_x0": [4]}, "step 4: there are steps 0 to 3"),
        ({"grid": torch.tensor([500.0, 1.0, 0.0]).double()}, "leave .* trained on"),
        ({"grid": torch.tensor([1.0, 0.5]).double()}, "append a 0"),
    ],
)
def test_nonsense_is_refused(network, options, says):
    with pytest.raises(ValueError, match=says):
        quick(network, **options)


def test_more_steps_than_the_schedule_has_are_refused(network):
    network.schedule = Linear(steps=20)
    with pytest.raises(ValueError, match="21 steps of a schedule of 20 timesteps"):
        quick(network, steps=21)


def test_a_diverged_network_is_reported(network):
    network.network.leave.bias.data[:] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        quick(network)


def test_progress_is_shown(network, capsys):
    sample(network, 3, steps=2)
    assert "3/3 images" in capsys.readouterr().err
    sample(network, 3, steps=2, progress=False)
    assert capsys.readouterr().err == ""


def test_on_step_gets_every_step_and_its_time_is_not_counted(network):
    seen = []

    def watch(now):
        seen.append((now.first, now.step, now.steps, now.calls, to_pixels(now.x0_hat)))
        time.sleep(0.05)

    begun = time.perf_counter()
    watched = quick(network, 5, batch=3, sampler="heun", keep_x0=True, on_step=watch)
    took = time.perf_counter() - begun
    assert [s[:4] for s in seen] == [(first, k, 4, 1 + 2 * k) for first in (0, 3) for k in range(4)]
    for first, k, _, _, pixels in seen:
        assert np.array_equal(pixels, watched.x0[k][first : first + 3])
    assert np.array_equal(watched.images, quick(network, 5, batch=3, sampler="heun").images)
    assert watched.record["seconds"] < took - 8 * 0.05


def test_what_a_watcher_raises_ends_the_sampling(network):
    class Enough(Exception):
        pass

    steps = []

    def watch(now):
        steps.append(now.step)
        if now.step == 1:
            raise Enough

    with pytest.raises(Enough):
        quick(network, on_step=watch)
    assert steps == [0, 1]
