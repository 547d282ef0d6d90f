"""What the costs say of each problem: how they grow with the inner steps, and the cheapest gradient that is right."""

import numpy as np
import pandas as pd

from figures.caution import ADVICE, nothing_to_compare
from figures.cost_view import (
    COLUMNS,
    IMPLICIT,
    LEVELS,
    LOOP,
    TARGET_ORDER,
    accuracies,
    bytes_text,
    cheapest,
    compared,
    costs,
    first_optimizer,
    growth,
    line_of,
    per_step,
    power_text,
    priced,
    seconds_text,
    way_name,
    ways,
)
from figures.names import TARGETS
from figures.section import Verdict
from figures.table_view import cases, view
from figures.wording import cosine, listed, steps

FULL = ("unrolled", -1.0)


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case."""
    everything = view(frame, COLUMNS, "cost", apart=("inner_optimizer",))
    everything = everything[~everything["theory"]]
    rows = priced(frame)
    table = costs(rows)
    judged = accuracies(rows) if len(rows) else pd.DataFrame()
    return tuple(
        _verdict(case, table[table["case"] == case], judged, everything[everything["case"] == case])
        for case in cases(everything)
    )


def _verdict(case: str, table: pd.DataFrame, judged: pd.DataFrame, everything: pd.DataFrame) -> Verdict:
    untried = everything[everything["outcome"] == "too large"]
    if table["seconds"].isna().all():
        if len(untried):
            return Verdict(case, "too large", f"Nothing was tried. {ADVICE['too large']}")
        return Verdict(case, "not measured", "No cost was measured.")
    optimizer = first_optimizer(table)
    answer, sentence = _at_the_most_steps(table, optimizer)
    sentence += _growing(table, optimizer) + _optimizers(table, optimizer)
    here = judged[judged["case"] == case]
    for target in TARGET_ORDER:
        sentence += _cheapest(compared(here, target, optimizer), target, everything)
    if len(untried):
        said = sorted({f"{name} at {steps(int(count))}" for name, count in _kinds(untried)})
        sentence += f" Not tried: {listed(said[:4])}{' and others' if len(said) > 4 else ''}. {ADVICE['too large']}"
    return Verdict(case, answer, sentence.strip())


def _kinds(untried: pd.DataFrame) -> list[tuple[str, float]]:
    """What was not tried, and from how many steps on."""
    names = [
        way_name(method, -1.0 if np.isnan(count) else count)
        for method, count in zip(untried["method"], untried["iterations"], strict=True)
    ]
    least = untried.assign(name=names).groupby("name")["inner_steps"].min()
    return [(str(name), float(count)) for name, count in least.items()]


def _at_the_most_steps(table: pd.DataFrame, optimizer: str) -> tuple[str, str]:
    lines = {way: line_of(table, optimizer, way) for way in ways(table)}
    shared = [set(line["inner_steps"]) for way, line in lines.items() if len(line)]
    common = set.intersection(*shared) if shared else set()
    last = max(common) if common else max(line["inner_steps"].max() for line in lines.values() if len(line))
    at = {
        way: line[line["inner_steps"] == last].iloc[0]
        for way, line in lines.items()
        if last in set(line["inner_steps"])
    }
    said = [f"{way_name(*way)} {seconds_text(row['seconds'])} and {_bytes(row)}" for way, row in at.items()]
    tasks = next(iter(at.values()))["tasks"]
    batch = f" of {tasks:g} task{'' if tasks == 1 else 's'}" if tasks == tasks else ""
    sentence = f"One gradient{batch} takes, after {steps(last)} of {optimizer}: {'; '.join(said)}."
    implicit = next((way for way in at if way[0] == IMPLICIT), None)
    if implicit is None or FULL not in at:
        way = next(iter(way for way in at if way[0] != LOOP), next(iter(at)))
        return f"{way_name(*way)} takes {seconds_text(at[way]['seconds'])} after {steps(last)}", sentence
    ratio = [at[implicit][by] / at[FULL][by] for by in ("seconds", "peak_bytes")]
    answer = (
        f"{way_name(*implicit)} takes {_times(ratio[0])} the time and {_times(ratio[1])} the bytes of the full graph "
        f"after {steps(last)}"
    )
    return answer, sentence


def _bytes(row: pd.Series) -> str:
    return "unknown bytes" if np.isnan(row["peak_bytes"]) else bytes_text(row["peak_bytes"])


def _times(ratio: float) -> str:
    return "an unknown multiple of" if np.isnan(ratio) else f"{float(f'{ratio:.2g}'):g} times"


def _growing(table: pd.DataFrame, optimizer: str) -> str:
    """How bytes and seconds grow with the steps."""
    bytes_, seconds = [], []
    for way in ways(table):
        line = line_of(table, optimizer, way)
        if not np.isnan(growth(line, "peak_bytes")):
            each = per_step(line, "peak_bytes")
            more = f" ({bytes_text(each)} a step)" if each >= 1 else ""
            bytes_.append(f"{power_text(growth(line, 'peak_bytes'))} for {way_name(*way)}{more}")
        if not np.isnan(growth(line, "seconds")):
            seconds.append(f"{power_text(growth(line, 'seconds'))} for {way_name(*way)}")
    said = (
        f" Beyond what they begin with, the peak bytes grow with the steps K as {'; '.join(bytes_)}." if bytes_ else ""
    )
    return said + (f" Seconds grow as {'; '.join(seconds)}." if seconds else "")


def _optimizers(table: pd.DataFrame, first: str) -> str:
    """What the other optimizers cost beside the first, for the full graph and the implicit gradient."""
    said = []
    for other in [name for name in dict.fromkeys(table["inner_optimizer"]) if name != first]:
        for way in [way for way in ways(table) if way == FULL or way[0] == IMPLICIT]:
            one, two = (line_of(table, name, way).set_index("inner_steps") for name in (first, other))
            both = sorted(set(one.index) & set(two.index))
            if both:
                ratio = [two[by][both[-1]] / one[by][both[-1]] for by in ("seconds", "peak_bytes")]
                said.append(
                    f"{way_name(*way)} takes with {other} {_times(ratio[0])} the time and {_times(ratio[1])} the bytes"
                )
    return f" Against {first}, {'; '.join(said)}." if said else ""


def _cheapest(here: pd.DataFrame, target: str, everything: pd.DataFrame) -> str:
    name = f"the {TARGETS[target]}"
    if here.empty:
        if not (everything["target"] == target).any():
            return ""
        return f" No cosine to {name}: {nothing_to_compare(everything, target)}.".replace("\n", " ")
    of = f" of {steps(float(here['inner_steps'].iloc[0]))}" if target == "unrolled" else ""
    reached = [level for level in LEVELS if cheapest(here, level, "seconds") is not None]
    if not reached:
        best = here.sort_values("cosine", kind="stable").iloc[-1]
        return (
            f" No setting reaches a median cosine of {LEVELS[0]} to {name}{of}; the best is {_cosine(best)} with "
            f"{_setting(best)}."
        )
    fast, small = (cheapest(here, reached[-1], by) for by in ("seconds", "peak_bytes"))
    assert fast is not None, "a setting that is reached"
    sentence = (
        f" The fastest setting with a median cosine of {reached[-1]} to {name}{of} is {_setting(fast)} "
        f"({seconds_text(fast['seconds'])}, cosine {_cosine(fast)})"
    )
    if small is not None:
        same = small.name == fast.name
        sentence += (
            f", which takes the least memory too ({_bytes(small)})" if same
            else f", and the smallest {_setting(small)} ({_bytes(small)}, cosine {_cosine(small)})"
        )  # fmt: skip
    missed = [str(level) for level in LEVELS if level not in reached]
    return sentence + (f"; no setting reaches {listed(missed)}." if missed else ".")


def _cosine(row: pd.Series) -> str:
    return cosine([float(row["cosine" + end]) for end in ("", "_low", "_high")])


def _setting(row: pd.Series) -> str:
    warning = " (warning: Hessian indefinite in most tasks)" if bool(row["mostly_indefinite"]) else ""
    return (
        f"{way_name(str(row['method']), float(row['iterations']))} after {steps(float(row['inner_steps']))} of "
        f"{row['inner_optimizer']}{warning}"
    )
