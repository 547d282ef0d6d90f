"""Where the range of an arithmetic ends: from how many inner steps on MAML over- or underflows, rescaled or not."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.summary import median_interval
from figures.caution import ADVICE
from figures.scalings import EXACT_LOOP, PLAIN, mostly, scalings, under
from figures.table_view import precisions
from figures.wording import listed, steps

FAILURES = {
    "underflow": "digits are lost to underflow",
    "diverged": "the loop overflows",
    "not finite": "the gradient is not finite",
}
NOUNS = {"underflow": "underflow", "diverged": "overflow", "not finite": "overflow"}


@dataclass(frozen=True)
class Onset:
    """The fewest inner steps at which most tasks fail, how, and at which state (NaN where that is not known)."""

    count: float
    how: str
    state: float

    def __str__(self) -> str:
        """`from 1000 inner steps on (at state 160 of 1000)`."""
        return f"from {steps(self.count)} on" + (
            "" if np.isnan(self.state) else f" (at state {self.state:.0f} of {self.count:g})"
        )


def onset(maml: pd.DataFrame, name: str) -> Onset | None:
    """Where the range of the arithmetic ends under a rescaling; None where that was not met."""
    ours = maml[maml["scaling"] == name]
    for outcome in FAILURES:
        failing = mostly(ours, [outcome])
        if failing.any():
            count = failing[failing].index.get_level_values("inner_steps").min()
            hit = ours[(ours["inner_steps"] == count) & (ours["outcome"] == outcome)]
            return Onset(count, outcome, median_interval(hit["outcome_step"].astype(float).tolist())[0])
    return None


def limits(everywhere: pd.DataFrame) -> str:
    """From which number of steps on the range of each arithmetic is left, with and without rescaling."""
    sentence, hows = "", {}
    for low in precisions(everywhere):
        maml = everywhere[everywhere["precision"] == low]
        found = {name: onset(maml, name) for name in scalings(maml)}
        said = []
        for outcome, words in FAILURES.items():
            each = [f"{end} {under([name])}" for name, end in found.items() if end and end.how == outcome]
            if each:
                said.append(f"{words} in most tasks {listed(each)}")
                hows[outcome] = ADVICE[outcome]
        spared = [name for name, end in found.items() if end is None]
        if spared and found.get(PLAIN):
            said.append(f"within {steps(maml['inner_steps'].max())} nothing fails so {under(spared)}")
        if said:
            sentence += f" In {low}, {listed(said)}."
    return sentence + "".join(f" {advice}" for advice in hows.values())


def moved(everywhere: pd.DataFrame, low: str) -> str:
    """What power_of_two does to the end of an arithmetic's range."""
    maml = everywhere[everywhere["precision"] == low]
    before, after = (onset(maml, name) for name in (PLAIN, EXACT_LOOP))
    if before is None or EXACT_LOOP not in set(maml["scaling"]):
        return ""
    what = f"MAML's {NOUNS[before.how]} in {low}"
    if after is None:
        return f"power_of_two moves {what} from {before.count:g} to beyond {steps(maml['inner_steps'].max())}"
    if after.count != before.count:
        return f"power_of_two moves {what} from {before.count:g} to {steps(after.count)}"
    if after.state == before.state or np.isnan(after.state - before.state):
        return f"power_of_two does not move {what} ({steps(before.count)})"
    return f"power_of_two moves {what}, at {steps(before.count)}, from state {before.state:.0f} to {after.state:.0f}"
