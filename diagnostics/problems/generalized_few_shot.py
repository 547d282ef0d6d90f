"""Generalized few-shot: a joint classifier of base and novel classes, adapted to a few images of the novel ones."""

from functools import lru_cache

from torch import Tensor
from torch.nn import functional

from diagnostics.checks import at_least, one_of, positive, whole_number
from diagnostics.data import glyphs
from diagnostics.image_inputs import image_inputs
from diagnostics.models import NORMS, conv4
from diagnostics.problem import Problem, proximal
from diagnostics.problem_names import problems
from diagnostics.protocols.joint_episodes import PARTS, JointClasses, draw_joint
from diagnostics.rows import Data

SIDE = 28


@problems.register("generalized_few_shot")
def generalized_few_shot(
    base: int = 20,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    base_queries: int = 1,
    rehearsal: int = 0,
    split: str = "train",
    width: int = 64,
    norm: str = "batch",
    activation: str = "relu",
    pool: str = "max",
    strength: float = 2.0,
    learning_rate: float = 0.1,
) -> Problem:
    """Cross-entropy in the joint label space on the novel support, plus `strength/2 |w - theta|^2`; on base and novel
    queries, either kind weighing half.

    theta is a Conv4 whose head has one row for each of `base` classes, learned across episodes, and `ways` rows where
    novel classes begin. The inner loop sees `shots` glyphs of each novel class, with the scores of all classes, and
    `rehearsal` of each base class if that is above 0, the two kinds weighing half each. Nothing but the proximal term
    keeps the base classes when there is no rehearsal: it holds their rows and the features near theta, and the outer
    loss says how well. In training base classes play novel, one draw after another; `split=validation` and `test` ask
    for held-out glyphs of all base classes (`base_queries` each) and for novel classes of scripts never trained on:
    see `diagnostics.protocols.joint_episodes` for who sees what, and `docs/protocols.md` for why. `norm`, `width`,
    `activation` and `pool` as in `few_shot`; with `norm=batch` base and novel queries share one batch's statistics.
    """
    counts = {"base": base, "ways": ways, "shots": shots, "queries": queries, "base_queries": base_queries}
    for name, count in (counts | {"width": width}).items():
        whole_number(f"generalized_few_shot: {name}", count, 1)
    whole_number("generalized_few_shot: rehearsal", rehearsal, 0)
    positive("generalized_few_shot: learning_rate", learning_rate)
    at_least("generalized_few_shot: strength", strength, 0)
    one_of("generalized_few_shot: norm", norm, NORMS)
    one_of("split", split, PARTS)
    if split == "train" and ways >= base:
        raise ValueError(
            f"generalized_few_shot: expected ways < base in training, where base classes play novel, found ways = "
            f"{ways} and base = {base}; raise base"
        )
    network = conv4(base + ways, 1, width, norm, activation, pool, SIDE)

    def scores(w: Tensor, images: Tensor, columns: Tensor) -> Tensor:
        all_rows = network.apply(w, images)
        return all_rows.gather(-1, columns.unsqueeze(1).expand(-1, images.shape[1], -1))

    def loss(role: str, novel: int):
        def cross_entropy(w: Tensor, theta: Tensor, data: Data) -> Tensor:
            labels = data[f"{role}_labels"]
            given = scores(w, data[f"{role}_images"], data["columns"])
            each = functional.cross_entropy(given.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
            of_novel = each[:, -novel:].mean(-1)  # base images come first
            if labels.shape[1] == novel:
                return of_novel
            return (each[:, :-novel].mean(-1) + of_novel) / 2

        return cross_entropy

    def sample(tasks: int, seed: int) -> dict[str, Tensor]:
        classes = _joint_classes(base, split)
        return draw_joint(classes, tasks, ways, shots, queries, base_queries, rehearsal, seed, SIDE)

    return Problem(
        name="generalized_few_shot",
        inner_loss=proximal(loss("support", ways * shots), strength),
        outer_loss=loss("query", ways * queries),
        init=network.init,
        sample=sample,
        strength=strength,
        learning_rate=learning_rate,
        inputs=image_inputs(9 * width),
        scores=lambda w, theta, data: scores(w, data["query_images"], data["columns"]),
    )


@lru_cache(maxsize=8)
def _joint_classes(base: int, split: str) -> JointClasses:
    return JointClasses(glyphs.load("train"), None if split == "train" else glyphs.load(split), base, split)
