"""`sweep`: which settings are tried, resuming, and that several processes and machines give the results of one process."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.cli.main import app
from alphabar.core.files import read_jsonl
from alphabar.denoiser.model import build, save_weights
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.fitting.coefficients import Coefficients
from alphabar.report.report_page import write_report
from alphabar.report.sweep_page import front_words
from alphabar.results.sweeps import Sweep, read_sweep
from alphabar.sampling.fitted import Tuned, save_tuned
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.sampling.settings import Setting, calls_of, settings
from alphabar.schedule.grid import make_grid
from alphabar.training.checkpoint import load_model
from alphabar.training.config import Recipe
from alphabar.verbs.sweep import divided, sweep
from alphabar.verbs.sweep_setting import LoadedJob
from tests.fixtures.runs import untrained_extractor, untrained_model

N = 64
FEW: dict[str, Any] = {"samplers": ("ddim", "heun"), "calls": (2, 3), "n": N, "batch": 16, "progress": False, "shown": 5}
TRIED = ["ddim_2_eta_0", "ddim_2_eta_1", "heun_1", "heun_2", "ddim_3_eta_0", "ddim_3_eta_1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model, an untrained extractor, and real images."""
    folder = tmp_path_factory.mktemp("sweep")
    save_weights(folder / "model.safetensors", untrained_model())
    untrained_extractor().save(folder / "extractor.safetensors")
    columns = np.arange(8)[None, None, :, None]
    phase = np.random.default_rng(0).integers(0, 256, (300, 1, 1, 1))
    np.save(folder / "real.npy", ((columns * 20 + phase + np.arange(8)[None, :, None, None] * 9) % 256).astype(np.uint8))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path_factory.getbasetemp() / "sweep-cache"))


def swept(place: Path, out: Path, **other: Any) -> Sweep:
    named: dict[str, Any] = {"extractor": place / "extractor.safetensors", "out": out}
    return sweep(place / "model.safetensors", str(place / "real.npy"), **{**named, **FEW, **other})


@pytest.fixture(scope="module")
def done(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHABAR_CACHE", str(tmp_path_factory.getbasetemp() / "sweep-cache"))
        return swept(place, tmp_path_factory.mktemp("done") / "s")


def command(place: Path, out: Path, *more: str) -> list[str]:
    return [
        "sweep", str(place / "model.safetensors"), "--against", str(place / "real.npy"), "--extractor",
        str(place / "extractor.safetensors"), "--samplers", "ddim", "heun", "--calls", "2", "3", "--n", str(N), "--batch", "16",
        "--out", str(out), *more,
    ]  # fmt: skip


ENV = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_a_conditional_model_samples_its_classes_in_turns(place: Path, tmp_path: Path) -> None:
    recipe = ModelRecipe(channels=(8,), embedding=8, groups=4, conditional=True)
    model = build(recipe, {"kind": "cosine"}, (1, 8, 8), 0, classes=("a", "b", "c"))
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=generator)
    save_weights(tmp_path / "classes.safetensors", model)
    few: dict[str, Any] = {
        **FEW,
        "samplers": ("ddim",),
        "calls": (2,),
        "etas": (0.0,),
        "extractor": place / "extractor.safetensors",
    }
    found = sweep(tmp_path / "classes.safetensors", str(place / "real.npy"), out=tmp_path / "s", guidance=2.0, **few)
    assert [row.calls for row in found.rows] == [4]  # each step calls the network with the class and without
    drawn = Samples.load(tmp_path / "s" / "ddim_2_eta_0.npz")
    wanted = sample(model, N, steps=2, batch=16, classes=range(3), guidance=2.0, channels_last=True, progress=False)
    assert np.abs(drawn.images.astype(int) - wanted.images).max() <= 1 and drawn.record["guidance"] == 2
    with pytest.raises(ValueError, match="has no classes to guide to"):
        swept(place, tmp_path / "t", guidance=2.0)


# ---- settings


def plain_model(schedule: dict[str, Any] | None = None) -> Any:
    return build(ModelRecipe(channels=(8,), embedding=8, groups=4), schedule or {"kind": "cosine"}, (1, 8, 8), 0)


