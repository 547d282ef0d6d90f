"""Episodes in a joint label space of base and novel classes, drawn so that training never sees a novel class.

The base classes are some of the training split's; each has a row of the head for good. A class's drawings are shared
out once: about half for training, a quarter for validation, a quarter for test.

    training      `ways` base classes, drawn anew for each episode, play novel: their own rows of the head are left out
                  and they take the rows for novel classes (Gidaris and Komodakis 2018); the others stay base
    validation,   all base classes stay base; novel are `ways` classes of that split; the base queries are drawings
    test          that were held out for it

So the learner is trained for the very question that is asked later, and what it is asked about it has not seen: no
class that is novel there, and no drawing that is a query there. `JointClasses` refuses data that would break this.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diagnostics.checks import one_of, whole_number
from diagnostics.data.episodes import JITTER, Choice, ImageSet, Jitter, Pixels, choose, shown
from diagnostics.draws import stream

PARTS = ("train", "validation", "test")
LEAST = 4  # drawings of a base class: two to train with, one to validate, one to test
_BASE, _PARTS, _SEEDS = 70, 71, 72  # streams


@dataclass(frozen=True, eq=False)
class JointClasses:
    """The first `base` classes of a fixed random order of `seen`'s, and of `unseen` all.

    `seen` is the training split and `unseen` the split that novel classes are drawn from, None in training, where base
    classes play novel. `part` says which drawings of the base classes are queries: those of "train", "validation" or
    "test". Raises `ValueError` for fewer than 4 drawings of a base class, for more base classes than there are, for an
    unseen part without unseen classes or the other way round, and for data that would let training see what is asked
    later: a class name or an image that is both in training and novel, or in training and held out.
    """

    seen: ImageSet
    unseen: ImageSet | None
    base: int
    part: str

    def __post_init__(self) -> None:
        """Refuse what would make the answers worthless."""
        one_of("part", self.part, PARTS)
        whole_number("base", self.base, 1)
        if (self.unseen is None) != (self.part == "train"):
            raise ValueError(
                f"joint classes: expected unseen classes for validation and test and none for train, found "
                f"{'none' if self.unseen is None else 'some'} for {self.part}"
            )
        values, counts = np.unique(self.seen.labels, return_counts=True)
        if self.base > len(values):
            raise ValueError(f"base: expected at most {len(values)}, the training classes, found {self.base}; lower it")
        least = counts[np.isin(values, self.classes)].min()
        if least < LEAST:
            raise ValueError(
                f"joint classes: expected at least {LEAST} drawings of each base class, so that some can be held out; "
                f"found {least}"
            )
        self._refuse_shared()

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """The labels `(base,)` in `seen` of the base classes, ascending; more base classes include the fewer."""
        values = np.unique(self.seen.labels)
        return np.sort(stream(0, _BASE).permutation(values)[: self.base])

    @cached_property
    def parts(self) -> NDArray[np.int64]:
        """The place in PARTS of each drawing of `seen`, `(D,)`; the same for any choice of base classes."""
        labels = self.seen.labels
        order = np.lexsort([stream(0, _PARTS).random(len(labels)), labels])
        _, starts, place, counts = np.unique(labels[order], return_index=True, return_inverse=True, return_counts=True)
        rank, held_out = np.arange(len(labels)) - starts[place], np.maximum(counts // 4, 1)[place]
        parts = np.empty(len(labels), np.int64)
        parts[order] = np.where(rank < held_out, 2, np.where(rank < 2 * held_out, 1, 0))
        return parts

    def rows(self, part: str) -> NDArray[np.int64]:
        """The rows of `seen` that are drawings of base classes of that part."""
        return np.flatnonzero(np.isin(self.seen.labels, self.classes) & (self.parts == PARTS.index(part)))

    def _refuse_shared(self) -> None:
        trained = _digests(self.seen.images, self.rows("train"))
        for part in PARTS[1:]:
            if shared := trained & _digests(self.seen.images, self.rows(part)):
                raise ValueError(
                    f"joint classes: expected held-out drawings that training does not see, found {len(shared)} "
                    f"images both in training and in {part}; remove the copies"
                )
        if self.unseen is None:
            return
        if shared := trained & _digests(self.unseen.images, np.arange(len(self.unseen.labels))):
            raise ValueError(
                f"joint classes: expected novel classes that training does not see, found {len(shared)} images of them "
                "in training; make the splits disjoint"
            )
        names = [getattr(split, "names", ()) for split in (self.seen, self.unseen)]
        if same := sorted(set(names[0]) & set(names[1])):
            raise ValueError(
                f"joint classes: expected novel classes that training does not see, found {same[0]!r} in both; "
                "make the splits disjoint"
            )


def draw_joint(
    classes: JointClasses,
    tasks: int,
    ways: int,
    shots: int,
    queries: int,
    base_queries: int,
    rehearsal: int,
    seed: int,
    size: int = 28,
    jitter: Jitter | None = JITTER,
) -> dict[str, Tensor]:
    """`tasks` episodes; with b base classes in each, labels 0 to b - 1 are base, b to b + ways - 1 novel.

    `support_images` hold `rehearsal` training drawings of every base class (of all, so that they do not tell which are
    asked for), then `shots` of every novel class; `query_images` hold `base_queries` and `queries` of them. Labels are
    `support_labels`, `query_labels` (tasks, n). `columns (tasks, b + ways)` are the rows of the head that the labels
    stand for: `classes.base` rows for base classes, then `ways` for novel ones. Episode b does not depend on how many
    follow. Raises `ValueError` for counts that are none, and unless ways < base in training.
    """
    counts = {"tasks": tasks, "ways": ways, "shots": shots, "queries": queries, "base_queries": base_queries}
    for name, count in counts.items():
        whole_number(name, count, 1)
    whole_number("rehearsal", rehearsal, 0)
    if classes.unseen is None and ways >= classes.base:
        raise ValueError(
            f"ways: expected fewer than the {classes.base} base classes, of which they are drawn in training, found "
            f"{ways}; lower ways or raise base"
        )
    of_base, of_novel = (
        _training_rows(classes, tasks, ways, shots, queries, base_queries, rehearsal, seed)
        if classes.unseen is None
        else _evaluation_rows(classes, tasks, ways, shots, queries, base_queries, rehearsal, seed)
    )
    base_count = of_base.classes.shape[1]
    numbers = torch.from_numpy(np.searchsorted(classes.classes, of_base.classes))
    columns = torch.cat([numbers, torch.arange(classes.base, classes.base + ways).expand(tasks, -1)], dim=1)
    novel_images = (classes.unseen or classes.seen).images
    episodes: dict[str, Tensor] = {"columns": columns}
    for role, base_rows, novel_rows in (
        ("support", of_base.support, of_novel.support),
        ("query", of_base.query, of_novel.query),
    ):
        parts = [shown(novel_images, novel_rows, seed, role, size, jitter).flatten(1, 2)]
        labels = [torch.arange(base_count, base_count + ways).repeat_interleave(novel_rows.shape[2])]
        if base_rows.shape[2]:
            other = shown(classes.seen.images, base_rows, _other_seed(seed), role, size, jitter)
            parts.insert(0, other.flatten(1, 2))
            labels.insert(0, torch.arange(base_count).repeat_interleave(base_rows.shape[2]))
        episodes[f"{role}_images"] = torch.cat(parts, dim=1)
        episodes[f"{role}_labels"] = torch.cat(labels).repeat(tasks, 1)
    return episodes


def check_unseen(classes: JointClasses, rows: NDArray[np.int64]) -> None:
    """Raise `ValueError` unless all of these rows `(n,)` of `seen` may be trained on; asked at every draw."""
    held_out = (classes.parts[rows] != 0) | ~np.isin(classes.seen.labels[rows], classes.classes)
    if held_out.any():
        raise ValueError(
            f"joint classes: expected training to see training drawings of base classes alone, found row "
            f"{rows[held_out][0]}; draw from the part 'train'"
        )


def _training_rows(
    classes: JointClasses,
    tasks: int,
    ways: int,
    shots: int,
    queries: int,
    base_queries: int,
    rehearsal: int,
    seed: int,
) -> tuple[Choice, Choice]:
    """Which rows play base, and which novel: all base classes in random order, the first `ways` of them novel."""
    rows = classes.rows("train")
    all_of_them = choose(
        classes.seen.labels[rows], tasks, classes.base, max(shots, rehearsal), max(queries, base_queries), seed
    )
    support, query = rows[all_of_them.support], rows[all_of_them.query]
    check_unseen(classes, np.concatenate([support.ravel(), query.ravel()]))
    novel = Choice(all_of_them.classes[:, :ways], support[:, :ways, :shots], query[:, :ways, :queries])
    base = Choice(all_of_them.classes[:, ways:], support[:, ways:, :rehearsal], query[:, ways:, :base_queries])
    return base, novel


def _evaluation_rows(
    classes: JointClasses,
    tasks: int,
    ways: int,
    shots: int,
    queries: int,
    base_queries: int,
    rehearsal: int,
    seed: int,
) -> tuple[Choice, Choice]:
    """All base classes, rehearsed with training drawings and asked with held-out ones; novel classes of their split."""
    assert classes.unseen is not None
    novel = choose(classes.unseen.labels, tasks, ways, shots, queries, seed)
    found = []
    for part, count in (("train", max(rehearsal, 1)), (classes.part, base_queries)):
        rows = classes.rows(part)
        chosen = choose(classes.seen.labels[rows], tasks, classes.base, count, 1, _other_seed(seed))
        order = np.argsort(chosen.classes, axis=1)  # ascending, so that both parts have their classes in one order
        found.append(np.take_along_axis(rows[chosen.support], order[..., None], axis=1))
    support = found[0][:, :, :rehearsal]
    check_unseen(classes, support.ravel())
    return Choice(np.tile(classes.classes, (tasks, 1)), support, found[1]), novel


def _other_seed(seed: int) -> int:
    """A seed for the base classes' drawings, which are to be independent of the novel ones'."""
    return int(np.random.SeedSequence(seed, spawn_key=(_SEEDS,)).generate_state(1, np.uint64)[0])


def _digests(images: Pixels, rows: NDArray[np.int64]) -> set[bytes]:
    return {hashlib.sha256(image.tobytes()).digest() for image in images[rows]}
