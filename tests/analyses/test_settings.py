"""Settings: merged in the stated order, and every mistake told in one line."""

from pathlib import Path

import pytest

from analyses.settings import TABLES, Unreadable, as_json, differences, fingerprint, presets, read_file, resolve

ALL = ("steps", "cg", "surface", "curvature", "precision", "rescaling", "digits", "cost")


def test_every_preset_resolves_to_problems_that_exist() -> None:
    from analyses.run import cells_of

    assert {"smoke", "quick", "full"} <= set(presets())
    for name in presets():
        assert cells_of(resolve(ALL, name, {}, {}))


def test_flags_win_over_the_file_and_the_file_over_the_preset() -> None:
    settings = resolve(ALL, "smoke", {"tasks": 7, "steps": [3]}, {"tasks": 9, "steps": None})
    assert {grid.tasks for grid in settings.grids} == {9}
    assert {grid.steps for grid in settings.grids} == {(3,)}
    assert {grid.seeds for grid in settings.grids} == {grid.seeds for grid in resolve(ALL, "smoke", {}, {}).grids}


def test_a_files_grids_replace_the_presets() -> None:
    grid = {"problems": ["logistic"], "steps": [5, 1, 5], "iterations": [2], "tasks": 2, "seeds": [0]}
    (only,) = resolve(ALL, "quick", {"grid": [grid]}, {}).grids
    assert only.problems == ("logistic",)
    assert only.steps == (1, 5)  # sorted, each once


def test_a_chosen_problem_takes_the_grid_that_names_it() -> None:
    (grid,) = resolve(ALL, "quick", {}, {}, ("few_shot[width=8]",)).grids
    named = next(g for g in resolve(ALL, "quick", {}, {}).grids if any("few_shot" in name for name in g.problems))
    assert grid.problems == ("few_shot[width=8]",)
    assert grid.tasks == named.tasks


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"tasks": 0}, "tasks: input should be greater than or equal to 1, found 0"),
        ({"tasks": 2.5}, "tasks: input should be a valid integer, found 2.5"),
        ({"tasks": True}, "tasks: input should be a valid integer, found True"),
        ({"steps": (-1,)}, "steps: input should be greater than or equal to 0, found -1"),
        ({"iterations": (0,)}, "iterations: input should be greater than or equal to 1, found 0"),
        ({"steps": ()}, "steps: tuple should have at least 1 item"),
        ({"inner_lr": float("nan")}, "inner_lr"),
        ({"strength": -1.0}, "strength: input should be greater than or equal to 0, found -1.0"),
        ({"tasks": 10**20}, "tasks: input should be less than or equal to 10000000"),
        ({"setps": (1,)}, "unknown entry 'setps'; did you mean 'steps'?"),
    ],
)
def test_a_wrong_entry_is_named_with_what_was_expected(flags: dict, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve(ALL, "smoke", {}, flags)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_steps_are_allowed() -> None:
    assert resolve(ALL, "smoke", {}, {"steps": (0, 1)}).grids[0].steps == (0, 1)


def test_a_mistake_is_told_once_however_many_grids_make_it() -> None:
    with pytest.raises(ValueError) as caught:
        resolve(ALL, "quick", {}, {"seeds": (-1,)})
    assert str(caught.value) == "seeds: input should be greater than or equal to 0, found -1"


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="tasks.*inner_lr"):
        resolve(ALL, "smoke", {}, {"tasks": 0, "inner_lr": -1.0})