def names(model: Any, **wanted: Any) -> tuple[dict[str, float], list[str]]:
    found, left = settings(model, **wanted)
    return {s.name: c for s, c in found}, [str(one) for one in left]


def test_a_setting_has_one_name_and_is_read_back_from_json() -> None:
    one = Setting("heun", 5, None, "karras", "every(3, last=50)", True, 0.995, (("order", 2), ("s_churn", 40.0)))
    assert one.name == "heun_5_order_2_s_churn_40.0_grid_karras_every_3_last_50_clip_threshold_0.995"
    assert Setting.from_json(json.loads(json.dumps(one.to_json()))) == one
    fitted = Setting("tuned:mine", 10, fit="0123456789abcdef")
    assert (fitted.name, fitted.method) == ("tuned_mine_10_0123456789abcdef", "tuned:mine")
    assert Setting.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    assert Setting("ddim", 10, 0.0).name != Setting("ddim", 10, None).name
    assert Setting("ddim", 10, 0.30000000000000004).name != Setting("ddim", 10, 0.3).name
    assert one.arguments()["options"] == {"order": 2, "s_churn": 40.0}
    assert Setting("ddim", 10).arguments() == {"sampler": "ddim", "steps": 10}


def test_calls_are_a_budget_and_impossible_settings_are_left_out_with_a_reason() -> None:
    model = plain_model()
    found, left = names(model, samplers=("ddim", "heun"), calls=(1, 2, 4, 5), etas=(0, 1))
    assert found == {
        "ddim_1_eta_0": 1, "ddim_1_eta_1": 1, "heun_1": 1, "ddim_2_eta_0": 2, "ddim_2_eta_1": 2, "heun_2": 3,
        "ddim_4_eta_0": 4, "ddim_4_eta_1": 4, "ddim_5_eta_0": 5, "ddim_5_eta_1": 5, "heun_3": 5,
    }  # fmt: skip
    assert list(found.values()) == sorted(found.values())
    assert left == [
        "heun, eta 1: it is deterministic and takes no eta",
        "heun at 2 calls: the same 1 steps as with 1 calls",
    ]
    found, left = names(model, samplers=("ddpm", "dpmpp_2m_sde", "dpmpp_2m"), calls=(4,))  # each with its defaults
    assert list(found) == ["ddpm_4", "dpmpp_2m_sde_4", "dpmpp_2m_4"]
    assert left == []
    found, left = names(model, samplers=("ddpm", "ddim(eta_x=3)", "tuned"), calls=(), steps=(7,), etas=(0,))
    assert found == {}
    assert left[0] == "ddpm, eta 0: it always draws its noise and takes no eta"
    assert left[1].startswith("ddim, eta_x 3, eta 0 at 7 steps: eta_x = 3, but the options of ddim are")
    assert left[2].startswith("tuned at 7 steps: ")
    with pytest.raises(ValueError, match="did you mean 'ddim'"):
        settings(model, samplers=("dddim",))
    with pytest.raises(ValueError, match="0 calls or steps"):
        settings(model, calls=(0,))


def test_more_steps_than_timesteps_are_left_out() -> None:
    model = plain_model({"kind": "linear", "steps": 20, "beta_max": 0.5})
    found, left = names(model, samplers=("ddim",), calls=(20, 21), etas=(0,))
    assert list(found) == ["ddim_20_eta_0"]
    assert "21 steps of a schedule of 20 timesteps" in left[0]


@pytest.mark.parametrize(("plan", "calls", "steps"), [("every(3)", 5, 15), ("every(2)", 7, 14), ("every(3, last=4)", 10, 22)])
def test_a_plan_takes_as_many_steps_as_calls_allow(plan: str, calls: int, steps: int) -> None:
    model = plain_model()
    found, _ = names(model, samplers=("ddim",), calls=(calls,), etas=(0,), plans=("full", plan))
    assert list(found.values()) == [calls, calls]
    name = next(n for n in found if "every" in n)
    assert name.startswith(f"ddim_{steps}_eta_0_every")
    # the next step would cost one call more, and the count is the one that drawing pays
    assert calls_of(model, Setting("ddim", steps + 1, 0.0, plan=plan)) == calls + 1
    drawn = sample(model, 2, sampler="ddim", steps=steps, plan=plan, progress=False)
    assert drawn.record["nfe"] == calls


