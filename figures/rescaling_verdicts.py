"""What rescaled data change for each problem: MAML's rounding, where its range ends, and its distance from iMAML."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analyses.summary import UNIT, median_interval
from figures.axes import SMALLEST
from figures.range_ends import FAILURES, limits, moved
from figures.scalings import EXACT_LOOP, PLAIN, coarsest, exactly, rounding, scalings, studied, under
from figures.section import Verdict
from figures.table_view import cases, precisions
from figures.wording import iterations, listed, of_tasks, percent, plain, steps, steps_of

VISIBLE = 0.01  # of the difference between MAML and iMAML
SAME = 1e-6  # rounding errors closer than this, relatively, are those of one loop


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case."""
    rows = studied(frame)
    return tuple(_verdict(case, rows[rows["case"] == case]) for case in cases(rows))


def _verdict(case: str, here: pd.DataFrame) -> Verdict:
    everywhere = rounding(here)
    maml = coarsest(everywhere)
    if maml.empty:
        return Verdict(case, "not measured", "No rounding error of MAML was measured.")
    others = [name for name in scalings(maml) if name != PLAIN]
    count = maml["inner_steps"].max()
    end = maml[maml["inner_steps"] == count]
    sentence = _rounding(end) + limits(everywhere) + _same_loop(here, maml) + _another_problem(here, others)
    if not others:
        return Verdict(case, "not rescaled", sentence.strip())
    apart = exactly(here, "cg_unchecked", "unrolled")
    apart = apart[(apart["inner_steps"] == count) & apart["relative_error"].gt(0)]
    if apart.empty:
        return Verdict(case, _answer_for_maml(everywhere, end), sentence.strip())
    answer, more = _difference(end, apart)
    return Verdict(case, answer, (sentence + more + _stationary(here, count)).strip())


def _median(rows: pd.DataFrame, name: str) -> float:
    return median_interval(rows.loc[rows["scaling"] == name, "relative_error"].tolist())[0]


def _paired(one: pd.DataFrame, other: pd.DataFrame, keys: list[str]) -> np.ndarray:
    """The ratios of the relative errors in two tables, over what both have a number for and the other is above 0."""
    both = one.merge(other, on=keys, suffixes=("", "_other"))
    ratio = both["relative_error"] / both["relative_error_other"].where(both["relative_error_other"] > 0)
    return ratio[np.isfinite(ratio)].to_numpy(dtype=float)


def _times(end: pd.DataFrame, name: str) -> float:
    """By what rounding is larger than without rescaling: the median over tasks."""
    one, other = (end[end["scaling"] == wanted] for wanted in (name, PLAIN))
    return median_interval(_paired(one, other, list(UNIT)).tolist())[0]


def _failed(end: pd.DataFrame, name: str) -> str:
    """Which failures a rescaling's tasks have, and where."""
    rows = end[end["scaling"] == name]
    said = []
    for outcome in FAILURES:
        hit = rows[rows["outcome"] == outcome]
        if len(hit):
            at = hit["outcome_step"].dropna().astype(float)
            where = f", at state {at.median():.0f}" if len(at) else ""
            said.append(f"{outcome} in {of_tasks(len(hit), len(rows))}{where}")
    return f" ({'; '.join(said)})" if said else ""


def _each(said: Mapping[str, str]) -> str:
    """What is said of each rescaling, those of which the same is said together."""
    texts = dict.fromkeys(said.values())
    return listed([f"{text} {under([name for name in said if said[name] == text])}" for text in texts])


def _rounding(end: pd.DataFrame) -> str:
    """MAML's rounding error after the longest loop, and what each rescaling makes of it."""
    low, count = precisions(end)[0], end["inner_steps"].iloc[0]
    parts = []
    for name in scalings(end):
        value, failed = _median(end, name), _failed(end, name)
        times = _times(end, name) if name != PLAIN else np.nan
        if np.isnan(value):
            parts.append(f"no number {under([name])}{failed}")
        elif np.isnan(times):
            parts.append(f"{percent(value)} {under([name])}{failed}")
        elif abs(times - 1) <= SAME:
            parts.append(f"{percent(value)} {under([name])} (no change){failed}")
        else:
            parts.append(f"{percent(value)} {under([name])} ({plain(times)} times as much){failed}")
    return f"MAML's rounding error in {low} at {steps(count)} is {listed(parts)}."


def _same_loop(here: pd.DataFrame, maml: pd.DataFrame) -> str:
    """Whether power_of_two left the loop as it was, by its rounding errors where neither left the range."""
    fine = maml[~maml["outcome"].isin(list(FAILURES))]
    one, other = (fine[fine["scaling"] == name] for name in (EXACT_LOOP, PLAIN))
    both = one.merge(other, on=[*UNIT, "inner_steps"], suffixes=("", "_other"))
    sentence = ""
    if len(both):
        same = np.isclose(both["relative_error"], both["relative_error_other"], rtol=SAME, atol=0.0)
        if same.all():
            counts = sorted(set(both["inner_steps"]))
            tried = sorted(set(maml["inner_steps"]))
            sentence = f" power_of_two makes the same error in every task at {steps_of(counts, tried)}: it is one loop."
        else:
            sentence = (
                f" power_of_two makes another error in {int((~same).sum())} of {len(both)} gradients, where neither "
                "failed: numbers inside those loops left the range."
            )
    back = exactly(here, "unrolled_adjoint", "original")
    away = back[back["scaling"] == EXACT_LOOP].groupby("inner_steps")["relative_error"].median().max()
    if np.isnan(away):
        return sentence
    return sentence + f" Carried back, its exact gradient is at most {percent(away)} off that of the original problem."


