"""Whether rounding explains why MAML and iMAML differ, or why either is off the stationary gradient, in words."""

from re import sub

import pandas as pd

from figures.caution import tasks_where
from figures.reasons import warning
from figures.rounding_view import DIFFERENCE, IMAML, MAML, NAMES, STATIONARY, Case
from figures.wording import first, listed, of_tasks, percent, steps, steps_of

VISIBLE = 0.01  # of the difference between the methods, or of a distance


def explained(case: Case) -> tuple[str, str]:
    """The answer, empty where the methods cannot be compared, and the sentences about the difference between them."""
    apart = case.line(IMAML, DIFFERENCE)
    if apart.empty:
        if (case.rows["method"] == IMAML).any():
            return "", " The difference between MAML and iMAML is not known in exact arithmetic."
        return "", " There is no implicit gradient here (strength 0, or no CG was run)."
    start, end = apart.index[0], apart.index[-1]
    sentence = f" In {case.exact} MAML and iMAML differ by {percent(apart[start])} of MAML's gradient at {steps(start)}"
    sentence += f" and by {percent(apart[end])} at {end:g}." if end != start else "."
    shares = {method: case.lines(method, "share") for method in NAMES}
    if not shares[MAML]:
        return "", sentence + " Of MAML's rounding no share in that is known."
    seen = {method: {name: s for name, s in found.items() if _visible(s).any()} for method, found in shares.items()}
    level = percent(VISIBLE)
    if seen[MAML]:
        said = listed([f"{place} ({_onset(seen[MAML][name], apart)})" for name, place in _places(seen[MAML]).items()])
        sentence += f" MAML's rounding is {level} of that or more {said}."
    unseen = {name: share for name, share in shares[MAML].items() if name not in seen[MAML]}
    if unseen:
        said = listed([f"{percent(share.max())} in {name}" for name, share in unseen.items()])
        sentence += f" MAML's rounding is at most {said} of that."
    if seen[IMAML]:
        sentence += f" iMAML's rounding is {level} of it or more {listed(list(_places(seen[IMAML]).values()))}."
    same = [name for name in unseen if name not in seen[IMAML]]
    if same:
        sentence += f" The difference is the same with more digits than {same[0]}'s{_both(case, same[0], apart)}."
    return _answer(seen[MAML], seen[IMAML], list(unseen), apart), sentence


def _answer(ours: dict[str, pd.Series], other: dict[str, pd.Series], unseen: list[str], apart: pd.Series) -> str:
    level = percent(VISIBLE)
    if ours:
        less = f"; less in {listed(unseen)}" if unseen else ""
        gaps = [percent(apart[_start(share)]) for share in ours.values()]
        gaps = [f"where that is {gaps[0]}", *gaps[1:]]
        said = listed([f"{place} ({gap})" for place, gap in zip(_places(ours).values(), gaps, strict=True)])
        return f"MAML's rounding is {level} or more of the MAML-iMAML difference {said}{less}"
    more = f"; iMAML's is more {listed(list(_places(other).values()))}" if other else ""
    return f"MAML's rounding is less than {level} of the MAML-iMAML difference in every arithmetic{more}"


def _visible(share: pd.Series) -> pd.Series:
    return share >= VISIBLE


def _start(share: pd.Series) -> float:
    """The least number of steps at which a share is visible."""
    return float(share.index[_visible(share)][0])


def _places(shares: dict[str, pd.Series]) -> dict[str, str]:
    """Where each share is visible: `in bfloat16 from 3 inner steps on`, and then `in float16 from 30 on`."""
    return in_turn({name: _where(share) for name, share in shares.items()})


def in_turn(places: dict[str, str]) -> dict[str, str]:
    """Places along the inner steps, by arithmetic, which are called inner steps only once."""
    said = [f"in {name} {place}" for name, place in places.items()]
    return dict(zip(places, [*said[:1], *(sub(" inner steps?", "", text) for text in said[1:])], strict=True))


def _where(share: pd.Series) -> str:
    seen = _visible(share)
    place = first(seen.tolist())
    if place is not None and not seen.iloc[:place].any():
        return on(share.index[place], share)
    return "at " + steps_of(share.index[seen].tolist(), share.index.tolist())


def on(start: float, line: pd.Series) -> str:
    """`from 3 inner steps on`, or `at 100 inner steps` where the line ends there."""
    return f"at {steps(start)}" if start == line.index[-1] else f"from {steps(start)} on"


def _onset(share: pd.Series, apart: pd.Series) -> str:
    """How large the share and the difference are where the share is first visible."""
    start = _start(share)
    part = percent(share[start]) if share[start] < 1 else "more than all"
    return f"{part} of a difference of {percent(apart[start])}"


def _both(case: Case, name: str, apart: pd.Series) -> str:
    """How far iMAML in an arithmetic is off the exact MAML, and how far it is off in exact arithmetic."""
    rounded = case.line(IMAML, DIFFERENCE, name)
    both = rounded.index.intersection(apart.index)
    if both.empty:
        return ""
    end = both[-1]
    return f": {percent(rounded[end])} in {name} and {percent(apart[end])} in {case.exact} at {steps(end)}"


def stationary(case: Case) -> str:
    """Sentences on whether more digits bring either method closer to the stationary gradient."""
    if case.line(MAML, STATIONARY).empty:
        hit, tasks = tasks_where(case.rows[case.rows["target"] == STATIONARY], "no minimiser")
        return (
            f" There is no stationary gradient to compare with: no minimiser in {of_tasks(hit, tasks)}." if hit else ""
        )
    return "".join(_closer(case, method) for method in NAMES)


def _closer(case: Case, method: str) -> str:
    exact, rounded = case.line(method, STATIONARY), case.line(method, STATIONARY, case.usual)
    change = case.line(method, STATIONARY, case.usual, "change")
    counts = change.index.intersection(exact.index).intersection(rounded.index)
    if counts.empty:
        return ""

    def distances(count: float) -> str:
        warned = warning(case.ends, count) if method == IMAML else ""
        both = f"{percent(rounded[count])} in {case.usual}, {percent(exact[count])} in {case.exact}"
        return f"{both} at {steps(count)}{warned}"

    place = first(_visible(change[counts]).tolist())
    same = counts if place is None else counts[:place]
    what = f"{NAMES[method]}'s distance to the stationary gradient"
    sentence = ""
    if len(same):
        until = "" if place is None else f" up to {steps(same[-1])}"
        sentence = (
            f" More digits than {case.usual}'s change {what} by at most {percent(change[same].max())} of itself{until}"
        )
        sentence += f", in the median task ({distances(same[-1])})"
    if place is not None:
        end = counts[-1]
        moved = "shorten" if exact[end] < rounded[end] else "lengthen"
        lead = f", and {moved} it" if sentence else f" More digits than {case.usual}'s {moved} {what}"
        sentence += f"{lead} {on(counts[place], change[counts])} ({distances(end)})"
    return sentence + "."