def test_a_plan_that_skips_no_call_is_left_out() -> None:
    _, left = names(plain_model(), samplers=("ddim",), calls=(5,), etas=(0,), plans=("every(3, last=50)", "adaptive(0.1)"))
    assert "the plan skips none of so few calls" in left[0]
    assert "give steps" in left[1] or "adaptive" in left[1]


def test_settings_are_divided_evenly_among_processes() -> None:
    todo = [(Setting("ddim", k), float(k)) for k in (5, 8, 10, 15, 20, 50, 100)]
    shares = divided(todo, 2)
    assert sorted(s.steps for share in shares for s, _ in share) == [5, 8, 10, 15, 20, 50, 100]
    assert sorted(sum(c for _, c in share) for share in shares) == [103, 105]
    assert divided(todo, 1)[0] == todo


# ---- results


def test_the_folder_holds_samples_scores_and_protocol(done: Sweep, place: Path) -> None:
    assert sorted(row.setting.name for row in done.rows) == sorted(TRIED)
    assert [row.calls for row in done.rows] == sorted(row.calls for row in done.rows)
    rows = {row["name"]: row for row in read_jsonl(done.folder / "results.jsonl")}
    assert sorted(rows) == sorted(TRIED)
    model = load_model(place / "model.safetensors")
    for name in ("ddim_3_eta_1", "heun_2"):
        made = Samples.load(done.folder / f"{name}.npz")
        setting = Setting.from_json(rows[name]["setting"])
        again = sample(model, N, seed=0, batch=16, progress=False, channels_last=True, **setting.arguments())
        np.testing.assert_array_equal(made.images, again.images)
        assert rows[name]["nfe"] == made.record["nfe"] == 3
        assert rows[name]["seconds_per_image"] == made.record["seconds_per_image"] > 0
        assert [s["metric"] for s in rows[name]["scores"]] == ["fid", "kid"]
        assert rows[name]["scores"][0]["interval"] is not None
        assert rows[name]["scores"][0]["floor"] is not None
    protocol = json.loads((done.folder / "protocol.json").read_text())
    assert protocol["model"] == model.fingerprint == rows["heun_1"]["model"]
    assert (protocol["n"], protocol["seed"]) == (N, 0)
    assert protocol["extractor"] == rows["heun_1"]["extractor"]
    json.dumps(done.to_json())


def test_the_report_shows_the_front_of_a_stored_sweep(done: Sweep, tmp_path: Path) -> None:
    read = read_sweep(done.folder)
    assert {**read.to_json(), "left_out": None} == {**done.to_json(), "left_out": None}
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(Recipe().toml())
    text = write_report([run], tmp_path / "page.html", sweeps=[done.folder]).read_text()
    assert "FID against network calls" in text and "FID against seconds" in text
    assert front_words(done, "fid") in text
    for row in done.front("fid"):
        assert f"images sampled by {row.title}." in text
    shutil.copytree(done.folder, run / "sweeps" / "mine")  # found by itself where it lies in the run
    assert "sweep mine of run" in write_report([run], tmp_path / "page.html").read_text()
    for path in (run / "sweeps" / "mine" / "rows").glob("*.json"):
        path.unlink()
    assert "no setting of the sweep" in write_report([run], tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match="does not hold a sweep that can be shown"):
        write_report([run], tmp_path / "page.html", sweeps=[tmp_path])


def test_the_same_sweep_again_does_nothing_and_more_samplers_add_to_it(done: Sweep, place: Path) -> None:
    before = stamps(done.folder)
    again = swept(place, done.folder)
    assert stamps(done.folder) == before
    assert again.to_json() == done.to_json()
    more = swept(place, done.folder, samplers=("euler",), calls=(2,))
    assert {row.setting.name for row in more.rows} == {*TRIED, "euler_2"}
    assert stamps(done.folder).items() >= before.items()
    # a metric more is taken of the images that are there, and none is lost
    drawn = (done.folder / "euler_2.npz").stat().st_mtime_ns
    kid = swept(place, done.folder, samplers=("euler",), calls=(2,), metrics=("precision",))
    assert [row.setting.name for row in kid.rows] == ["euler_2"]
    assert (done.folder / "euler_2.npz").stat().st_mtime_ns == drawn
    assert stamps(done.folder).items() >= before.items()
    rows = {row["name"]: [s["metric"] for s in row["scores"]] for row in read_jsonl(done.folder / "results.jsonl")}
    assert set(rows["euler_2"]) == {"fid", "kid", "precision"}
    (done.folder / "euler_2.npz").unlink()
    (done.folder / "rows" / "euler_2.json").unlink()


