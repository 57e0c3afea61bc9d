"""Fitted samplers: carried out they are the samplers they were taken from, their files are checked, and only their model uses
them."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.denoiser.wrappers import ClipX0
from alphabar.fitting.coefficients import Coefficients, coefficients_of
from alphabar.sampling.catalogue import find
from alphabar.sampling.fitted import (
    PRIORITY,
    Tuned,
    all_tuned,
    find_tuned,
    folders_of,
    load_tuned,
    path_of,
    run_tuned,
    save_tuned,
)  # fmt: skip
from alphabar.sampling.model import fingerprint
from alphabar.sampling.sample import sample
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.heun import heun
from alphabar.schedule.grid import make_grid
from tests.fixtures.oracles import CASES, draws, smooth_grid, tiny_network


def fitted(c, name="mine", model="m" * 16, **more):
    return Tuned(name, model, *c.plain(), **more)


def ddim_fit(n=5, eta=0.0, grid=None, **more):
    return fitted(Coefficients.ddim(smooth_grid(n) if grid is None else grid, eta), **more)


def start(n=8, shape=(1, 1, 2), high=3.0):
    return high * starting_noise(0, range(n), shape).double()


def uneven_grid(n):
    """Steps of unlike lengths, from 3 to 0."""
    levels = 3 * np.random.default_rng(n).uniform(0.02, 1, n - 1)
    return torch.tensor([3.0, *sorted(levels, reverse=True), 0.0], dtype=torch.float64)


GRIDS = [smooth_grid(1), smooth_grid(2), smooth_grid(7), uneven_grid(3), uneven_grid(10)]
LINEAR = {k: c for k, c in CASES.items() if not draws(*c) and c[0].calls(10) == 10}


# ---- carried out


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_ddims_coefficients_carried_out_are_ddim(eta, grid, mixture):
    fit = ddim_fit(eta=eta, grid=grid)
    assert fit.stochastic == (eta > 0 and fit.calls > 1) and torch.equal(fit.grid, grid)
    noise = SeededNoise(3, range(8))
    out = run_tuned(mixture, start(), grid, fit=fit, noise=noise)
    assert torch.allclose(out, ddim(mixture, start(), grid, eta=eta, noise=noise), rtol=0, atol=1e-12)


def test_most_of_the_catalogue_is_of_this_form():
    assert {"ddim", "euler", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "deis"} <= set(LINEAR)


@pytest.mark.parametrize(("entry", "options"), LINEAR.values(), ids=list(LINEAR))
def test_a_samplers_coefficients_carried_out_are_the_sampler(entry, options, mixture, gaussian):
    fn = partial(entry.fn, **options)
    for grid in GRIDS:
        fit = fitted(coefficients_of(fn, grid))
        assert not fit.stochastic and fit.calls == len(grid) - 1
        for oracle, shape in ((mixture, (1, 1, 2)), (gaussian, (1, 2, 2))):
            x = start(8, shape)
            assert torch.allclose(run_tuned(oracle, x, grid, fit=fit), fn(oracle, x, grid, noise=None), rtol=0, atol=1e-10)


def test_a_sampler_of_more_calls_or_with_noise_has_no_such_form():
    with pytest.raises(ValueError, match="heun calls more than once a step, which a fitted sampler does not"):
        coefficients_of(heun, smooth_grid(4))
    with pytest.raises(ValueError, match="pass noise"):
        coefficients_of(partial(ddim, eta=0.5), smooth_grid(4))


def test_coefficients_of_a_fit_are_its_own():
    fit = ddim_fit(6, eta=0.7)
    again = fitted(Coefficients.of(fit))
    for name in ("sigmas", "keep", "fresh"):
        assert getattr(again, name) == pytest.approx(getattr(fit, name), rel=1e-13)
    assert all(a == pytest.approx(b, rel=1e-13) for a, b in zip(again.mix, fit.mix, strict=True))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_noise_put_into_a_sampler_without_is_ddims_noise(eta, mixture):
    """With DDIM's means it is DDIM with eta; with others, a step ends with the variance that its level asks for."""
    grid = uneven_grid(6)
    a, b = (fitted(c) for c in (Coefficients.ddim(grid).with_noise(eta), Coefficients.ddim(grid, eta)))
    assert np.allclose(a.keep, b.keep, atol=1e-14) and a.fresh == pytest.approx(b.fresh, rel=1e-12)
    assert all(np.allclose(x, y, atol=1e-13) for x, y in zip(a.mix, b.mix, strict=True))
    c = fitted(coefficients_of(find("dpmpp_2m").fn, grid).with_noise(eta))
    # a denoiser that answers 0 whatever comes: x stays pure noise of the level
    x = torch.zeros(8, 1, 1, 1, dtype=torch.float64)
    x[0] = grid[0]

    def impulse(k, like):
        out = torch.zeros_like(like)
        out[1 + k] = 1
        return out

    states = []

    def answers_0(x, sigma):
        states.append(x.clone())
        return torch.zeros_like(x)

    run_tuned(answers_0, x, grid, fit=c, noise=impulse)
    assert [float(y.square().sum().sqrt()) for y in states] == pytest.approx(grid[:-1].tolist(), rel=1e-12)


