"""Networks over flat weights, against torch.nn with the same weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from diagnostics.models import conv4, mlp
from diagnostics.rows import row_norms
from tests.cases import check_ratio, vectors


@pytest.mark.parametrize(("activation", "act"), [("tanh", torch.tanh), ("relu", torch.relu)])
def test_the_mlp_is_torchs(activation: str, act) -> None:
    network = mlp((2, 7, 5, 3), activation)
    w, x = vectors(4, network.size), vectors(4, 12).view(4, 6, 2)
    y = network.apply(w, x)
    assert y.shape == (4, 6, 3)
    for task in range(4):
        pieces = w[task].split([14, 7, 35, 5, 15, 3])
        h = act(functional.linear(x[task], pieces[0].view(7, 2), pieces[1]))
        h = act(functional.linear(h, pieces[2].view(5, 7), pieces[3]))
        truth = functional.linear(h, pieces[4].view(3, 5), pieces[5])
        check_ratio("mlp", row_norms(y[task] - truth), 2.0**-52 * 7**0.5 * (1 + row_norms(truth)))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_the_convolutional_network_is_torchs_task_by_task(norm: str, channels: int, side: int) -> None:
    """Four blocks of conv, norm with the statistics at hand, ReLU and pool, in torch's modules, a task at a time."""
    network = conv4(5, channels, width=3, norm=norm, side=side)
    w = network.init(0) + 0.3 * vectors(2, network.size)
    x = vectors(2, 4 * channels * side * side).view(2, 4, channels, side, side)
    y = network.apply(w, x)
    assert y.shape == (2, 4, 5)
    layers: list[nn.Module] = []
    for block in range(4):
        layers.append(nn.Conv2d(channels if block == 0 else 3, 3, 3, padding=1))
        layers += [nn.BatchNorm2d(3, track_running_stats=False)] if norm != "none" else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * (side // 16) ** 2, 5)).double()
    assert sum(p.numel() for p in module.parameters()) == network.size
    for task in range(2):
        nn.utils.vector_to_parameters(w[task], module.parameters())
        truth = module(x[task]).detach()
        # Four convolutions of up to 27 terms, each divided by a standard deviation.
        check_ratio("conv4", row_norms(y[task] - truth), 2.0**-52 * 4 * 27**0.5 * (1 + row_norms(truth)), norm)


def test_initialisations() -> None:
    network = mlp((1, 400, 400, 1), "tanh", "fan_in")
    w = network.init(0)
    hidden, bias = w[800 : 800 + 160_000], w[400:800]
    assert float(hidden.std()) == pytest.approx(400**-0.5, rel=0.02)
    assert float(bias.abs().max()) == 0.0
    w = mlp((1, 400, 400, 1), "tanh", "torch").init(0)
    hidden, bias = w[800 : 800 + 160_000], w[400:800]
    assert float(hidden.abs().max()) <= 400**-0.5 < 1.001 * float(hidden.abs().max())
    assert float(bias.std()) == pytest.approx(3**-0.5, rel=0.1)
    assert torch.equal(network.init(1), network.init(1)) and not torch.equal(network.init(1), network.init(2))


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="activation: expected one of tanh, relu, .*found 'gelu'"):
        mlp((1, 2), "gelu")
    with pytest.raises(ValueError, match="initialisation: expected one of fan_in, torch, found 'zeros'"):
        mlp((1, 2), "tanh", "zeros")
    with pytest.raises(ValueError, match="norm: expected one of batch, none, found 'layer'"):
        conv4(5, norm="layer")