HOSTILE = {
    "not toml": b"steps = [1,",
    "binary": bytes(range(256)) * 4,
    "deep": b"a = " + b"[" * 100_000,
    "long number": b"tasks = " + b"9" * 10_000,
    "large": b"# " + b"x" * (1 << 21),
    "twice": b"tasks = 1\ntasks = 2\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_cannot_be_read_says_so_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(Unreadable) as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_file_that_is_none(kind: str, tmp_path: Path) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "nothing.toml"
    with pytest.raises(Unreadable, match="a folder" if kind == "folder" else "nothing there"):
        read_file(path)


def test_fingerprints_and_differences_see_every_change() -> None:
    one, two = (as_json(resolve(ALL, "smoke", {}, {"tasks": n})) for n in (3, 4))
    assert fingerprint(one) == fingerprint(as_json(resolve(ALL, "smoke", {}, {"tasks": 3})))
    assert fingerprint(one) != fingerprint(two)
    assert differences(one, one) == []
    kinds = sorted(name for name, _ in TABLES.values())
    changed = [f"{kind}[{at}].tasks: 3 -> 4" for kind in kinds for at in range(len(one[kind]))]
    assert differences(one, two) == changed


def test_differences_of_tables_more_or_less_are_told_by_their_number() -> None:
    """A table added to a file would otherwise fill a screen, old and new."""
    table = dict.fromkeys(map(str, range(40)), 1.5)
    assert differences({"costs": [table]}, {"costs": [table] * 2}) == ["costs: 1 entry -> 2 entries"]
    assert differences({"steps": [1, 5]}, {"steps": [1, 5, 10]}) == ["steps: [1, 5] -> [1, 5, 10]"]
    assert differences({"a": None}, {"a": table}) == ["a: null -> 40 entries"]


# ---- two kinds of tables


STUDY = {"problems": ["logistic"], "steps": [5, 1, 5], "iterations": [2], "tasks": 2, "seeds": [0]}


def test_a_file_of_grids_keeps_the_presets_studies_and_the_other_way_round() -> None:
    plain = resolve(ALL, "quick", {}, {})
    grids = resolve(ALL, "quick", {"grid": [STUDY]}, {})
    assert [grid.problems for grid in grids.grids] == [("logistic",)] and grids.roundings == plain.roundings
    studies = resolve(ALL, "quick", {"rounding": [STUDY]}, {})
    assert [study.problems for study in studies.roundings] == [("logistic",)] and studies.grids == plain.grids
    assert studies.roundings[0].steps == (1, 5) and studies.roundings[0].scalings == ("none",)


def test_an_entry_that_one_kind_of_table_has_goes_into_that_kind_alone() -> None:
    settings = resolve(
        ALL, "smoke", {"traced": ["bfloat16"], "lanczos_iterations": 7}, {"scalings": ["whiten"], "chunk": 3}
    )
    assert {(study.traced, study.scalings) for study in settings.roundings} == {(("bfloat16",), ("whiten",))}
    assert {(grid.lanczos_iterations, grid.chunk) for grid in settings.grids} == {(7, 3)}


def test_an_entry_that_both_kinds_have_goes_into_both() -> None:
    settings = resolve(ALL, "smoke", {}, {"reference_seconds": 0.5, "tasks": 3})
    tables = [*settings.grids, *settings.roundings]
    assert {(table.reference_seconds, table.tasks) for table in tables} == {(0.5, 3)}


@pytest.mark.parametrize("kind", ["grid", "rounding"])
def test_an_entry_that_no_table_has_is_named_and_so_is_one_of_the_other_kind(kind: str) -> None:
    """At the top of a file an entry of the other kind finds its table; inside of a table it is a mistake."""
    strange = {"grid": "traced", "rounding": "chunk"}[kind]
    for entry in (strange, "tsaks"):
        with pytest.raises(ValueError, match=f"unknown entry '{entry}'") as caught:
            resolve(ALL, "smoke", {kind: [STUDY | {entry: 1}]}, {})
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="unknown entry 'tsaks'; did you mean 'tasks'?"):
        resolve(ALL, "smoke", {"tsaks": 1}, {})
    with pytest.raises(ValueError, match=f"expected `{kind}` to be one or more"):
        resolve(ALL, "smoke", {kind: []}, {})


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"scalings": []}, "scalings: tuple should have at least 1 item"),
        ({"scalings": "none"}, "scalings: input should be a valid"),
        ({"traced": 1}, "traced: input should be a valid array, found 1"),
        ({"reference_seconds": -1.0}, "reference_seconds: input should be greater than or equal to 0, found -1.0"),
        ({"reference_seconds": float("inf")}, "reference_seconds: input should be a finite number"),
        ({"patience": -1}, "patience: input should be greater than or equal to 0, found -1"),
    ],
)
def test_a_wrong_entry_of_a_study_is_named(entries: dict, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve(ALL, "smoke", {}, entries)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_chosen_problem_takes_the_study_that_names_it() -> None:
    settings = resolve(ALL, "smoke", {}, {}, ("linear_regression[dimension=3]",))
    (study,) = settings.roundings
    assert study.problems == ("linear_regression[dimension=3]",) and "power_of_two" in study.scalings
    assert [grid.problems for grid in settings.grids] == [("linear_regression[dimension=3]",)]