def test_on_step_and_the_start_are_left_alone(mixture):
    fit, x, seen = ddim_fit(4), start(), []
    kept = x.clone()
    run_tuned(mixture, x, fit.grid, fit=fit, on_step=lambda k, s, y, a: seen.append((k, s, y.clone(), a)))
    assert torch.equal(x, kept) and torch.equal(seen[0][2], x)
    assert [k for k, *_ in seen] == [0, 1, 2, 3] and tuple(s for _, s, *_ in seen) == fit.sigmas


def test_noise_and_grids_are_asked_for(mixture):
    fit = ddim_fit(4, eta=1.0)
    with pytest.raises(ValueError, match=r"'mine' adds noise: pass noise=SeededNoise\(seed, indices\)"):
        run_tuned(mixture, start(), fit.grid, fit=fit)
    with pytest.raises(ValueError, match="has its own levels: leave the grid out"):
        run_tuned(mixture, start(), smooth_grid(3), fit=ddim_fit(4))


def test_noise_is_addressed_by_image(mixture):
    fit, x = ddim_fit(4, eta=1.0), start(8)
    whole = run_tuned(mixture, x, fit.grid, fit=fit, noise=SeededNoise(0, range(8)))
    rows = [5, 0, 3]
    assert torch.equal(run_tuned(mixture, x[rows], fit.grid, fit=fit, noise=SeededNoise(0, rows)), whole[rows])


# ---- files


def test_a_file_gives_back_every_digit(tmp_path):
    fit = ddim_fit(7, eta=1 / 3, clip=1.0, threshold=0.995, threshold_max=2.0, how={"n": 8, "losses": [0.1]})
    path = save_tuned(fit, tmp_path / "tuned")
    assert path == tmp_path / "tuned" / f"{'m' * 16}-mine-7.json" == path_of(tmp_path / "tuned", fit.model, "mine", 7)
    again = load_tuned(path)
    assert again == fit and again.digest == fit.digest and again.how == fit.how


def test_the_digest_is_over_all_that_is_carried_out():
    fit = ddim_fit(3, eta=0.5)
    others = [
        replace(fit, **change)
        for change in (
            {"model": "n" * 16}, {"sigmas": (3.0, 1.7, 0.5)}, {"keep": (0.5, 0.4, 0.0)},
            {"mix": ((0.5,), (0.1, 0.2), (0.0, 0.0, 1.0))},
            {"fresh": (0.1, 0.2, 0.0)}, {"clip": 1.0}, {"threshold": 0.9}, {"threshold_max": 2.0},
        )
    ]  # fmt: skip
    assert len({f.digest for f in (fit, *others)}) == 9
    assert replace(fit, name="other", how={"n": 1}).digest == fit.digest


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = save_tuned(ddim_fit(3), tmp_path)
    with pytest.raises(FileExistsError, match="exists already: pass another --name, or --overwrite"):
        save_tuned(ddim_fit(3, eta=1.0), tmp_path)
    assert load_tuned(path) == ddim_fit(3)
    save_tuned(ddim_fit(3, eta=1.0), tmp_path, overwrite=True)
    assert load_tuned(path) == ddim_fit(3, eta=1.0)


