"""Call plans: counts derived by hand, and the parser of plans."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphabar.denoiser.plan import Adaptive, adaptive, every, full, parse_plan, predicate, progressive, timesteps
from alphabar.schedule.base import Scaled
from alphabar.schedule.betas import Linear
from alphabar.schedule.continuous import Cosine
from alphabar.schedule.grid import even_time, every_kth, trailing

ALL = timesteps(Linear(), every_kth(Linear(), 1))  # 999, 998, ... 0


def test_every_third_and_the_last_fifty_of_a_thousand():
    called = every(3, last=50)(1000)
    # steps 0, 3, ... 948 are 317 of the first 950, then all 50
    assert called.sum() == 367 and called.dtype == torch.bool
    lesson = [t % 3 == 0 or t < 50 for t in range(999, -1, -1)]
    assert called.tolist() == lesson


@settings(deadline=None)  # a busy machine must not fail it
@given(n=st.integers(1, 200), k=st.integers(1, 30), last=st.integers(0, 60))
def test_every_in_general(n, k, last):
    steps = set(every(k, last)(n).nonzero().flatten().tolist())
    assert steps == set(range(0, n, k)) | set(range(max(n - last, 0), n))


def test_progressive_is_counted_directly():
    called = progressive()(1000, ALL)
    wanted = [(t + 101) % ((t + 101) // 100) == 0 for t in range(999, -1, -1)]
    assert called.tolist() == wanted
    # multiples of m among m * 100 .. m * 100 + 99, from u = 101 to 1100
    assert called.sum() == sum(wanted) == 99 + 50 + 34 + 25 + 20 + 17 + 15 + 13 + 12 + 10 + 1 == 296
    assert called[-99:].all()


def test_timesteps_count_as_the_schedule_does():
    assert torch.allclose(ALL, torch.arange(999.0, -1, -1, dtype=torch.float64), atol=1e-8)
    half = Scaled(Linear(), 0.5)
    assert timesteps(half, trailing(half, 4)).round().tolist() == [999, 749, 499, 249]
    t = timesteps(Cosine(), even_time(Cosine(), 3))
    assert t.tolist() == pytest.approx([999, 666, 333])


def test_progressive_depends_on_the_timestep_on_any_grid():
    grid = trailing(Linear(), 10)  # timesteps 999, 899, ... 99
    called = progressive()(10, timesteps(Linear(), grid))
    assert called.tolist() == [t == 999 or (t + 101) % ((t + 101) // 100) == 0 for t in range(999, -1, -100)]


def test_a_custom_rule():
    plan = predicate(lambda step, t: step == 2 or t < 100, name="mine")
    called = plan(5, torch.tensor([900.0, 700, 500, 300, 50], dtype=torch.float64))
    assert called.tolist() == [True, False, True, False, True]
    assert str(plan) == "mine"


def test_the_first_step_always_calls():
    assert predicate(lambda step, t: False)(3, torch.zeros(3).double()).tolist() == [True, False, False]
    assert full()(4).all()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("every(3, last=50)", "every(3, last=50)"), (" every( 3 ,50 )", "every(3, last=50)"),
        ("every(k=3,last=0)", "every(3)"), ("every(2)", "every(2)"), ("full", "full"), ("full()", "full"),
        ("progressive", "progressive"),
    ],
)  # fmt: skip
def test_plans_are_parsed(text, name):
    plan = parse_plan(text)
    assert plan.name == name
    assert parse_plan(plan.name)(20, ALL[:20]).tolist() == plan(20, ALL[:20]).tolist()


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [("adaptive(0.05)", 0.05), ("adaptive( tolerance = 2e-3 )", 0.002), ("adaptive(.5)", 0.5), ("adaptive(0)", 0.0)],
)
def test_an_adaptive_plan_is_parsed(text, tolerance):
    plan = parse_plan(text)
    assert plan == adaptive(tolerance) and isinstance(plan, Adaptive)
    assert parse_plan(plan.name) == plan and str(plan) == plan.name


def test_an_adaptive_plan_has_no_calls_known_in_advance():
    with pytest.raises(ValueError, match=r"adaptive\(0.05\) decides image by image.*calls of 100 steps"):
        adaptive(0.05)(100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adaptive", "missing a required argument: 'tolerance'"),
        ("adaptive(-0.1)", "give a tolerance of 0 or more"),
        ("adaptive(1e999)", "give a tolerance of 0 or more"),
        ("adaptive(0.1, 3)", r"too many positional arguments \(adaptive takes tolerance\)"),
        ("adaptve(0.1)", "did you mean 'adaptive'"),
        ("evry(3)", "'evry' is unknown.*did you mean 'every'.*every\\(3, last=50\\)"),
        ("every", "missing a required argument: 'k'"),
        ("every(3, lst=50)", r"unexpected keyword argument 'lst' \(every takes k, last\)"),
        ("every(3, last=5.5)", "'last=5.5' is no argument of every, which takes whole numbers"),
        ("every(3, 4, 5)", "too many positional arguments"),
        ("every(3, k=4)", "multiple values for argument 'k'"),
        ("every(k=3, k=4)", "'k=4' is no argument of every"),
        ("every(0)", "give k >= 1"),
        ("full(3)", "full takes no arguments"),
        ("every(__import__('os'))", "is not a name with arguments"),
        ("every 3", "is not a name with arguments"),
        ("", "is not a name with arguments"),
        ("predicate", "pass your own rule"),
    ],
)
def test_invalid_plans_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_plan(text)


def test_missing_and_wrong_times_are_refused():
    with pytest.raises(ValueError, match="depends on timesteps: pass times=timesteps"):
        progressive()(10)
    with pytest.raises(ValueError, match="3 times for 4 steps"):
        full()(4, torch.zeros(3).double())
