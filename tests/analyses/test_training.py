"""The analysis of training: its cells, its rows, and cells that go on where they were stopped."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.analysis import Cell, measurements
from analyses.engine import Failed
from analyses.folder import tables
from analyses.run import cells_of, measure_all, open_run
from analyses.settings import Settings, resolve
from analyses.table import tidy
from analyses.task import answers, as_text
from analyses.training import measure_spec, rows_of
from analyses.unfinished import keeping, place_of
from diagnostics.training.checkpoint import NAME, read_checkpoint
from diagnostics.training.recipe import Recipe
from diagnostics.training.train import meta_train, parts, train
from tests.diagnostics.training.cases import GLYPHS, tiny

TABLE: dict[str, Any] = {
    "problems": ["sinusoid[shots=5,queries=5]"], "methods": ["maml", "imaml"], "steps": [1, 3], "tasks": 2,
    "seeds": [0, 1], "meta_iterations": 4, "validate_every": 2, "validation_tasks": 3, "test_tasks": 3,
    "test_steps": [1, 2], "probe_every": 2, "probe_tasks": 2,
}  # fmt: skip


def settings(**more: object) -> Settings:
    return resolve(("training",), "smoke", {"training": [TABLE | more]}, {})


def specs(asked: Settings) -> list[Any]:
    return [cell.spec for cell in cells_of(asked)]


def test_every_choice_is_a_cell_and_cg_iterations_multiply_implicit_methods_alone() -> None:
    both = {"precisions": ["float32", "float64"], "scalings": ["none", "standardize"]}
    found = specs(settings(iterations=[2, 5], solvers=["cg", "cg_unchecked"], **both))
    each = [(spec["method"], spec["inner_steps"], spec["cg_iterations"]) for spec in found]
    assert len(found) == len(set(map(json.dumps, found))) == (1 + 2 * 2) * 2 * 2 * 2 * 2
    assert set(each) == {("maml", 1, 1), ("maml", 3, 1), *(("imaml", k, i) for k in (1, 3) for i in (2, 5))}


def test_cells_are_recipes_that_survive_json() -> None:
    spec = json.loads(json.dumps(specs(settings())[0]))
    assert asdict(Recipe(**{**spec, "test_steps": tuple(spec["test_steps"])})) == specs(settings())[0]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"methods": ["mamml"]}, "unknown method 'mamml'; did you mean 'maml'"),
        ({"problems": ["sinus"]}, "unknown problem 'sinus'"),
        ({"scalings": ["standardise"]}, "unknown rescaling 'standardise'"),
        ({"schedule": "linear"}, "schedule: expected one of constant, cosine"),
        ({"meta_lr": 0.0}, "meta_lr: input should be greater than 0"),
        ({"meta_iteration": 3}, "unknown entry 'meta_iteration'; did you mean 'meta_iterations'?"),
        ({"test_steps": [-1]}, "test_steps: input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_entry_is_named(wrong: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        cells_of(settings(**wrong))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_no_preset_trains_anything_by_itself() -> None:
    for preset in ("smoke", "quick", "full"):
        assert not cells_of(resolve(("training",), preset, {}, {}))


@pytest.fixture(scope="module")
def glyph_rows() -> pd.DataFrame:
    recipe = tiny(problem=GLYPHS, method="imaml", probe_every=3, probe_tasks=2, precision="float32")
    return tidy(rows_of(train(recipe)))


def test_the_stages_of_a_run(glyph_rows: pd.DataFrame) -> None:
    rows = {str(stage): part for stage, part in glyph_rows.groupby("stage")}
    assert rows["train"]["iteration"].tolist() == [3, 6]
    assert rows["validation"]["iteration"].tolist() == [0, 3, 6]
    assert rows["validation"][["loss", "accuracy"]].notna().all(axis=None)
    assert rows["validation"]["elapsed"].is_monotonic_increasing and rows["validation"]["elapsed"].iloc[0] == 0
    probes = rows["probe"]
    assert probes["task"].tolist() == [0, 1, -1] * 3 and set(probes["target"]) == {"unrolled"}
    assert probes["cosine"].between(-1, 1).all() and set(probes["solver_iterations"]) == {5}
    assert rows["end"][["iteration", "outcome"]].to_numpy().tolist() == [[6, "ok"]]
    assert set(glyph_rows["transductive"]) == {"yes", "no"}  # the pixels' nearest neighbour alone looks at one query


def test_training_losses_are_means_since_the_validation_before() -> None:
    run = train(tiny(meta_iterations=5))
    rows = tidy(rows_of(run)).query("stage == 'train'")
    assert rows["iteration"].tolist() == [3, 5]
    losses = run.progress.losses
    assert rows["loss"].tolist() == [sum(losses[:3]) / 3, sum(losses[3:]) / 2]
    assert rows["elapsed"].tolist() == [run.progress.seconds[2], run.progress.seconds[4]]


def test_the_test_has_every_task_and_the_floors_beside_them(glyph_rows: pd.DataFrame) -> None:
    test = glyph_rows[glyph_rows["stage"] == "test"]
    trained = test[test["estimator"] == "implicit"]
    assert trained.groupby("test_steps")["task"].apply(list).to_dict() == {1: [0, 1, 2, 3], 3: [0, 1, 2, 3]}
    untrained = test[test["estimator"] == "untrained"]
    assert untrained["test_steps"].tolist() == [1, 3] and (untrained["iteration"] == 0).all()
    nearest = test[test["estimator"] == "nearest_neighbour"]
    assert len(nearest) == 1 and nearest["test_steps"].isna().all()
    assert test["accuracy"].between(0, 1).all() and nearest["accuracy"].iloc[0] > 0.2
    assert untrained["solver"].isna().all() and untrained["outer_lr"].isna().all()


def test_methods_of_a_seed_meet_the_same_tasks() -> None:
    """Not trained at all, two methods are the same network: their test rows then agree to the last bit."""
    runs = [train(tiny(method=method, outer_optimizer="sgd", meta_lr=1e-300, meta_iterations=1))
            for method in ("maml", "imaml")]  # fmt: skip
    one, other = (tidy(rows_of(run)).query("stage == 'test' and task >= 0")["loss"].to_numpy() for run in runs)
    assert (one == other).all() and len(set(one)) == len(one)


def test_a_run_that_diverged_has_rows_that_say_when() -> None:
    rows = tidy(rows_of(train(tiny(outer_optimizer="sgd", meta_lr=1e6, meta_iterations=30))))
    end = rows[rows["stage"] == "end"].iloc[0]
    assert end["outcome"] == "diverged" and 0 < end["iteration"] < 30
    assert rows.loc[rows["stage"] == "train", "iteration"].max() == end["iteration"]
    tested = rows[(rows["stage"] == "test") & (rows["task"] >= 0)]
    assert len(tested) == 8 and tested["loss"].notna().all() and set(tested["iteration"]) == {end["iteration"]}


def test_a_run_writes_its_table_and_keeps_what_is_unfinished(tmp_path: Path) -> None:
    asked = settings(methods=["maml"], steps=[1])
    store = open_run(tmp_path, asked)
    assert not measure_all(asked, store, lambda progress: None)
    (name, table), *_ = tables(asked, store)
    assert name == "training" and set(table["seed"]) == {0, 1} and set(table["analysis"]) == {"training"}
    kept = [place_of("training", spec) for spec in specs(asked)]
    assert kept == [None, None]  # outside of a run there is no such place
    with keeping(tmp_path):
        for spec in specs(asked):
            place = place_of("training", spec)
            assert place is not None and (place / NAME).is_file()


def test_a_cell_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped in its second of four iterations; the second time only three more are made."""
    asked = settings(methods=["fomaml"], steps=[1], seeds=[0])
    (spec,) = specs(asked)
    whole = [row for row in measure_spec(spec) if row["stage"] != "end"]

    class Stopped(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.iteration == 2:
            raise Stopped

    recipe = Recipe(**{**spec, "test_steps": tuple(spec["test_steps"])})
    with keeping(tmp_path):
        place = place_of("training", spec)
    assert place is not None
    drawn: list[int] = []
    from diagnostics.training import train as module

    original = module.batch_gradient
    monkeypatch.setattr(module, "batch_gradient", lambda *given: drawn.append(1) or original(*given))
    with pytest.raises(Stopped):
        meta_train(parts(recipe), place, stop, 0.0)
    kept = read_checkpoint(place / NAME, recipe)
    assert kept is not None and kept.iteration == 1  # the iteration that was stopped in is not in the file
    drawn.clear()
    with keeping(tmp_path):
        (answer,) = answers(as_text([Cell("training", spec)]), "auto")
    assert len(drawn) == 3 and answer.rows is not None
    clock = {"elapsed"}
    resumed = [row for row in answer.rows if row["stage"] != "end"]
    for one, other in zip(whole, resumed, strict=True):
        assert {k: repr(v) for k, v in one.items() if k not in clock} == {
            k: repr(v) for k, v in other.items() if k not in clock
        }


def test_a_damaged_checkpoint_fails_its_cell_alone_in_one_line(tmp_path: Path) -> None:
    asked = settings(methods=["maml"], steps=[1])
    store = open_run(tmp_path, asked)
    with keeping(tmp_path):
        place = place_of("training", specs(asked)[0])
    assert place is not None
    place.mkdir(parents=True)
    (place / NAME).write_bytes(b"damaged")
    failed = measure_all(asked, store, lambda progress: None)
    assert [type(each) for each in failed] == [Failed] and "expected an undamaged checkpoint" in failed[0].reason
    assert len(store.keys()) == 1


def test_a_worker_that_does_not_see_the_folder_begins_at_the_beginning(tmp_path: Path) -> None:
    with keeping(tmp_path):
        text = as_text([Cell("training", specs(settings())[0])])
    assert str(tmp_path) in text
    with keeping(tmp_path / "elsewhere"):
        assert place_of("training", {}) is None
    assert measurements["training"] is measure_spec
