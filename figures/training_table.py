"""The training runs as tables: of the report, of the terminal, and over what the means are taken."""

import numpy as np
import pandas as pd

from analyses.seeds import over_seeds
from figures.names import problem_name
from figures.training_view import KEYS, Case, seeds_of, studied
from figures.training_wording import with_half
from figures.wording import aligned

HEAD = ("problem", "method", "inner steps", "test", "less MAML", "seeds", "diverged")


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each method, number of inner steps in training and at test: means with intervals, and the exactness.

    `less_maml` is the difference to plain MAML with the same steps on the same seeds and tasks, with as many steps at
    test as in training; `gradient_distance` the mean 1 - cosine to the exact gradient along training.
    """
    parts = [_of_case(case) for case in studied(frame)]
    if not parts:
        return pd.DataFrame(
            columns=["case", "method", "inner_steps", "test_steps", "seeds", "tasks", "diverged", "lost"]
        )
    table = pd.concat(parts, ignore_index=True).rename(columns={"line": "method"})
    return table[[name for name in table.columns if table[name].notna().any()]]


def _of_case(case: Case) -> pd.DataFrame:
    found = case.tests.copy()
    gaps = case.gaps[[*KEYS, case.measure, f"{case.measure}_half"]].rename(
        columns={case.measure: "less_maml", f"{case.measure}_half": "less_maml_half"}
    )
    probed = case.probes.groupby(["line", "inner_steps", "seed"])[["cosine_distance"]].mean().reset_index()
    probed = over_seeds(probed, ["line", "inner_steps"], ["cosine_distance"])
    probed = probed.rename(columns={"cosine_distance": "gradient_distance"})
    found = found.merge(gaps, on=list(KEYS), how="left").merge(
        probed[["line", "inner_steps", "gradient_distance"]], on=["line", "inner_steps"], how="left"
    )
    found.insert(0, "case", case.name)
    columns = ["case", *KEYS, "seeds", "tasks", "diverged", "lost"]
    for name in ("loss", "accuracy", "less_maml"):
        middle, half = found[name], found.pop(f"{name}_half")
        found = found.assign(**{f"{name}_low": middle - half, f"{name}_high": middle + half})
        columns += [name, f"{name}_low", f"{name}_high"]
    return found[[*columns, "gradient_distance"]]


def told(frame: pd.DataFrame) -> tuple[str, ...]:
    """The test with the steps of training, a line a setting, as a table of text."""
    rows: list[tuple[str, ...]] = [HEAD]
    for case in studied(frame):
        percent = case.measure == "accuracy"
        value, half = case.measure, f"{case.measure}_half"
        both = case.as_trained.merge(case.gaps[[*KEYS, value, half]], on=list(KEYS), how="left", suffixes=("", "_less"))
        for line in case.lines:
            for row in both[both["line"] == line.name].sort_values("inner_steps").to_dict("records"):
                less = row[f"{value}_less"], row[f"{half}_less"]
                rows.append(
                    (
                        problem_name(case.name), line.name, f"{row['inner_steps']:g}",
                        f"{value} {with_half(row[value], row[half], percent=percent)}",
                        "" if np.isnan(less[0]) else with_half(*less, percent=percent, sign=True),
                        f"{row['seeds']}", f"{row['diverged']:g}" if row["diverged"] else "",
                    )
                )  # fmt: skip
    return aligned(rows)


def basis(frame: pd.DataFrame) -> str:
    """Over what the means are taken, and what the intervals are."""
    cases = studied(frame)
    if not cases:
        return "Nothing was trained."
    seeds, tasks = seeds_of(cases), [int(count) for case in cases for count in case.each["tasks"]]
    usual = {case.usual for case in cases}
    arithmetic = f" Arithmetic is {usual.pop()} where the name says no other." if len(usual) == 1 else ""
    text = f"Means over {_range(seeds)} seed{'' if max(seeds) == 1 else 's'} of means over {_range(tasks)} test tasks."
    if max(seeds) == 1:
        return text + " One seed shows no spread, so that there is no interval." + arithmetic
    return text + (
        " A seed has its own first theta and tasks; intervals are Student's t of the seeds' means, and speak of other "
        f"seeds and tasks both.{arithmetic}"
    )


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"
