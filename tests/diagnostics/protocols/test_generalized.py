"""The measures of a joint label space, for classifiers whose measures are known."""

import pytest
import torch
from torch import Tensor

from diagnostics.protocols.generalized import biased, generalized, harmonic_mean

SEEN, CLASSES = 3, 5
LABELS = torch.tensor([[0, 0, 1, 2, 3, 3, 4, 4], [2, 1, 0, 0, 4, 4, 3, 3]])  # as many base as novel queries


def one_hot(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels, CLASSES).double()


def noise(rows: int, labels: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, labels.shape[-1], CLASSES, generator=generator, dtype=torch.float64)


def values(found: object) -> dict[str, list[float]]:
    return {key: value.tolist() for key, value in vars(found).items()}


def test_a_perfect_classifier() -> None:
    found = values(generalized(one_hot(LABELS), LABELS, SEEN))
    assert found.pop("delta1") == found.pop("delta2") == [0, 0]
    assert all(value == [1, 1] for value in found.values()) and len(found) == 6


def test_a_constant_classifier_has_chance() -> None:
    """Ties are shared: 1/5 jointly, 1/3 and 1/2 in the own spaces."""
    found = generalized(torch.zeros(2, 8, CLASSES), LABELS, SEEN)
    for joint in (found.base, found.novel, found.harmonic, found.overall):
        assert joint.tolist() == pytest.approx([0.2, 0.2])
    assert found.base_own.tolist() == pytest.approx([1 / 3] * 2) and found.novel_own.tolist() == [0.5, 0.5]
    expected = (1 / 3 + 1 / 2 - 2 / 5) / 2
    assert found.delta1.tolist() == pytest.approx([expected] * 2)
    assert found.delta2.tolist() == pytest.approx([expected] * 2)


def test_a_classifier_that_never_says_novel() -> None:
    """Right within each kind, but every base score exceeds every novel one, as where base classes were trained more."""
    scores = one_hot(LABELS) + torch.tensor([10.0] * SEEN + [0.0] * 2)
    found = values(generalized(scores, LABELS, SEEN))
    assert found["base"] == found["base_own"] == found["novel_own"] == [1, 1]
    assert found["novel"] == found["harmonic"] == [0, 0] and found["overall"] == [0.5, 0.5]
    assert found["delta1"] == found["delta2"] == [0.5, 0.5]
    mended = values(generalized(scores, LABELS, SEEN, bias=10.0))
    assert mended["novel"] == mended["base"] == mended["harmonic"] == [1, 1]


def test_random_classifiers_have_chance_on_average() -> None:
    labels = LABELS[:1].expand(4000, -1)
    found = generalized(noise(4000, labels), labels, SEEN)
    for measure, chance in (("base", 1 / 5), ("novel", 1 / 5), ("base_own", 1 / 3), ("novel_own", 1 / 2)):
        share = getattr(found, measure)
        assert abs(float(share.mean()) - chance) < 4 * float(share.std()) / 4000**0.5, measure


def test_counted_by_hand() -> None:
    """Base queries: right, novel instead, wrong base. Novel: right, base instead (its own space: wrong)."""
    labels = torch.tensor([[0, 1, 2, 3, 4]])
    scores = torch.tensor(
        [[[9, 1, 1, 2, 1], [0, 5, 1, 6, 2], [4, 1, 3, 0, 0], [1, 1, 1, 7, 2], [8, 0, 0, 3, 2]]]
    ).double()
    found = {key: value[0] for key, value in values(generalized(scores, labels, SEEN)).items()}
    assert found == pytest.approx(
        {
            "base": 1 / 3, "novel": 1 / 2, "harmonic": 2 / 5, "base_own": 2 / 3, "novel_own": 1 / 2, "overall": 2 / 5,
            "delta1": (2 / 3 + 1 / 2) / 2 - 2 / 5, "delta2": 1 / 6,
        }
    )  # fmt: skip


def test_the_deltas_agree_where_the_kinds_are_as_many_and_differ_elsewhere() -> None:
    even = generalized(noise(2, LABELS), LABELS, SEEN)
    assert torch.allclose(even.delta1, even.delta2, rtol=0, atol=1e-15)
    labels = torch.tensor([[0, 1, 2, 2, 1, 0, 3]])
    scores = one_hot(labels)
    scores[0, -1] = torch.tensor([1.0, 0, 0, 0.5, 0])  # the one novel query is given to a base class
    uneven = generalized(scores, labels, SEEN)
    assert float(uneven.delta2) == 0.5 and float(uneven.delta1) == pytest.approx(1 / 7)


def test_classes_can_weigh_alike() -> None:
    """Class 0 has two queries, both wrong, classes 1 and 2 one each, right: 1/2 of the queries, 2/3 of the classes."""
    scores = one_hot(torch.tensor([[1, 1, 1, 2, 3, 3, 4, 4]]))
    by_query, by_class = (generalized(scores, LABELS[:1], SEEN, per_class=p) for p in (False, True))
    assert float(by_query.base) == 0.5 and float(by_class.base) == pytest.approx(2 / 3)
    assert float(by_class.overall) == pytest.approx(4 / 5) and float(by_class.novel) == 1


def test_the_harmonic_mean() -> None:
    s, u = torch.tensor([1.0, 0, 0, 0.5]).double(), torch.tensor([0.5, 0, 1, 0.5]).double()
    assert harmonic_mean(s, u).tolist() == [pytest.approx(2 / 3), 0, 0, 0.5]


def test_a_bias_moves_base_scores_alone() -> None:
    assert biased(torch.zeros(1, 5), 2, 0.5).tolist() == [[-0.5, -0.5, 0, 0, 0]]


def test_rows_never_mix() -> None:
    scores = noise(2, LABELS)
    before = generalized(scores, LABELS, SEEN)
    scores[1] = torch.nan
    after = generalized(scores, LABELS, SEEN)
    assert all(value[0] == getattr(after, key)[0] for key, value in vars(before).items())
    assert float(after.base[1]) == float(after.novel_own[1]) == 0


@pytest.mark.parametrize(
    ("labels", "seen", "message"),
    [
        (torch.tensor([[0, 1, 2]]), 3, "only one kind in episode 0"),
        (torch.tensor([[3, 4, 4]]), 3, "only one kind"),
        (torch.tensor([[0, 3, 5]]), 3, "labels from 0 to 4"),
        (torch.tensor([[0, 3, 4]]), 0, "0 < seen < C"),
        (torch.tensor([[0, 3, 4]]), 5, "0 < seen < C"),
        (torch.tensor([[0, 3]]), 3, "scores"),
    ],
)
def test_what_is_no_joint_episode_is_refused(labels: Tensor, seen: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generalized(torch.zeros(1, 3, CLASSES), labels, seen)
