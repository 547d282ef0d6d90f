"""The bilevel problem as pure functions, batched over tasks.

    minimise over theta:  outer_loss(w_K(theta), theta),   w_K = K steps of an inner optimizer on inner_loss(., theta)

Row b of every tensor belongs to task b, and rows never mix. The gradient of the *sum* of the losses is therefore every
task's gradient at once, by plain autograd, in any arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diagnostics.checks import whole_number
from diagnostics.inputs import Inputs
from diagnostics.rows import Data

Loss = Callable[[Tensor, Tensor, Data], Tensor]  # w (B, N), theta (B, P), data -> losses (B,)
Model = Callable[..., Tensor]  # a module's forward, with one task's weights in place


@dataclass(frozen=True)
class ConvexConstants:
    """What is known of a convex problem, each `(B,)`; the predictions of `theory` rest on it."""

    smallest: Tensor  # least eigenvalue of the inner Hessian, the proximal term included
    largest: Tensor  # greatest eigenvalue of the same
    hessian_lipschitz: Tensor  # of the inner Hessian; 0 says that the inner loss is quadratic
    outer_smoothness: Tensor  # Lipschitz constant of the outer loss's gradient


def from_theta(theta: Tensor, data: Data) -> Tensor:
    """Start the inner loop at the meta-parameters themselves, `w_0 = theta`, as MAML does."""
    return theta.clone()  # a node of its own, so that d/dw at w_0 does not pick up the loss's own dependence on theta


@dataclass(frozen=True)
class Problem:
    """A bilevel problem, `B` tasks at a time.

    `inner_loss(w (B, N), theta (B, P), data) -> (B,)` and `outer_loss` likewise; `data` maps names to tensors whose
    leading dimension is `B`. Any proximal term is part of `inner_loss` (see `proximal`), so no two methods can disagree
    about it; `strength` only states it, as `learning_rate` states the inner step that the problem is usually run
    with. `init(seed) -> (P,)` and `sample(tasks, seed) -> data` draw in float64, and a larger sample begins with the
    smaller one. `start(theta, data) -> (B, N)` is where the inner loop begins. `minimizer(theta, data) -> (B, N)`,
    where known, is the exact minimiser of the inner loss; `constants(data)`, where known, says how convex the problem
    is; `inputs`, where stated, says how the data can be rescaled; `scores(w, theta, data) -> (B, n, C)`, for
    classification, are those of n query examples for C classes, of which `data["query_labels"] (B, n)` are the right
    ones.
    """

    name: str
    inner_loss: Loss
    outer_loss: Loss
    init: Callable[[int], Tensor]
    sample: Callable[[int, int], Data]
    start: Callable[[Tensor, Data], Tensor] = from_theta
    strength: float | None = None
    learning_rate: float = 0.01
    minimizer: Callable[[Tensor, Data], Tensor] | None = None
    constants: Callable[[Data], ConvexConstants] | None = None
    inputs: Inputs | None = None
    scores: Loss | None = None

    @property
    def has_implicit_gradient(self) -> bool:
        """Whether the minimiser can depend on theta: with a proximal term of strength 0 it does not."""
        return self.strength is None or self.strength > 0

    def draw(self, tasks: int, seed: int, device: str | torch.device = "cpu") -> tuple[Tensor, Data]:
        """`theta (tasks, P)`, one copy a task, and the data of `tasks` tasks; `ValueError` for counts that are none.

        The numbers are the same on every device: they are drawn on the CPU, and moved.
        """
        whole_number("tasks", tasks, 1)
        whole_number("seed", seed, 0)
        data = {key: value.to(device) for key, value in self.sample(tasks, seed).items()}
        return self.init(seed).to(device).expand(tasks, -1), data

    @staticmethod
    def from_task_losses(
        name: str,
        inner_loss: Callable[[Tensor, Tensor, Data], Tensor],
        outer_loss: Callable[[Tensor, Tensor, Data], Tensor],
        init: Callable[[int], Tensor],
        sample: Callable[[int, int], Data],
        *,
        start: Callable[[Tensor, Data], Tensor] = from_theta,
        strength: float | None = None,
    ) -> "Problem":
        """A problem from losses written for one task, `(w (N,), theta (P,), data) -> ()`, lifted with vmap.

        `strength` adds the proximal term `strength/2 |w - theta|^2` to the inner loss; None adds none.
        """
        inner = torch.func.vmap(inner_loss)
        return Problem(
            name=name,
            inner_loss=inner if strength is None else proximal(inner, strength),
            outer_loss=torch.func.vmap(outer_loss),
            init=init,
            sample=sample,
            start=start,
            strength=strength,
        )

    @staticmethod
    def from_module(
        name: str,
        module: nn.Module,
        inner_loss: Callable[[Model, Data], Tensor],
        outer_loss: Callable[[Model, Data], Tensor],
        sample: Callable[[int, int], Data],
        *,
        strength: float | None = None,
    ) -> "Problem":
        """A problem whose weights are those of a `torch.nn.Module`, flattened in the order of `named_parameters`.

        `inner_loss(model, data) -> ()` and `outer_loss` are written for one task; `model(x)` is the module's forward
        with that task's weights. Every task starts at the module's present weights. Raises `ValueError` where a loss
        changes one of the module's buffers (its name is given), or is not the same twice.
        """
        shapes = {key: parameter.shape for key, parameter in module.named_parameters()}
        weights = torch.cat([parameter.detach().double().flatten() for parameter in module.parameters()])
        buffers = {key: _as_double(buffer) for key, buffer in module.named_buffers()}

        def model(w: Tensor, state: dict[str, Tensor]) -> Model:
            pieces = w.split([shape.numel() for shape in shapes.values()])
            named = {key: piece.view(shapes[key]) for key, piece in zip(shapes, pieces, strict=True)}
            cast = {key: b.to(w.dtype) if b.is_floating_point() else b for key, b in state.items()}
            return lambda *inputs: torch.func.functional_call(module, (named, cast), inputs)

        def lift(loss: Callable[[Model, Data], Tensor]) -> Callable[[Tensor, Tensor, Data], Tensor]:
            return lambda w, theta, data: loss(model(w, buffers), data)

        first = {key: value[0] for key, value in sample(1, 0).items()}
        for loss in (inner_loss, outer_loss):
            _refuse_unrepeatable(name, loss, lambda state: model(weights, state), first, buffers)
        return Problem.from_task_losses(
            name, lift(inner_loss), lift(outer_loss), lambda seed: weights.clone(), sample, strength=strength
        )


def proximal(loss: Loss, strength: float) -> Loss:
    """The loss with iMAML's proximal term, `loss(w, theta) + strength/2 |w - theta|^2`, row by row."""

    def regularised(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return loss(w, theta, data) + (0.5 * strength) * ((w - theta) ** 2).sum(-1)

    return regularised


def _as_double(buffer: Tensor) -> Tensor:
    return buffer.detach().double() if buffer.is_floating_point() else buffer.detach().clone()


def _refuse_unrepeatable(
    name: str,
    loss: Callable[[Model, Data], Tensor],
    model: Callable[[dict[str, Tensor]], Model],
    data: Data,
    buffers: dict[str, Tensor],
) -> None:
    """Raise where the loss changes a buffer, or gives two values for one input."""
    with torch.no_grad():
        fresh = {key: value.clone() for key, value in buffers.items()}
        values = [loss(model(fresh), data) for _ in range(2)]
    changed = [key for key, value in buffers.items() if not torch.equal(value, fresh[key])]
    if changed:
        raise ValueError(
            f"problem {name!r}: the loss changes the module's buffers {', '.join(changed)}, so its value depends on "
            "how often it was called; for batch norm pass track_running_stats=False"
        )
    if not values[0].isfinite().all():
        raise ValueError(f"problem {name!r}: expected a finite loss at the module's weights, found {values[0]:g}")
    if not torch.equal(values[0], values[1]):
        raise ValueError(
            f"problem {name!r}: the loss is not the same twice ({values[0]:.17g}, then {values[1]:.17g}); "
            "remove dropout and other randomness"
        )
