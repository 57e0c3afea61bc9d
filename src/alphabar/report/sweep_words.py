"""A sweep in words: its front in two sentences, the standing of each setting, and what intervals and seconds mean."""

from collections.abc import Sequence

from alphabar.evaluation.estimate import LEVEL
from alphabar.evaluation.pareto import Standing
from alphabar.evaluation.score import TITLES, Score
from alphabar.report.words import estimate_words, intervals_explained, sig, without_interval
from alphabar.results.sweeps import Row, Sweep


def score_words(score: Score) -> str:
    """A score with its interval, in the units of its column."""
    return estimate_words(score.metric, score.value, score.interval)


def standing_words(row: Row, rows: Sequence[Row], metric: str, cost: str) -> str:
    """ "front", "worse than ddim · 8" or "not decided: ddim · 8", where the number is that of network calls."""
    standing = row.standings[metric][cost]
    if standing.on or standing.behind is None:
        return "front"
    better = rows[standing.behind]
    name = f"{better.setting.method} · {sig(better.calls)}"
    return f"worse than {name}" if standing.decided else f"not decided: {name}"


def mark(standing: Standing) -> str:
    """The same in one or two words, for a terminal."""
    return "● on" if standing.on else "worse" if standing.decided else "not decided"


def front_words(sweep: Sweep, metric: str) -> str:
    """The best setting, and the best one for at most half of its calls."""
    on = sweep.front(metric)
    best = on[-1]
    text = f"{best.setting.method} with {sig(best.calls)} network calls has the best {TITLES[metric]} here, "
    text += score_words(best.scores[metric])
    if half := [row for row in on if row.calls <= best.calls / 2]:
        text += f"; with {sig(half[-1].calls)} calls, {half[-1].setting.method} reaches {score_words(half[-1].scores[metric])}"
    return f"{text}."


def explanations(sweep: Sweep, metrics: Sequence[str]) -> list[str]:
    """What marks, brackets, the floor and seconds mean, a sentence or two each."""
    scores = [s for row in sweep.rows for m, s in row.scores.items() if m in metrics]
    first = TITLES[metrics[0]]
    out = [
        f"On the front: no setting that costs no more has a better {first}, by the measured values. Worse: the {first} is worse "
        "than that of the best setting that costs no more, and the difference is not chance; it is taken image by image on the "
        f"same noise, at {100 * LEVEL:g} % for all pairs of settings together. Not decided: more images would be needed."
    ]
    if known := [s.metric for s in scores if s.interval is not None]:
        out.append(f"In brackets: {100 * LEVEL:g} % intervals of one setting, {intervals_explained(known)}.")
    lacking = [s for s in scores if s.interval is None]
    out += without_interval((s.metric, (s.note or "the record gives no reason").removeprefix("no interval: ")) for s in lacking)
    return out + time_caveats(sweep)


def time_caveats(sweep: Sweep) -> list[str]:
    """How far the seconds of the settings can be compared."""
    places = machines(sweep)
    together = max(int(r.where["processes"]) for r in sweep.rows)
    out = ["Seconds were measured once, while sampling, and include whatever else the machine did."]
    if len(places) > 1:
        out.append(f"Seconds were measured on different machines ({'; '.join(places)}): compare calls instead.")
    if together > 1:
        out.append(
            f"Up to {together} settings were sampled at once: where they shared a machine, seconds are longer than for one alone."
        )
    return out


def machines(sweep: Sweep) -> list[str]:
    """The machines that sampled the settings."""
    return list(dict.fromkeys(f"{r.where['cpu']}, {r.where['device']}" for r in sweep.rows))


def floor_words(score: Score) -> str:
    """The score of as many real images, with its interval."""
    return estimate_words(score.metric, score.floor, score.floor_interval)
