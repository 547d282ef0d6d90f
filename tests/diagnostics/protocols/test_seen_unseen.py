"""The seen-unseen curve: its area by pairs, against the curve itself and against a grid of biases."""

import pytest
import torch
from torch import Tensor

from diagnostics.protocols.generalized import generalized
from diagnostics.protocols.seen_unseen import area, tune_bias

SEEN, CLASSES = 3, 5
LABELS = torch.tensor([[0, 0, 1, 2, 3, 3, 4]])


def scores(rows: int, seed: int = 0, signal: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, LABELS.shape[1], CLASSES, generator=generator, dtype=torch.float64)
    return noise + signal * torch.nn.functional.one_hot(LABELS, CLASSES)


def swept(given: Tensor, labels: Tensor, biases: Tensor) -> float:
    """The trapezoids under the points (S, U) at each of the biases, and where either side alone is chosen."""
    found = [generalized(given, labels, SEEN, float(bias)) for bias in biases]
    s, u = (torch.stack([getattr(one, key)[0] for one in found]) for key in ("base", "novel"))
    return float(-torch.trapezoid(u, s))


def every_bias(given: Tensor) -> Tensor:
    """A bias between each two gaps, and one beyond either end."""
    gaps = (given[..., :SEEN].amax(-1) - given[..., SEEN:].amax(-1)).flatten().unique()
    return torch.cat([gaps[:1] - 1, (gaps[1:] + gaps[:-1]) / 2, gaps[-1:] + 1])


@pytest.mark.parametrize("seed", range(10))
def test_the_area_is_that_under_the_curve_of_every_bias(seed: int) -> None:
    given = scores(1, seed)
    assert float(area(given, LABELS, SEEN)) == pytest.approx(swept(given, LABELS, every_bias(given)), abs=1e-14)


def test_rows_never_mix() -> None:
    given = scores(4)
    together = area(given, LABELS.expand(4, -1), SEEN)
    alone = torch.cat([area(given[row : row + 1], LABELS, SEEN) for row in range(4)])
    assert torch.equal(together, alone) and len(set(together.tolist())) > 1
    given[2] = torch.nan
    lost = area(given, LABELS.expand(4, -1), SEEN)
    assert torch.equal(lost[[0, 1, 3]], together[[0, 1, 3]]) and float(lost[2]) == 0


def test_ties_count_half_as_the_diagonal_of_the_curve_does() -> None:
    """Gaps in whole numbers, many of them equal: the trapezoids join what changes at once."""
    given = (2 * scores(1, 3)).round()
    given = given + 0.01 * torch.arange(CLASSES)  # no ties within a kind, so that a query is right or wrong
    assert float(area(given, LABELS, SEEN)) == pytest.approx(swept(given, LABELS, every_bias(given)), abs=1e-14)


def test_known_areas() -> None:
    perfect = torch.nn.functional.one_hot(LABELS, CLASSES).double()
    shift = torch.tensor([100.0] * SEEN + [0.0] * 2)
    assert float(area(perfect, LABELS, SEEN)) == 1
    assert float(area(perfect + shift, LABELS, SEEN)) == 1  # no bias of the classifier matters
    # Every gap is alike: one diagonal from (S', 0) to (0, U').
    assert float(area(torch.zeros(1, 7, CLASSES), LABELS, SEEN)) == pytest.approx(0.5 * (1 / 3) * (1 / 2))
    # Right within each kind, and every novel query has the larger gap: no bias makes both right.
    opposed = perfect - 5 * (LABELS < SEEN).double().unsqueeze(-1) * (torch.arange(CLASSES) < SEEN)
    assert float(area(opposed, LABELS, SEEN)) == 0


def test_random_scores_have_half_of_chance() -> None:
    found = area(scores(4000, signal=0.0), LABELS.expand(4000, -1), SEEN)
    assert abs(float(found.mean()) - 0.5 / (3 * 2)) < 4 * float(found.std()) / 4000**0.5


def test_thirty_biases_miss_what_lies_between_them() -> None:
    """One episode with outlying scores: the curve is where no point of an even grid is."""
    given = 0.01 * scores(1, 1, signal=2.0)
    given[0, 0, 0], given[0, 6, 4] = 10.0, 10.0
    exact, biases = float(area(given, LABELS, SEEN)), every_bias(given)
    coarse = swept(given, LABELS, torch.linspace(float(biases[0]), float(biases[-1]), 30))
    assert exact == pytest.approx(swept(given, LABELS, biases), abs=1e-14)
    assert abs(coarse - exact) > 0.1


# ---- the bias tuned on validation


def quality(given: Tensor, labels: Tensor, bias: float) -> float:
    found = generalized(given, labels, SEEN, bias)
    s, u = float(found.base.mean()), float(found.novel.mean())
    return 2 * s * u / (s + u) if s + u else 0.0


@pytest.mark.parametrize("shift", [1.5, -2.0])
@pytest.mark.parametrize("seed", range(8))
def test_no_bias_is_better_than_the_tuned_one(seed: int, shift: float) -> None:
    given, labels = scores(6, seed) + torch.tensor([shift] * SEEN + [0.0] * 2), LABELS.expand(6, -1)
    best = tune_bias(given, labels, SEEN)
    found = max(quality(given, labels, float(bias)) for bias in every_bias(given))
    assert quality(given, labels, best) == pytest.approx(found, abs=1e-12)
    assert found > quality(given, labels, 0.0) + 0.05


def test_a_known_shift_is_found_and_none_is_left_alone() -> None:
    perfect = torch.nn.functional.one_hot(LABELS, CLASSES).double()
    assert tune_bias(perfect, LABELS, SEEN) == 0
    assert tune_bias(perfect + torch.tensor([7.0] * SEEN + [0.0] * 2), LABELS, SEEN) == 7


def test_where_no_bias_helps_it_is_zero() -> None:
    assert tune_bias(torch.zeros(1, 7, CLASSES), LABELS, SEEN) == 0
    assert tune_bias(torch.full((1, 7, CLASSES), torch.nan), LABELS, SEEN) == 0