def stamps(folder: Path) -> dict[str, int]:
    """When each setting's samples and row were written."""
    files = [*folder.glob("*.npz"), *folder.glob("rows/[!.]*.json")]
    return {p.name: p.stat().st_mtime_ns for p in files}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 1}, r"differ in seed \(seed was 0, is now 1\)"),
        ({"n": 70}, r"differ in n \(n was 64, is now 70\)"),
        ({"batch": 8}, r"differ in batch"),
    ],
)
def test_another_protocol_is_refused_and_the_field_named(done: Sweep, place: Path, other: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        swept(place, done.folder, **other)


def test_real_images_that_were_moved_are_the_same(done: Sweep, place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done.folder, copy)
    shutil.copy(place / "real.npy", tmp_path / "moved.npy")
    before = {path.name: path.stat().st_mtime_ns for path in copy.glob("*.npz")}
    named: dict[str, Any] = {"extractor": place / "extractor.safetensors", "out": copy}
    sweep(place / "model.safetensors", str(tmp_path / "moved.npy"), **{**named, **FEW})
    assert before == {path.name: path.stat().st_mtime_ns for path in copy.glob("*.npz")}


def test_another_model_and_a_folder_of_other_files_are_refused(done: Sweep, place: Path, tmp_path: Path) -> None:
    save_weights(tmp_path / "other.safetensors", untrained_model(1))
    named: dict[str, Any] = {**FEW, "extractor": place / "extractor.safetensors"}
    with pytest.raises(ValueError, match="differ in model"):
        sweep(tmp_path / "other.safetensors", str(place / "real.npy"), out=done.folder, **named)
    with pytest.raises(FileExistsError, match="holds files, and no sweep"):
        swept(place, place)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"n": 4}, "4 images are too few for FID"),
        ({"n": 0}, "n = 0"),
        ({"metrics": ("is",)}, "metric 'is' is unknown"),
        ({"metrics": ()}, "no metrics"),
        ({"samplers": ("tuned",)}, "no setting is left: tuned"),
    ],
)
def test_impossible_options_are_refused_before_sampling(place: Path, tmp_path: Path, other: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        swept(place, tmp_path / "s", **other)
    assert not (tmp_path / "s").exists()


def test_a_run_keeps_its_sweeps(place: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "last"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    (checkpoint / "ema.safetensors").write_bytes((place / "model.safetensors").read_bytes())
    small: dict[str, Any] = {**FEW, "samplers": ("ddim",), "calls": (1,), "extractor": place / "extractor.safetensors"}
    made = sweep(tmp_path / "run", str(place / "real.npy"), name="first", **small)
    assert made.folder == tmp_path / "run" / "sweeps" / "first"
    assert made.page.exists()
    with pytest.raises(ValueError, match="plain name"):
        sweep(tmp_path / "run", str(place / "real.npy"), name="../first", **small)


def test_a_setting_that_sample_refuses_is_left_out_and_tried_again(place: Path, tmp_path: Path) -> None:
    """Here `sample` refuses because of unfinished samples of another protocol under the name of the setting."""
    part = tmp_path / "s" / "heun_1.part"
    made = swept(place, tmp_path / "s", calls=(1,), samplers=("ddim",))
    part.mkdir()
    np.savez(part / "00000000.npz", images=np.zeros(1))
    (part / "protocol.json").write_text("{}")
    made = swept(place, tmp_path / "s", calls=(1,))
    assert [row.setting.name for row in made.rows if row.setting.sampler == "heun"] == []
    assert "heun at 1 steps" in str(made.left_out[-1])
    assert "unfinished samples that differ" in str(made.left_out[-1])
    for file in part.iterdir():
        file.unlink()
    made = swept(place, tmp_path / "s", calls=(1,))
    assert [row.setting.name for row in made.rows if row.setting.sampler == "heun"] == ["heun_1"]


def test_fitted_samplers_are_settings_and_a_new_fit_replaces_the_old_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = load_model(place / "model.safetensors")

    def fit(calls: int, eta: float, name: str = "mine") -> Tuned:
        return Tuned(name, str(model.fingerprint), *Coefficients.ddim(make_grid(model.schedule, calls), eta).plain())

    save_tuned(fit(2, 0.0), Path("tuned"))
    tuned = {"samplers": ("ddim", "tuned"), "calls": (2, 3), "etas": (0,)}
    made = swept(place, tmp_path / "s", **tuned)
    rows = {(row.setting.method, row.calls): row for row in made.rows}
    assert set(rows) == {("ddim, eta 0", 2), ("ddim, eta 0", 3), ("tuned", 2)}
    assert "tuned at 3 calls: " in str(made.left_out[0])
    assert rows["tuned", 2].setting.fit == fit(2, 0.0).digest
    # this fit is DDIM by other means: to a level, since it adds the same numbers up in another order
    one, other = (Samples.load(rows[m, 2].samples).images.astype(int) for m in ("tuned", "ddim, eta 0"))
    assert np.abs(one - other).max() <= 1
    before = stamps(tmp_path / "s")
    save_tuned(fit(2, 0.7), Path("tuned"), overwrite=True)
    again = swept(place, tmp_path / "s", **tuned)
    (row,) = (row for row in again.rows if row.setting.sampler == "tuned")
    assert row.setting.fit == fit(2, 0.7).digest
    assert stamps(tmp_path / "s").items() > before.items()
    assert not np.array_equal(Samples.load(row.samples).images, Samples.load(rows["tuned", 2].samples).images)


def test_the_calls_of_an_adaptive_plan_are_measured(place: Path, tmp_path: Path) -> None:
    plans = ("full", "adaptive(0.5)")
    made = swept(place, tmp_path / "s", samplers=("ddim",), calls=(4,), steps=(12,), etas=(0,), plans=plans)
    rows = {(row.setting.plan, row.setting.steps): row for row in made.rows}
    assert set(rows) == {(None, 4), (None, 12), ("adaptive(0.5)", 12)}
    assert 1 <= rows["adaptive(0.5)", 12].calls < rows[None, 12].calls == 12
    assert "not known before sampling: give steps instead of calls" in str(made.left_out[0])


# ---- killed, stopped, divided


@pytest.mark.slow(15)
def test_a_killed_sweep_resumes(place: Path, done: Sweep, tmp_path: Path) -> None:
    """kill -9 after some settings: their files are not touched, the rest is sampled, and the result is that of a whole sweep."""
    out = tmp_path / "s"
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command(place, out)], env={**os.environ, **ENV}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    try:
        while not ((out / "rows" / "ddim_2_eta_1.json").exists() and list(out.glob("*.part/*.npz"))):
            assert child.poll() is None, child.communicate()[1].decode()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    before = stamps(out)
    finished = {p.stem for p in (out / "rows").glob("[!.]*.json")}
    assert {"ddim_2_eta_0", "ddim_2_eta_1"} <= finished < set(TRIED)
    assert len(list(read_jsonl(out / "results.jsonl"))) >= 1  # before the end as well
    made = swept(place, out)
    assert stamps(out).items() >= before.items()
    assert_alike(made, done)
    assert not list(out.glob("*.part"))


# slows every batch down, so that the kill falls among them
SLOW = """
import sys, time
from alphabar.denoiser.model import Model
from alphabar.cli.main import main
inner = Model.forward
def forward(self, *args):
    time.sleep(0.02)
    return inner(self, *args)
Model.forward = forward
main()
"""


def test_ctrl_c_writes_the_page_of_the_finished_settings(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, finish, finished = tmp_path / "s", LoadedJob.finish, []

    def finish_two(job: LoadedJob, setting: Setting, *more: Any) -> None:
        if len(finished) == 2:
            raise KeyboardInterrupt
        finish(job, setting, *more)
        finished.append(setting.name)

    monkeypatch.setattr(LoadedJob, "finish", finish_two)
    with pytest.raises(KeyboardInterrupt, match="2 settings are finished and kept in"):
        swept(place, out)
    assert "was stopped before its end" in (out / "index.html").read_text()
    assert [row["name"] for row in read_jsonl(out / "results.jsonl")] == finished


def assert_alike(a: Sweep, b: Sweep, standing: bool = True) -> None:
    """The same images and scores; with all settings, also the same front."""
    assert [row.setting for row in a.rows] == [row.setting for row in b.rows]
    for one, other in zip(a.rows, b.rows, strict=True):
        np.testing.assert_array_equal(Samples.load(one.samples).images, Samples.load(other.samples).images)
        for metric, score in one.scores.items():
            assert replace(score, sampler=None) == replace(other.scores[metric], sampler=None)  # which holds the seconds
        if standing:
            assert one.standings["fid"]["calls"] == other.standings["fid"]["calls"]


@pytest.mark.slow(30)
def test_two_processes_give_the_results_of_one(place: Path, done: Sweep, tmp_path: Path) -> None:
    env = {**os.environ, **ENV, "ALPHABAR_CACHE": str(tmp_path / "cache")}
    done_run = subprocess.run(
        [*(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "alphabar", "--"),
         *command(place, tmp_path / "s", "--json")],
        env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done_run.returncode == 0, done_run.stderr[-3000:]
    printed = json.loads(done_run.stdout)  # the first process prints
    wanted, _ = settings(load_model(place / "model.safetensors"), samplers=FEW["samplers"], calls=FEW["calls"])
    shares = {s.name: rank for rank, share in enumerate(divided(wanted, 2)) for s, _ in share}
    assert {row["name"]: row["machine"]["process"] for row in printed["rows"]} == shares  # each process its share
    made = swept(place, tmp_path / "s")  # draws nothing more
    assert {row.where["processes"] for row in made.rows} == {2}
    assert_alike(made, done)
    assert "Up to 2 settings were sampled at once" in (tmp_path / "s" / "index.html").read_text()


@pytest.mark.slow(40)
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed: pip install 'alphabar[ray]'")
def test_ray_gives_the_results_of_one_process(place: Path, done: Sweep, tmp_path: Path) -> None:
    """One node of Ray stands for them; one setting is a two-call sampler's, one is stochastic."""
    few = ["--samplers", "ddim", "heun", "--calls", "3", "--eta", "0", "1", "--ray", "local", "--json"]
    done_run = subprocess.run(
        [sys.executable, "-m", "alphabar", *command(place, tmp_path / "s", *few)],
        env={**os.environ, **ENV}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done_run.returncode == 0, done_run.stderr[-3000:]
    found = {row["name"]: row for row in json.loads(done_run.stdout)["rows"]}
    assert {"ddim_3_eta_0", "ddim_3_eta_1", "heun_2"} <= set(found) <= set(TRIED)
    before = stamps(tmp_path / "s")
    made = swept(place, tmp_path / "s", calls=(3,))
    assert stamps(tmp_path / "s") == before  # nothing was left to do
    kept = [row for row in done.rows if row.setting.name in found]
    assert_alike(made, replace(done, rows=kept), standing=False)


def test_a_missing_ray_is_named(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'alphabar\[ray\]'"):
        swept(place, tmp_path / "s", ray="local")


def test_the_command_lists_settings_and_prints_a_table(
    place: Path, done: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        with contextlib.suppress(SystemExit):
            app(arguments)
        return capsys.readouterr().out

    output = run(*command(place, tmp_path / "s", "--dry-run", "--eta", "0", "1", "--json"))
    found = json.loads(output)
    assert sorted(row["name"] for row in found["settings"]) == sorted(TRIED)
    assert found["left_out"] == [{"method": "heun, eta 1", "at": "", "why": "it is deterministic and takes no eta"}]
    assert not (tmp_path / "s").exists()
    assert "6 settings of 64 images: 896 network calls" in run(*command(place, tmp_path / "s", "--dry-run"))
    output = run(*command(place, done.folder, "--shown", "5"))  # all of it is there
    assert "FID front" in output
    assert "ddim, eta 1" in output
    assert "real images (the floor)" in output
    assert str(done.page) in output.replace("\n", "")
