"""What training came to among base and novel classes: which gradient serves both kinds best, and whether that is sure.

A difference is of the same seeds, and sure where its interval over seeds leaves out 0.
"""

import pandas as pd

from analyses.generalized_summary import OF_MEANS, Seeds, interval, paired
from figures.generalized_view import FLOORS, PLAIN, TUNED, UNTRAINED, Case, Way, studied
from figures.section import Verdict
from figures.wording import listed, steps


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each problem."""
    return tuple(_verdict(case) for case in studied(frame))


def _verdict(case: Case) -> Verdict:
    tuned = _tables(case, TUNED)
    if not tuned:
        return Verdict(case.name, "not measured", "Nothing was trained and tested among base and novel classes.")
    shared = sorted(set.intersection(*({int(count) for count in table.index} for table in tuned.values())))
    if not shared:
        return Verdict(case.name, "not comparable", "No number of inner steps was trained with by every method.")
    each = {way: table.loc[shared].mean(axis=0, skipna=False) for way, table in tuned.items()}  # by seed
    levels = {way: interval(values.tolist()) for way, values in each.items()}
    if all(level.seeds == 0 for level in levels.values()):
        return Verdict(case.name, "no number", f"No run has an accuracy.{_diverged(case)}")
    order = sorted(levels, key=lambda way: (-levels[way].mean, way))
    answer, against = _ranked(case, order, levels, each)
    seeds = max(level.seeds for level in levels.values())
    counted = f"{seeds} seed{'s' * (seeds != 1)}"
    sentence = (
        f"Harmonic mean of mean base and mean novel accuracy, bias tuned on validation, averaged over training (and "
        f"testing) with {_counts(shared)}, {counted}: "
        + "; ".join(f"{case.name_of(way)} {_level(levels[way])}" for way in order)
        + f".{against}"
    )
    best = order[0]
    sentence += _sides(case, best, shared) + _bias(case, best, shared) + _floors(case, best, shared)
    sentence += _over_steps(case, tuned) + _diverged(case)
    return Verdict(case.name, answer, sentence)


def _tables(case: Case, calibration: str) -> dict[Way, pd.DataFrame]:
    """Of each way, the harmonic means by training steps (rows) and seed (columns)."""
    found = case.at_own_steps(calibration)
    return {
        way: found[[other == way for other in found["way"]]].pivot(index="inner_steps", columns="seed", values=OF_MEANS)
        for way in sorted(set(found["way"]))
    }


def _ranked(case: Case, order: list[Way], levels: dict[Way, Seeds], each: dict[Way, pd.Series]) -> tuple[str, str]:
    """The answer, and the sentence of the differences behind it."""
    best = order[0]
    name = case.name_of(best)
    if len(order) == 1:
        return f"{name} reaches a harmonic mean of {_level(levels[best])}", ""
    differences = {way: paired(each[best], each[way]) for way in order[1:]}
    said = f" {name} less {listed([f'{case.name_of(way)} {_points(d)}' for way, d in differences.items()])}"
    if all(difference.seeds < 2 for difference in differences.values()):
        return f"cannot tell: one seed says nothing of others ({name} {_level(levels[best])})", f"{said}, of one seed."
    unsure = [way for way, difference in differences.items() if difference.sign <= 0]
    sure = [way for way in differences if way not in unsure]
    said += ", paired by seed; an interval that holds 0 tells nothing."
    if not unsure:
        return f"{name} has the greatest harmonic mean, {_level(levels[best])}", said
    behind = listed([f"{case.name_of(way)} ({_points(differences[way])})" for way in unsure])
    level = _level(levels[best])
    answer = f"cannot tell which has the greatest harmonic mean: {name} {level}, not surely above {behind}"
    return answer + (f", but above {listed([case.name_of(way) for way in sure])}" if sure else ""), said


def _sides(case: Case, way: Way, shared: list[int]) -> str:
    """How the best one's mean divides between base and novel classes."""
    rows = _of(case.at_own_steps(TUNED), way, shared).groupby("seed")[["base_accuracy", "novel_accuracy"]].mean()
    base, novel = (interval(rows[name].tolist()) for name in ("base_accuracy", "novel_accuracy"))
    return f" With {case.name_of(way)} that is {_level(base)} on base and {_level(novel)} on novel classes."


def _bias(case: Case, way: Way, shared: list[int]) -> str:
    """What the bias does for it."""
    sides = [_of(case.at_own_steps(kind), way, shared).groupby("seed")[OF_MEANS].mean() for kind in (TUNED, PLAIN)]
    gain = paired(*sides)
    return "" if not gain.seeds else f" The bias changes its harmonic mean by {_points(gain)}."


def _over_steps(case: Case, tables: dict[Way, pd.DataFrame]) -> str:
    """How each way's harmonic mean goes from the fewest to the most inner steps."""
    said = []
    for way, table in tables.items():
        few, most = (int(count) for count in (min(table.index), max(table.index)))
        if few == most:
            continue
        change = paired(*(table.loc[[count]].mean(axis=0, skipna=False) for count in (most, few)))
        sure = {1: "", -1: "", 0: " (cannot tell)"}[change.sign]
        said.append(f"{case.name_of(way)} {_points(change)}{sure} from {steps(few)} to {most}")
    return f" Over inner steps the harmonic mean changes: {'; '.join(said)}." if said else ""


def _floors(case: Case, best: Way, shared: list[int]) -> str:
    """The best against what did not learn, on the same seeds."""
    trained = _of(case.at_own_steps(TUNED), best, shared).groupby("seed")[OF_MEANS].mean()
    said = []
    for name, words in FLOORS.items():
        rows = case.floor(name, TUNED)
        rows = rows[rows["test_steps"].isin(shared)] if name == UNTRAINED else rows
        if len(rows):
            floor = rows.groupby("seed")[OF_MEANS].mean()
            said.append(f"{words} ({_level(interval(floor.tolist()))}) is {_points(paired(trained, floor))}")
    return f" Its lead, either with its own bias, over {'; over '.join(said)}." if said else ""


def _diverged(case: Case) -> str:
    """How many runs ended early; they count with the best theta that they had."""
    ends = case.ends
    lost = int((ends["outcome"] == "diverged").sum())
    if not lost:
        return ""
    return f" {lost} of {len(ends)} runs diverged in training and count with the best theta that they had."


def _of(rows: pd.DataFrame, way: Way, shared: list[int]) -> pd.DataFrame:
    return rows[[other == way for other in rows["way"]]].query("inner_steps in @shared")


def _counts(shared: list[int]) -> str:
    return steps(shared[0]) if len(shared) == 1 else f"{listed([str(count) for count in shared])} inner steps"


def _level(found: Seeds) -> str:
    half = "" if found.seeds < 2 else f" +- {100 * found.half:.1f}"
    return f"{100 * found.mean:.1f}{half}%" if found.seeds else "unknown"


def _points(found: Seeds) -> str:
    if not found.seeds:
        return "unknown"
    if found.seeds < 2:
        return f"{100 * found.mean:+.1f} points"
    return f"{100 * found.mean:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
