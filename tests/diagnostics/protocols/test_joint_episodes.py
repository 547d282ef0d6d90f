"""Joint episodes: who sees what, that training sees nothing of what is asked later, and that draws can be repeated."""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from diagnostics.data import glyphs
from diagnostics.protocols.joint_episodes import PARTS, JointClasses, check_unseen, draw_joint

BASE, WAYS = 6, 2


@dataclass(frozen=True, eq=False)
class Images:
    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] = ()


def marked(counts: list[int], first: int) -> Images:
    """Images of one pixel value each, `first`, `first + 1`, ...: what is shown tells which drawing it is."""
    labels = np.repeat(np.arange(len(counts)), counts)
    values = (first + np.arange(len(labels))).astype(np.uint8)
    names = tuple(f"class {first + label}" for label in range(len(counts)))
    return Images(np.broadcast_to(values[:, None, None], (len(labels), 4, 4)).copy(), labels, names)


SEEN, UNSEEN = marked([4, 5, 8, 9, 12, 4, 16, 7], 1), marked([4, 6, 5], 101)  # 65 and 15 drawings


def joint(part: str, base: int = BASE) -> JointClasses:
    return JointClasses(SEEN, None if part == "train" else UNSEEN, base, part)


def drawn(part: str, tasks: int = 50, rehearsal: int = 1, seed: int = 0) -> dict[str, Tensor]:
    return draw_joint(joint(part), tasks, WAYS, 1, 3, 2, rehearsal, seed, size=4, jitter=None)


def shown(images: Tensor) -> np.ndarray:
    """The values of the drawings, `(tasks, n)`."""
    return (images[..., 0, 0, 0] * 255).round().long().numpy()


@pytest.mark.parametrize("part", PARTS)
def test_shapes_labels_and_columns(part: str) -> None:
    base = BASE - WAYS if part == "train" else BASE
    found = drawn(part, tasks=5)
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "columns": (5, base + WAYS),
        "support_images": (5, base + WAYS, 1, 4, 4),
        "support_labels": (5, base + WAYS),
        "query_images": (5, 2 * base + 3 * WAYS, 1, 4, 4),
        "query_labels": (5, 2 * base + 3 * WAYS),
    }
    assert found["support_labels"].tolist() == [list(range(base + WAYS))] * 5
    expected = [label for label in range(base) for _ in range(2)] + [base] * 3 + [base + 1] * 3
    assert found["query_labels"].tolist() == [expected] * 5
    assert found["columns"][:, base:].tolist() == [[BASE, BASE + 1]] * 5
    if part != "train":
        assert found["columns"][:, :base].tolist() == [list(range(BASE))] * 5


@pytest.mark.parametrize("part", PARTS)
def test_images_are_of_the_class_that_their_label_says(part: str) -> None:
    classes, found = joint(part), drawn(part)
    base = found["columns"].shape[1] - WAYS
    novel_of_task = []
    for role in ("support", "query"):
        values, labels = shown(found[f"{role}_images"]), found[f"{role}_labels"].numpy()
        for task, columns in enumerate(found["columns"].numpy()):
            of_base = labels[task] < base
            rows = values[task][of_base] - 1
            assert (SEEN.labels[rows] == classes.classes[columns[labels[task][of_base]]]).all()
            source, first = (SEEN, 1) if part == "train" else (UNSEEN, 101)
            novel = source.labels[values[task][~of_base] - first]
            pairs = set(zip(labels[task][~of_base].tolist(), novel.tolist(), strict=True))
            assert len(pairs) == WAYS == len({c for _, c in pairs})
            novel_of_task.append((task, frozenset(pairs)))
    assert len(set(novel_of_task)) == 50  # support and query agree on which class has which novel label


def test_pretended_novel_classes_are_no_base_classes_of_their_episode() -> None:
    classes, found = joint("train"), drawn("train")
    of_novel = found["query_labels"] >= BASE - WAYS
    all_novel = set()
    for task, values in enumerate(shown(found["query_images"])):
        novel = set(SEEN.labels[values[of_novel[task].numpy()] - 1].tolist())
        base = set(classes.classes[found["columns"][task, :-WAYS].numpy()].tolist())
        assert novel | base == set(classes.classes.tolist()) and not novel & base
        all_novel |= novel
    assert all_novel == set(classes.classes.tolist())  # every base class plays novel some time


@pytest.mark.parametrize("rehearsal", [0, 1, 3])
def test_training_sees_training_drawings_alone_and_queries_later_are_others(rehearsal: int) -> None:
    seen = set()
    for role in ("support", "query"):
        seen |= set((shown(drawn("train", 400, rehearsal)[f"{role}_images"]) - 1).ravel().tolist())
    classes = joint("train")
    assert seen == set(classes.rows("train").tolist())
    asked = {}
    for part in PARTS[1:]:
        found = drawn(part, 400, rehearsal)
        base_queries = shown(found["query_images"])[:, : 2 * BASE] - 1
        asked[part] = set(base_queries.ravel().tolist())
        assert asked[part] <= set(classes.rows(part).tolist()) and not asked[part] & seen
        if rehearsal:
            rehearsed = shown(found["support_images"])[:, : rehearsal * BASE] - 1
            assert set(rehearsed.ravel().tolist()) <= seen
    assert not asked["validation"] & asked["test"]


