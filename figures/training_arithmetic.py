"""Does arithmetic or rescaling explain that MAML is worse than iMAML? What the training runs say (Q2).

The difference is the clearest one at which iMAML is the better. An effect, of another arithmetic or rescaling of MAML
on the same seeds and tasks, explains it where it goes the same way and its interval lies beyond half of it, and cannot
where its interval ends short of the difference's, or where it goes the other way.
"""

from collections.abc import Sequence
from math import isfinite, isnan

import pandas as pd

from analyses.seeds import over_seeds
from figures.training_gaps import IMPLICIT_SOLVERS, clearest, each_judged, gap_text, implicit_line
from figures.training_lines import PLAIN, Line
from figures.training_view import Case, at
from figures.training_wording import BETTER, UNCLEAR, WORSE, against
from figures.wording import listed, steps

EXPLAINS, DOES_NOT, CANNOT_TELL, NOT_TRIED = "explains", "does not", "cannot tell", "not tried"
HALF = 0.5  # of a difference, which an effect must make up to be called its explanation


def arithmetic(case: Case) -> tuple[str, str]:
    """Whether another arithmetic or rescaling explains that MAML is worse than iMAML: for the answer, and in full."""
    own = [line for line in case.variants if case.reference and line.method == case.reference.method]
    own = [line for line in own if (case.gaps["line"] == line.name).any()]
    if not own:
        return "", ""
    moved = "; ".join(f"{line.name} {_effect(case, line)}" for line in own)
    sentence = f" Against MAML in {case.usual} on the data as they are, {moved}."
    main = implicit_line(case)
    if main is None:
        return "", sentence
    tried = case.gaps.loc[case.gaps["line"].isin([line.name for line in own]), "inner_steps"]
    gaps = case.gaps[(case.gaps["line"] == main.name) & case.gaps["inner_steps"].isin(tried)]
    kinds = each_judged(gaps, case)
    gap = clearest(gaps[[kind == BETTER for kind in kinds]], case)  # where iMAML is the better one
    if gap is not None:
        return _explained(case, own, main, gap)[0], f"{sentence}{_explained(case, own, main, gap)[1]}{_same(case, gap)}"
    gap = clearest(gaps[[kind == WORSE for kind in kinds]], case)
    if gap is None:
        return (
            "",
            f"{sentence} That MAML is worse than {main.name} cannot be told, so that there is nothing to explain.",
        )
    nowhere = f" At no number of inner steps tried can MAML be told to be worse than {main.name}"
    sentence += f"{nowhere} (clearest: {_of_gap(case, main, gap)}), so that there is no fault to explain."
    return "", sentence + _same(case, gap)


def _explained(case: Case, own: Sequence[Line], main: Line, gap: pd.Series) -> tuple[str, str]:
    """Which variants explain the difference, which do not, and of which it cannot be told."""
    shares = {line: _explains(at(case.gaps, line.name, float(gap["inner_steps"])), gap, case) for line in own}
    names = {
        kind: listed([_short(line, case) for line, share in shares.items() if share == kind])
        for kind in (EXPLAINS, DOES_NOT, CANNOT_TELL, NOT_TRIED)
    }
    words = {
        EXPLAINS: "at least half of it is gone in MAML with {}",
        DOES_NOT: "{} does not explain it, for what it changes is less, interval included, or the other way",
        CANNOT_TELL: "whether {} explains it cannot be told",
        NOT_TRIED: "{} was not tried there",
    }
    short = {
        EXPLAINS: "; {} explains at least half of that", DOES_NOT: "; {} does not explain that",
        CANNOT_TELL: "; whether {} explains that cannot be told",
    }  # fmt: skip
    said = "; ".join(words[kind].format(name) for kind, name in names.items() if name)
    other = " Something else explains it." if set(shares.values()) == {DOES_NOT} else ""
    answer = "".join(text.format(names[kind]) for kind, text in short.items() if names[kind])
    return answer, f" MAML is the worse one (clearest: {_of_gap(case, main, gap)}); {said}.{other}"


def _of_gap(case: Case, main: Line, gap: pd.Series) -> str:
    return f"{main.name} less MAML {gap_text(gap, case)} at {steps(float(gap['inner_steps']))}"


def _same(case: Case, gap: pd.Series) -> str:
    """Whether the two differ on rescaled data too, where both were trained on such."""
    said = []
    reference = case.reference
    for line in case.variants:
        if line.method not in IMPLICIT_SOLVERS or line.scaling == PLAIN:
            continue
        other = [x for x in case.variants if reference and (x.method, x.precision, x.scaling)
                 == (reference.method, line.precision, line.scaling)]  # fmt: skip
        if not other:
            continue
        row = at(over_seeds(case.less(other[0]), ["line", "inner_steps"]), line.name, float(gap["inner_steps"]))
        if row is not None and isfinite(row[case.measure]):
            said.append(f"{line.name} differs from {other[0].name} by {gap_text(row, case)}")
    return f" With {steps(float(gap['inner_steps']))} {listed(said)}." if said else ""


def _effect(case: Case, line: Line) -> str:
    rows = case.gaps[case.gaps["line"] == line.name]
    found_at = clearest(rows, case)
    if found_at is None:
        return "has no number"
    found = list(zip(rows["inner_steps"].tolist(), each_judged(rows, case), strict=True))
    where = f"{gap_text(found_at, case)} at {float(found_at['inner_steps']):g}"
    if all(what == UNCLEAR for _, what in found):
        return f"makes no difference that can be told ({'largest' if len(found) > 1 else 'it is'} {where})"
    return f"{against(sorted(found), 'it')} ({where})"


def _explains(effect: pd.Series | None, gap: pd.Series, case: Case) -> str:
    """Whether an effect with its interval can be the difference with its own."""
    if effect is None or isnan(effect[case.measure]):
        return NOT_TRIED
    (moved, half), (apart, width) = ((float(row[case.measure]), float(row[f"{case.measure}_half"]))
                                     for row in (effect, gap))  # fmt: skip
    if isnan(half) or isnan(width):
        return CANNOT_TELL
    same = moved * apart > 0
    if abs(moved) + half < abs(apart) - width or (not same and abs(moved) > half):
        return DOES_NOT
    return EXPLAINS if same and abs(moved) - half >= HALF * abs(apart) else CANNOT_TELL


def _short(line: Line, case: Case) -> str:
    """What sets a variant apart: `float64`, `standardize`."""
    return " with ".join(
        [
            *([line.precision] if line.precision != case.usual else []),
            *([line.scaling] if line.scaling != PLAIN else []),
        ]
    )
