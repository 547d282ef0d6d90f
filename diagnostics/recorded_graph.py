"""How a program is recorded: traced, simplified without changing a bit, and cut where its linear argument comes in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten
SAME = (aten.detach.default, aten.alias.default)
ONES = (aten.ones_like.default, aten.new_ones.default, aten.ones.default)
TIMES = (aten.mul.Tensor, aten.mul.Scalar)
# The same kernels by a shorter way in: torch's own bindings cost a microsecond less a call than an operator object.
SHORTER: dict[object, Callable[..., Any]] = {
    aten.bmm.default: torch.bmm,
    aten.baddbmm.default: torch.baddbmm,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.mul.Scalar: torch.mul,
    aten.div.Tensor: torch.div,
    aten.tanh.default: torch.tanh,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.squeeze.dim: torch.squeeze,
    aten.view.default: Tensor.view,
    aten.expand.default: Tensor.expand,
    aten.sum.dim_IntList: torch.sum,
    aten.cat.default: torch.cat,
}


@dataclass(frozen=True)
class Program:
    """A recorded function: `prepare(*arguments) -> (values, saved)`, and a map `(*saved, v) -> tensors` per product."""

    prepare: Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    products: tuple[Callable[..., tuple[Tensor, ...]], ...]

    def at(self, *arguments: Tensor) -> tuple[tuple[Tensor, ...], tuple[Callable[[Tensor], tuple[Tensor, ...]], ...]]:
        """The values at `arguments`, and the products there."""
        with torch.no_grad():
            values, saved = self.prepare(*arguments)

        def bound(product: Callable[..., tuple[Tensor, ...]]) -> Callable[[Tensor], tuple[Tensor, ...]]:
            def apply(v: Tensor) -> tuple[Tensor, ...]:
                with torch.no_grad():
                    return product(*saved, v)

            return apply

        return values, tuple(bound(product) for product in self.products)


def record(linearise: Callable[..., Any], arguments: Sequence[Tensor], *, compiled: bool = False) -> Program | None:
    """The program of `linearise(*arguments)`; None where it cannot be recorded or would not give the same bits.

    What is compared is the recording; compiling it changes the last bits, by design.
    """
    count = len(arguments)
    values, products = linearise(*arguments)
    like = values[0] if products else arguments[0]
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    def whole(*inputs: Tensor) -> list[tuple[Tensor, ...]]:
        found, maps = linearise(*inputs[:count])
        return [found, *(product(inputs[count]) for product in maps)]

    try:
        with torch.enable_grad():
            traced = make_fx(whole)(*(x.detach() for x in arguments), v)
    except Exception:  # whatever a user's function does that cannot be traced; it then runs as it is
        return None
    inputs = (*arguments, v)
    if not (_repeatable(traced.graph) and _out_of_place(traced, inputs)):
        return None
    _simplify(traced, inputs)
    program = _cut(traced, count, compiled=False)
    found, maps = program.at(*arguments)
    expected = [values, *(product(v) for product in products)]
    for got, want in zip([found, *(apply(v) for apply in maps)], expected, strict=True):
        if not all(_same(a, b) for a, b in zip(got, want, strict=True)):
            return None
    return _cut(traced, count, compiled=True) if compiled else program


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def _operations(graph: fx.Graph) -> list[tuple[fx.Node, torch._ops.OpOverload]]:
    return [(node, node.target) for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]


def _repeatable(graph: fx.Graph) -> bool:
    """Whether no operation draws random numbers."""
    return not any(torch.Tag.nondeterministic_seeded in operation.tags for _, operation in _operations(graph))


def _results(traced: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[fx.Node, Any]:
    """What every node gives for `inputs`, all of it kept alive."""
    results: dict[fx.Node, Any] = {}

    class Observed(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            results[n] = super().run_node(n)
            return results[n]

    Observed(traced).run(*inputs)
    return results


def _out_of_place(traced: fx.GraphModule, inputs: Sequence[Tensor]) -> bool:
    """Turn operations that write into a temporary tensor into those that make a new one.

    False where that would not be the same: where a view of the tensor is about, it is an argument, or there is no such
    operation.
    """
    writing = {node: operation for node, operation in _operations(traced.graph) if operation._schema.is_mutable}
    memory: dict[int, list[fx.Node]] = {}
    results = _results(traced, inputs) if writing else {}
    for node, found in results.items():
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor) and node.op != "output":
                memory.setdefault(tensor.untyped_storage().data_ptr(), []).append(node)
    for node, operation in writing.items():
        name = operation._schema.name.removeprefix("aten::")
        version = getattr(getattr(aten, name.removesuffix("_"), None), operation._overloadname, None)
        if not name.endswith("_") or version is None:
            return False
        makers = [n for n in memory[results[node].untyped_storage().data_ptr()] if n not in writing]
        if len(makers) != 1 or makers[0].op != "call_function":
            return False
        node.target = version
    traced.recompile()
    return True


def _simplify(traced: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    """Leave out what changes no bit: aliases, x^1, products with one, a transpose and its inverse, repetitions.

    What depends on no argument's numbers, such as ones and their multiples, is computed now.
    """
    results = _results(traced, inputs)
    constant: set[fx.Node] = set()
    seen: dict[str, fx.Node] = {}
    for node, _ in _operations(traced.graph):
        instead = _instead(node, results, constant)
        if instead is None:
            instead = seen.setdefault(str((node.target, node.args, node.kwargs)), node)
        if instead is not node:
            node.replace_all_uses_with(instead)
            constant.discard(node)
    for number, node in enumerate(constant):
        if any(user not in constant for user in node.users):
            traced.register_buffer(f"constant_{number}", results[node].clone())
            with traced.graph.inserting_before(node):
                node.replace_all_uses_with(traced.graph.get_attr(f"constant_{number}"))
    for node, operation in _operations(traced.graph):
        node.target = SHORTER.get(operation, operation)
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _instead(node: fx.Node, results: dict[fx.Node, Any], constant: set[fx.Node]) -> fx.Node | None:
    """The earlier node that has this one's value in the same layout, if a rule knows one; marks constants."""
    target, args = node.target, node.args
    first = args[0] if args and isinstance(args[0], fx.Node) else None
    if first is not None and (target in SAME or (target is aten.pow.Tensor_Scalar and args[1] == 1.0)):
        return first
    ones = target in ONES or (target is aten.pow.Tensor_Scalar and args[1] == 0.0)
    if ones or (node.all_input_nodes and all(i in constant for i in node.all_input_nodes)):
        if isinstance(results[node], Tensor):
            constant.add(node)
        return None
    if target in TIMES:
        for factor, other in (args[:2], args[1::-1]):
            if isinstance(factor, fx.Node) and _is_one(other, results, constant):
                if _layout(results[factor]) == _layout(results[node]):
                    return factor
    if target in TIMES and first is not None and first.target is aten.neg.default and isinstance(args[1], float):
        node.args = (first.args[0], -args[1])  # -x c = x (-c), and one pass less
    if target is aten.transpose.int and first is not None and first.target is aten.transpose.int:
        rank = results[node].dim()
        if {int(str(a)) % rank for a in args[1:]} == {int(str(a)) % rank for a in first.args[1:]}:
            return first.all_input_nodes[0]
    return None


