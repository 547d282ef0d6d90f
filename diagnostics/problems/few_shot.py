"""Few-shot image classification with the four-block network of MAML, on the embedded glyphs or images on disk."""

from torch import Tensor
from torch.nn import functional

from diagnostics.checks import at_least, one_of, positive, whole_number
from diagnostics.data.library import GLYPHS, unspelled
from diagnostics.data.sampled import sampled
from diagnostics.image_inputs import image_inputs
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
    data: str = GLYPHS,
    partition: str = "",
    turns: int = 1,
    size: int = 0,
    workers: int = 0,
) -> Problem:
    """Cross-entropy of a Conv4 on an episode's support images, plus `strength/2 |w - theta|^2`; on its query images.

    An episode has `ways` classes with `shots` support and `queries` query images each, of 28 x 28 glyphs or of the
    data set on disk at `data` (see docs/data.md; `gradgauge data info PATH` spells the name of this problem for it).
    `partition` is one of several ways to split it, `turns=4` makes classes of the quarter turns, `size` is the side of
    the images (0: 28 in grey, 84 in colour, or what the data set has if that is less), and `workers` processes decode
    them. Glyphs are moved at random, images from disk are shown as they are. `norm` is `batch` (statistics of the batch
    at hand, so the query is seen transductively) or `none`; `width` is the number of filters. ReLU and max-pool are
    what the literature uses, and have kinks; `activation=tanh,pool=average` is the smooth network to compare with.
    Strength and inner step are those of iMAML's released Omniglot command.
    """
    for name, count in (("ways", ways), ("shots", shots), ("queries", queries), ("width", width)):
        whole_number(f"few_shot: {name}", count, 1)
    positive("few_shot: learning_rate", learning_rate)
    at_least("few_shot: strength", strength, 0)
    one_of("few_shot: norm", norm, NORMS)
    images = sampled(
        unspelled(data), split, ways, shots, queries,
        partition=unspelled(partition), turns=turns, size=size, workers=workers,
    )  # fmt: skip
    network = conv4(ways, images.channels, width, norm, activation, pool, images.side)

    def loss(prefix: str):
        def cross_entropy(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            scores = network.apply(w, data[f"{prefix}_images"])
            labels = data[f"{prefix}_labels"]
            each = functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none")
            return each.view(labels.shape).mean(-1)

        return cross_entropy

    return Problem(
        name="few_shot",
        inner_loss=proximal(loss("support"), strength),
        outer_loss=loss("query"),
        init=network.init,
        sample=images.draw,
        strength=strength,
        learning_rate=learning_rate,
        inputs=image_inputs(9 * images.channels * width),
        scores=lambda w, theta, data: network.apply(w, data["query_images"]),
    )