def _another_problem(here: pd.DataFrame, others: list[str]) -> str:
    """How far the other rescalings take the gradient itself."""
    back = exactly(here, "unrolled_adjoint", "original")
    back = back[back["inner_steps"] == back["inner_steps"].max()]
    away = {name: _median(back, name) for name in others if name != EXACT_LOOP}
    said = {name: percent(value) for name, value in away.items() if not np.isnan(value)}
    if not said:
        return ""
    return f" The other rescalings make another problem: its exact gradient, carried back, is off by {_each(said)}."


def _difference(end: pd.DataFrame, apart: pd.DataFrame) -> tuple[str, str]:
    """Whether MAML and iMAML differ without rounding, and which part of that rounding is."""
    low = precisions(end)[0]
    gaps = {name: _median(apart, name) for name in scalings(apart)}
    said = _each({name: percent(gap) for name, gap in gaps.items()})
    given, count = iterations(apart["iterations"].max()), steps(apart["inner_steps"].max())
    sentence = f" Computed in {_exact(apart)}, MAML and iMAML ({given}) differ by {said}, at {count}."
    shares = {name: _share(end, apart, name) for name in gaps}
    gone = [name for name, share in shares.items() if share >= 1]
    visible = [f"{percent(share)} {under([name])}" for name, share in shares.items() if VISIBLE <= share < 1]
    small = [share for share in shares.values() if share < VISIBLE]
    kept = [gap for name, gap in gaps.items() if name not in (PLAIN, *gone)]
    spans = [f"{percent(gaps[PLAIN])} {under([PLAIN])}"] if PLAIN in gaps and PLAIN not in gone else []
    spans += [f"{_range(kept)} rescaled"] if kept else []
    parts = [f"MAML and iMAML differ without rounding too, by {listed(spans)}"] if spans else []
    parts += [f"{listed([under(gone)])} they differ by no more than {low} rounds"] if gone else []
    parts += [f"{low} rounding is a visible part of the difference: {listed(visible)}"] if visible else []
    parts += [f"{low} rounding is at most {percent(max(small))} of the difference"] if small and not visible else []
    known = {name: percent(share) if share < 1 else "more than all" for name, share in shares.items() if share == share}
    if known:
        sentence += f" Of that, MAML's {low} rounding is {_each(known)}."
    return "; ".join(parts), sentence


def _share(end: pd.DataFrame, apart: pd.DataFrame, name: str) -> float:
    """Which part of the difference rounding is: the median over tasks."""
    one, other = (rows[rows["scaling"] == name] for rows in (end, apart))
    return median_interval(_paired(one, other, list(UNIT)).tolist())[0]


def _range(values: list[float]) -> str:
    low, high = percent(min(values)), percent(max(values))
    return low if low == high else f"{low} to {high}"


def _exact(rows: pd.DataFrame) -> str:
    name = precisions(rows)[0]
    return "extended precision" if name == "extended" else name


def _stationary(here: pd.DataFrame, count: float) -> str:
    """Which of the two is nearer the stationary gradient, without rounding."""
    ends = [exactly(here, method, "stationary") for method in ("unrolled_adjoint", "cg_unchecked")]
    maml, implicit = (rows[rows["inner_steps"] == count] for rows in ends)
    found = {name: (_median(maml, name), _median(implicit, name)) for name in scalings(maml)}
    found = {name: pair for name, pair in found.items() if not np.isnan(pair).any()}
    if not found:
        return ""
    farther = [name for name, (one, other) in found.items() if one > max(other, SMALLEST)]
    told = {name: f"{percent(one)} and {percent(other)}" for name, (one, other) in found.items()}
    which = under(farther) if 0 < len(farther) < len(found) else "each time" if farther else "never"
    return (
        f" From the stationary gradient MAML and iMAML are {_each(told)} away in {_exact(maml)}: MAML is the farther "
        f"of the two {which}."
    )


def _answer_for_maml(everywhere: pd.DataFrame, end: pd.DataFrame) -> str:
    """The answer where there is no iMAML to compare with."""
    told = [said for low in precisions(everywhere) if (said := moved(everywhere, low))]
    if told:
        return "; ".join(told)
    low, count = precisions(end)[0], end["inner_steps"].iloc[0]
    times = [value for name in scalings(end) if name != PLAIN and not np.isnan(value := _times(end, name))]
    if not times:
        return f"no rounding error in {low} to compare at {steps(count)}"
    span = plain(min(times)) if min(times) == max(times) else f"{plain(min(times))} to {plain(max(times))}"
    return f"rescaled, MAML's rounding error in {low} is {span} times as large at {steps(count)}"