def test_no_query_is_a_support_drawing_of_its_episode() -> None:
    for part in PARTS:
        found = drawn(part, 100)
        for support, query in zip(shown(found["support_images"]), shown(found["query_images"]), strict=True):
            assert not set(support.tolist()) & set(query.tolist())


def test_drawings_are_shared_out_by_class() -> None:
    parts = joint("train").parts
    for label, count in enumerate([4, 5, 8, 9, 12, 4, 16, 7]):
        shares = np.bincount(parts[SEEN.labels == label], minlength=3).tolist()
        assert shares == [count - 2 * max(count // 4, 1), max(count // 4, 1), max(count // 4, 1)]
    assert np.array_equal(parts, joint("test", base=3).parts)
    assert set(joint("test", base=3).classes) < set(joint("test", base=6).classes)


@pytest.mark.parametrize("part", PARTS)
def test_fewer_episodes_are_the_first_of_more_and_seeds_differ(part: str) -> None:
    few, many, other = drawn(part, 3), drawn(part, 7), drawn(part, 3, seed=1)
    for key in few:
        assert torch.equal(few[key], many[key][:3]), key
    assert not torch.equal(few["query_images"], other["query_images"])


# ---- what is refused


def test_held_out_drawings_may_not_be_trained_on() -> None:
    classes = joint("test")
    check_unseen(classes, classes.rows("train"))
    for part in PARTS[1:]:
        with pytest.raises(
            ValueError, match=f"training drawings of base classes alone, found row {classes.rows(part)[0]};"
        ):
            check_unseen(classes, classes.rows(part)[:1])
    not_base = int(np.flatnonzero(~np.isin(SEEN.labels, classes.classes))[0])
    with pytest.raises(ValueError, match="training drawings of base classes alone"):
        check_unseen(classes, np.array([not_base]))


@pytest.mark.parametrize("part", PARTS)
def test_a_draw_that_would_train_on_held_out_drawings_raises(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check stands in the way of a mistake in the drawing itself: here, held-out drawings taken for training."""
    classes, honest = joint(part), JointClasses.rows
    monkeypatch.setattr(JointClasses, "rows", lambda self, part: honest(self, "test" if part == "train" else part))
    with pytest.raises(ValueError, match="training drawings of base classes alone"):
        draw_joint(classes, 2, WAYS, 1, 3, 2, 1, 0, size=4)


def test_a_novel_class_that_was_trained_on_is_refused() -> None:
    with pytest.raises(ValueError, match="novel classes that training does not see, found .* images of them"):
        JointClasses(SEEN, SEEN, BASE, "test")
    renamed = replace(UNSEEN, names=("other", SEEN.names[0], "another"))
    with pytest.raises(ValueError, match="novel classes that training does not see, found 'class 1' in both"):
        JointClasses(SEEN, renamed, BASE, "test")


def test_a_held_out_copy_of_a_training_drawing_is_refused() -> None:
    classes = joint("train")
    images = SEEN.images.copy()
    images[classes.rows("test")[0]] = images[classes.rows("train")[0]]
    with pytest.raises(ValueError, match="held-out drawings that training does not see, found 1 images .* in test"):
        JointClasses(replace(SEEN, images=images), None, BASE, "train")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_glyphs_are_disjoint(split: str) -> None:
    """All training classes as base classes: their drawings, held-out ones and the novel ones share no image."""
    seen, unseen = glyphs.load("train"), glyphs.load(split)
    classes = JointClasses(seen, unseen, len(seen.names), split)
    assert len(classes.classes) == len(seen.names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": 9}, "expected at most 8, the training classes, found 9"),
        ({"base": 0}, "base: expected a whole number >= 1"),
        ({"part": "val"}, "part: expected one of train, validation, test"),
        ({"unseen": None}, "expected unseen classes for validation and test .* found none for test"),
        ({"part": "train"}, "none for train, found some for train"),
        ({"seen": marked([4, 3, 4], 1), "base": 3}, "at least 4 drawings of each base class.* found 3"),
    ],
)
def test_joint_classes_that_mean_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    given = {"seen": SEEN, "unseen": UNSEEN, "base": BASE, "part": "test"} | settings
    with pytest.raises(ValueError, match=message):
        JointClasses(**cast(dict, given))


def test_counts_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than the 6 base classes"):
        draw_joint(joint("train"), 2, 6, 1, 1, 1, 0, 0, size=4)
    with pytest.raises(ValueError, match="rehearsal: expected a whole number >= 0"):
        draw_joint(joint("train"), 2, 2, 1, 1, 1, -1, 0, size=4)
    for place in range(5):
        tasks, ways, shots, queries, base_queries = (int(other != place) for other in range(5))
        with pytest.raises(ValueError, match="expected a whole number >= 1, found 0"):
            draw_joint(joint("test"), tasks, ways, shots, queries, base_queries, 0, 0, size=4)