GONE = object()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keep": GONE}, "keep is missing; wanted a list of at most 1,000"),
        ({"how": GONE}, "how is missing; wanted an object"),
        ({"format": 2}, "is not a fitted sampler of format 1, as `alphabar tune` writes them"),
        ({"format": GONE}, "is not a fitted sampler of format 1"),
        ({"keep": [0.5, 0.5]}, "3 levels, 2 keep, 3 fresh"),
        ({"mix": [[1.0], [0.0, 1.0], [0.0, 1.0]]}, r"rows of mix of \[1, 2, 2\]"),
        ({"mix": [1.0, 2.0, 3.0]}, r"mix\[0\] is 1\.0; wanted a list"),
        ({"mix": {"0": [1.0]}}, r"mix is \{'0': \[1\.0\]\}; wanted a list of at most 1,000"),
        ({"keep": "0.5"}, "keep is '0.5'; wanted a list of at most 1,000"),
        ({"keep": [0.5, "a half", 0.0]}, "a half"),
        ({"keep": [0.5, None, 0.0]}, r"keep\[1\] is None; wanted a number"),
        ({"keep": [0.5, "1.0", 0.0]}, r"keep\[1\] is '1\.0'; wanted a number"),
        ({"fresh": [0.5, True, 0.0]}, r"fresh\[1\] is True; wanted a number"),
        ({"keep": [0.5, float("nan"), 0.0]}, r"keep\[1\] is nan; wanted a number"),
        ({"mix": [[float("inf")], [0.0, 1.0], [0.0, 0.0, 1.0]]}, r"mix\[0\]\[0\] is inf; wanted a number"),
        ({"keep": [10**400, 0.5, 0.0]}, r"keep\[0\] is 1000+; wanted a number"),
        ({"fresh": [0.1, -0.1, 0.0]}, "wanted standard deviations >= 0, the last of them 0"),
        ({"fresh": [0.1, 0.1, 0.1]}, "the last of them 0"),
        ({"sigmas": [3.0, 1.0, 2.0]}, "a grid falls strictly"),
        ({"sigmas": [3.0, 1.0, 0.0]}, "a grid falls strictly"),
        ({"sigmas": [3.0, float("nan"), 0.5]}, r"sigmas\[1\] is nan; wanted a number"),
        ({"sigmas": [], "keep": [], "mix": [], "fresh": []}, "a fitted sampler of 0 calls: wanted 1 to 1000"),
        ({"sigmas": [1.0] * 1001}, "wanted a list of at most 1,000"),
        ({"name": "../../mine"}, "use letters, digits"),
        ({"name": "a-b"}, "use letters, digits"),
        ({"name": ""}, "use letters, digits"),
        ({"clip": float("nan")}, "clip is nan; wanted a number from 0 to 1e"),
        ({"clip": -1.0}, "clip is -1.0; wanted a number from 0 to 1e"),
        ({"threshold": 0.2}, "threshold = 0.2"),
        ({"threshold": 0.9, "threshold_max": 0.5}, "threshold_max = 0.5"),
        ({"how": "by hand"}, "how is 'by hand'; wanted an object"),
    ],
)
def test_a_hostile_file_is_refused_with_the_reason(change, reason, tmp_path):
    data = {**ddim_fit(3, eta=0.5).to_json(), **change}
    path = tmp_path / "fit.json"
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not GONE}))
    with pytest.raises(ValueError, match=reason) as refused:
        load_tuned(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[1, 2]", "holds list, wanted an object"),
        (b"null", "holds NoneType, wanted an object"),
        (b'{"format": 1, "how": ' + b"[" * 200 + b"]" * 200 + b"}", "nests more than 64 lists"),
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[" * 200_000, "is not valid JSON"),
        (b'{"format": ' + b"1" * 5000 + b"}", "is not valid JSON"),
        (b" " * (64 * 2**20 + 1), "has more than 64 MiB of JSON"),
    ],
)
def test_what_is_no_fitted_sampler_is_refused(data, reason, tmp_path):
    path = tmp_path / "fit.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=reason) as refused:
        load_tuned(path)
    assert str(path) in str(refused.value)


