"""Few-shot image classification with the four-block network of MAML, on the embedded glyphs."""

import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.checks import at_least, one_of, positive, whole_number
from diagnostics.data import episodes, glyphs
from diagnostics.inputs import Inputs
from diagnostics.models import NORMS, conv4
from diagnostics.problem import Problem, proximal
from diagnostics.problem_names import problems
from diagnostics.rows import Data


@problems.register("few_shot")
def few_shot(
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    split: str = "train",
    width: int = 64,
    norm: str = "batch",
    activation: str = "relu",
    pool: str = "max",
    strength: float = 2.0,
    learning_rate: float = 0.1,
) -> Problem:
    """Cross-entropy of a Conv4 on an episode's support images, plus `strength/2 |w - theta|^2`; on its query images.

    An episode has `ways` classes of 28 x 28 glyphs with `shots` support and `queries` query images each. `norm` is
    `batch` (statistics of the batch at hand, so the query is seen transductively) or `none`; `width` is the number of
    filters. ReLU and max-pool are what the literature uses, and have kinks; `activation=tanh,pool=average` is the
    smooth network to compare with. Strength and inner step are those of iMAML's released Omniglot command.
    """
    for name, count in (("ways", ways), ("shots", shots), ("queries", queries), ("width", width)):
        whole_number(f"few_shot: {name}", count, 1)
    positive("few_shot: learning_rate", learning_rate)
    at_least("few_shot: strength", strength, 0)
    one_of("few_shot: norm", norm, NORMS)
    one_of("few_shot: split", split, glyphs.SPLITS)
    network = conv4(ways, width=width, norm=norm, activation=activation, pool=pool)

    def loss(prefix: str):
        def cross_entropy(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            scores = network.apply(w, data[f"{prefix}_images"])
            labels = data[f"{prefix}_labels"]
            each = functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none")
            return each.view(labels.shape).mean(-1)

        return cross_entropy

    def sample(tasks: int, seed: int) -> dict[str, Tensor]:
        return episodes.draw(glyphs.load(split), tasks, ways, shots, queries, seed)

    def absorb(w: Tensor, shift: Tensor, by: Tensor) -> Tensor | None:
        if shift.any():
            return None  # the convolutions pad with zeros, which are not shifted
        kernels, others = w.split([9 * width, w.shape[1] - 9 * width], dim=1)
        return torch.cat([kernels / by.squeeze(-1), others], dim=1)  # of the first block, which alone meets the images

    return Problem(
        name="few_shot",
        inner_loss=proximal(loss("support"), strength),
        outer_loss=loss("query"),
        init=network.init,
        sample=sample,
        strength=strength,
        learning_rate=learning_rate,
        inputs=Inputs(moment=_moment, change=_change, absorb=absorb, centre=_centre, alike=True),
    )


def _centre(data: Data) -> Tensor:
    return data["support_images"].flatten(1).mean(1, keepdim=True)


def _moment(data: Data) -> Tensor:
    return ((data["support_images"].flatten(1) - _centre(data)) ** 2).mean(1).view(-1, 1, 1)


def _change(data: Data, shift: Tensor, by: Tensor) -> Data:
    def changed(x: Tensor) -> Tensor:
        return (x - shift.view(-1, 1, 1, 1, 1)) * by.view(-1, 1, 1, 1, 1)

    return {**data, **{key: changed(data[key]) for key in ("support_images", "query_images")}}
