"""Random draws: reproducible, one stream a variable, prefix-stable, and of the law that they are said to be of."""

import pytest
import torch

from diagnostics.draws import normal, orthonormal, spectrum, uniform
from tests.cases import check_ratio


def test_the_first_rows_do_not_depend_on_how_many_follow() -> None:
    assert torch.equal(normal(3, 1, 2, 4), normal(3, 1, 7, 4)[:2])
    assert torch.equal(uniform(3, 1, -1, 1, 2, 4), uniform(3, 1, -1, 1, 7, 4)[:2])
    assert torch.equal(orthonormal(3, 1, 2, 5, 3), orthonormal(3, 1, 7, 5, 3)[:2])


def test_seeds_and_variables_are_streams_of_their_own() -> None:
    draws = [normal(seed, variable, 50) for seed in (0, 1, 2) for variable in (0, 1, 2)]
    for index, one in enumerate(draws):
        assert torch.equal(one, normal(index // 3, index % 3, 50))
        for other in draws[:index]:
            assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.6


def test_the_laws() -> None:
    """Five standard errors of n draws: one run in two million would fail, and the seed is fixed."""
    n = 20_000
    x = normal(0, 0, n)
    assert abs(float(x.mean())) < 5 / n**0.5 and abs(float(x.var()) - 1) < 5 * (2 / n) ** 0.5
    u = uniform(0, 0, -5.0, 5.0, n)
    assert float(u.min()) >= -5 and float(u.max()) <= 5 and abs(float(u.mean())) < 5 * (100 / 12 / n) ** 0.5
    assert x.dtype == u.dtype == torch.float64


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (9, 4)])
def test_orthonormal_columns(rows: int, columns: int) -> None:
    q = orthonormal(0, 0, 3, rows, columns)
    error = (q.mT @ q - torch.eye(columns)).flatten(1).norm(dim=-1)
    check_ratio("orthonormal", error, 2.0**-52 * columns)


def test_the_spectrum_has_its_condition_number() -> None:
    assert spectrum(1, 1e6).tolist() == [1.0]
    values = spectrum(7, 1e4)
    assert float(values[-1]) == 1.0 and float(values[-1] / values[0]) == pytest.approx(1e4, rel=1e-12)
    assert torch.equal(spectrum(3, 1.0), torch.ones(3).double())
    ratios = values[1:] / values[:-1]
    assert ratios.tolist() == pytest.approx([float(ratios[0])] * 6, rel=1e-12)