def _is_one(x: object, results: dict[fx.Node, Any], constant: set[fx.Node]) -> bool:
    return bool((results[x] == 1).all()) if isinstance(x, fx.Node) and x in constant else x == 1.0


def _layout(x: Tensor) -> tuple[object, ...]:
    return x.shape, x.stride(), x.dtype


def _cut(traced: fx.GraphModule, count: int, *, compiled: bool) -> Program:
    """The program in two parts: what does not depend on the last argument, run once a point, and the rest."""
    nodes = list(traced.graph.nodes)
    places = [node for node in nodes if node.op == "placeholder"]
    values, *results = nodes[-1].args[0]
    late = {places[count]}
    for node in nodes[:-1]:
        if any(i in late for i in node.all_input_nodes):
            late.add(node)
    needed = [n for n in nodes[:-1] if n not in late and n.op != "get_attr" and any(user in late for user in n.users)]
    needed += [n for result in results for n in result if n not in late]
    while compiled and any(_is_view(n) for n in needed):  # a compiled part returns each view by a detour of its own
        needed = [i for n in needed for i in (n.all_input_nodes if _is_view(n) else (n,))]
    saved = tuple(dict.fromkeys(needed))
    parts = [_part(traced, places[:count], (tuple(values), saved))]
    parts += [_part(traced, (*saved, places[count]), tuple(result)) for result in results]
    run = [torch.compile(p, dynamic=False, fullgraph=True) if compiled else p.forward for p in parts]
    return Program(run[0], tuple(run[1:]))


def _is_view(node: fx.Node) -> bool:
    """Whether a node makes nothing, but looks at the memory of another in some way."""
    if node.target is getitem:
        return _is_view(node.all_input_nodes[0])
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target in (torch.transpose, torch.unsqueeze, torch.squeeze, Tensor.view, Tensor.expand)
    return any(result.alias_info is not None for result in node.target._schema.returns)


def _part(traced: fx.GraphModule, inputs: Sequence[fx.Node], outputs: tuple[Any, ...]) -> fx.GraphModule:
    """The part of a graph that leads from `inputs` to `outputs`."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(f"x{at}") for at, node in enumerate(inputs)}
    for node in traced.graph.nodes:
        if node not in copies and node.op in ("call_function", "get_attr"):
            if all(i in copies for i in node.all_input_nodes):
                copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.map_arg(outputs, copies.__getitem__))
    graph.eliminate_dead_code()
    return fx.GraphModule(traced, graph)