# ---- found


def test_which_is_found(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    for name in ("grid", "images", "solver", "features", "zebra"):
        save_tuned(ddim_fit(5, name=name), home)
    save_tuned(ddim_fit(8, name="grid"), here)
    save_tuned(ddim_fit(5, name="grid", eta=1.0), here)
    folders, model = [home, here], "m" * 16
    assert [f.name for f in all_tuned(folders, model) if f.calls == 5] == ["zebra", *PRIORITY, "grid"]
    assert [f.calls for f in all_tuned(folders, model)] == [5] * 6 + [8]
    assert find_tuned(folders, model, 5).name == "zebra"  # any other name before the usual ones
    assert find_tuned(folders, model, 5, "solver").name == "solver"
    assert not find_tuned(folders, model, 5, "grid").stochastic  # the model's own folder before the present one
    assert find_tuned(folders, model, 8).name == "grid"
    (home / f"{model}-zebra-5.json").unlink()
    assert find_tuned(folders, model, 5).name == "features"


def test_what_is_not_found_is_listed(tmp_path):
    with pytest.raises(ValueError, match=r"has no fitted sampler of 5 calls \(it has none\): alphabar tune RUN --calls 5"):
        find_tuned([tmp_path], "m" * 16, 5)
    save_tuned(ddim_fit(8, name="grid"), tmp_path)
    (tmp_path / "notes.json").write_text("{}")  # not ours, in a folder that may be the user's
    with pytest.raises(ValueError, match=r"of 5 calls \(it has grid of 8\)"):
        find_tuned([tmp_path], "m" * 16, 5)
    with pytest.raises(ValueError, match=r"of 8 calls called 'solver' \(it has grid of 8\)"):
        find_tuned([tmp_path], "m" * 16, 8, "solver")
    with pytest.raises(ValueError, match=rf"it has none; those of {'m' * 16} were fitted to other weights and are refused"):
        find_tuned([tmp_path], "n" * 16, 8)
    with pytest.raises(ValueError, match="it has none"):  # a name that begins like another model's
        find_tuned([tmp_path], "m" * 15, 8)


def test_a_file_renamed_to_another_model_is_refused(tmp_path):
    path = save_tuned(ddim_fit(5), tmp_path)
    path.rename(tmp_path / f"{'n' * 16}-mine-5.json")
    with pytest.raises(ValueError, match=f"for model {'m' * 16}, which its name does not say"):
        find_tuned([tmp_path], "n" * 16, 5)


# ---- used


def own_fit(network, n=4, eta=0.5, **more):
    return fitted(Coefficients.ddim(make_grid(network.schedule, n), eta), model=fingerprint(network), **more)


def draw(model, n=6, **options):
    return sample(model, n, progress=False, **{"sampler": "tuned", "steps": 4} | options)


def test_sampling_by_name(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = own_fit(network)
    path = save_tuned(fit, folders_of(network)[0])
    assert path.parent.resolve() == (tmp_path / "tuned").resolve()
    made = draw(network, seed=3)
    assert np.array_equal(made.images, sample(network, 6, sampler="ddim", eta=0.5, steps=4, seed=3, progress=False).images)
    record = made.record
    assert record["sampler"] == "tuned" and record["tuned"] == {"name": "mine", "digest": fit.digest}
    assert (record["nfe"], record["steps"], record["grid_name"]) == (4, 4, "tuned")
    assert record["grid"] == fit.grid.tolist() and record["clip"] is False and record["model"] == fit.model
    for other in (
        draw(network, seed=3, sampler="tuned:mine"),
        draw(network, seed=3, tuned=fit),
        draw(network, seed=3, tuned=path),
    ):
        assert np.array_equal(other.images, made.images)
    with pytest.raises(ValueError, match=r"no fitted sampler of 5 calls \(it has mine of 4\)"):
        draw(network, steps=5)
    with pytest.raises(ValueError, match="of 4 calls called 'yours'"):
        draw(network, sampler="tuned:yours")


@pytest.mark.parametrize("batch", [1, 7])
def test_image_k_is_the_same_in_any_batch(network, batch):
    fit = own_fit(network, eta=1.0)
    whole = draw(network, 64, tuned=fit, batch=64).images
    assert whole.std() > 10
    assert np.abs(whole.astype(int) - draw(network, 64, tuned=fit, batch=batch).images).max() <= 1
    some = draw(network, 3, tuned=fit, indices=[40, 2, 9], batch=batch).images
    assert np.abs(whole[[40, 2, 9]].astype(int) - some).max() <= 1


@pytest.mark.parametrize(
    "options",
    [{"eta": 0.0}, {"grid": "karras"}, {"plan": "every(2)"}, {"clip": True}, {"clip": False}, {"threshold": 0.9},
     {"variance": "beta"}, {"options": {"order": 2}}],
)  # fmt: skip
def test_a_fitted_sampler_takes_no_options(options, network):
    (name,) = options
    with pytest.raises(
        ValueError,
        match=f"^{name} = .*a fitted sampler has its own levels, coefficients, noise and clipping, so leave {name} out",
    ):
        draw(network, tuned=own_fit(network), **options)


def test_another_sampler_is_not_dropped_in_silence(network):
    with pytest.raises(ValueError, match=r"sampler = 'heun'.*fitted sampler 'mine'"):
        draw(network, tuned=own_fit(network), sampler="heun")
    with pytest.raises(ValueError, match=r"sampler = 'tuned:yours'.*fitted sampler 'mine'"):
        draw(network, tuned=own_fit(network), sampler="tuned:yours")


def test_another_models_fit_is_refused(network):
    other = tiny_network(seed=1)
    with pytest.raises(
        ValueError, match=rf"'mine' of 4 calls was fitted to model {fingerprint(network)}, and this is {fingerprint(other)}: fit"
    ):
        draw(other, tuned=own_fit(network))
    with torch.no_grad():  # and this one's after its weights have moved
        fit = own_fit(other)
        next(other.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="was fitted to model"):
        draw(other, tuned=fit)


def test_levels_outside_the_models_are_refused(network):
    fit = own_fit(network)
    with pytest.raises(ValueError, match="which this model was trained on"):
        draw(network, tuned=replace(fit, sigmas=(1e4, *fit.sigmas[1:])))


def test_x0_hat_is_held_as_it_was_in_fitting(network):
    free, clipped = own_fit(network), own_fit(network, clip=0.25)
    x = free.sigmas[0] * starting_noise(0, range(6), network.image_shape)
    noise = SeededNoise(0, range(6))
    by_hand = run_tuned(ClipX0(network, -0.25, 0.25), x, clipped.grid, fit=clipped, noise=noise)
    made = draw(network, tuned=clipped)
    assert made.record["clip"] == 0.25
    assert np.abs(made.images / 127.5 - 1 - by_hand.permute(0, 2, 3, 1).numpy()).max() < 0.6 / 127.5
    assert np.abs(made.images / 127.5 - 1).max() < 0.26 < np.abs(draw(network, tuned=free).images / 127.5 - 1).max()
