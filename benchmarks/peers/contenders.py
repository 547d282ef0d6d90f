"""Who is compared: one line each. A library that does not import is absent, with the reason."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from benchmarks.peers.setting import Setting

Compute = Callable[[Setting], Tensor]


@dataclass(frozen=True)
class Contender:
    """A function of an adapter, and what it stands for: `ours`, `yardstick` or `peer`."""

    name: str
    kind: str
    method: str
    adapter: str
    function: str
    compiled: bool = False
    batched: bool = False  # a peer that takes all tasks at once, in place of a loop over them

    def load(self) -> Compute:
        """The function; whatever the library's import raises goes through."""
        return getattr(importlib.import_module(f"benchmarks.peers.adapters.{self.adapter}"), self.function)


CONTENDERS = (
    Contender("gradgauge Unrolled", "ours", "unrolled", "gradgauge", "unrolled"),
    Contender("the same, nothing recorded", "ours", "unrolled", "gradgauge", "unrolled_by_autograd"),
    Contender("the same, compiled", "ours", "unrolled", "gradgauge", "unrolled_compiled", compiled=True),
    Contender("gradgauge run_inner + UnrolledAdjoint", "ours", "unrolled", "gradgauge", "run_and_adjoint"),
    Contender("plain", "yardstick", "unrolled", "plain", "unrolled"),
    Contender("func", "yardstick", "unrolled", "func", "unrolled"),
    Contender("plain, compiled step", "yardstick", "unrolled", "compiled", "unrolled", compiled=True),
    Contender("higher", "peer", "unrolled", "with_higher", "unrolled"),
    Contender("TorchOpt MetaSGD", "peer", "unrolled", "with_torchopt", "unrolled"),
    Contender("TorchOpt functional + vmap", "peer", "unrolled", "with_torchopt", "unrolled_vmap", batched=True),
    Contender("learn2learn", "peer", "unrolled", "with_learn2learn", "unrolled"),
    Contender("gradgauge run_inner + Implicit", "ours", "implicit", "gradgauge", "implicit"),
    Contender("the same, nothing recorded", "ours", "implicit", "gradgauge", "implicit_by_autograd"),
    Contender("the same, compiled", "ours", "implicit", "gradgauge", "implicit_compiled", compiled=True),
    Contender("plain", "yardstick", "implicit", "plain", "implicit"),
    Contender("func", "yardstick", "implicit", "func", "implicit"),
    Contender("plain, compiled step", "yardstick", "implicit", "compiled", "implicit", compiled=True),
    Contender("TorchOpt custom_root", "peer", "implicit", "with_torchopt", "implicit"),
    Contender("betty cg", "peer", "implicit", "with_betty", "implicit"),
)

# Their code cannot be had from the package index, so that no adapter is written.
LEFT_OUT = {
    "hypertorch (prolearner)": "not on the package index: the `hypertorch` there is a library for hypergraphs",
    "imaml_dev": "scripts without a package",
}


def present(method: str, compiled: bool) -> tuple[dict[Contender, Compute], dict[str, str]]:
    """The contenders of a method whose library imports, and the reasons of those whose does not."""
    found: dict[Contender, Compute] = {}
    absent: dict[str, str] = {}
    for contender in CONTENDERS:
        if contender.method == method and (compiled or not contender.compiled):
            try:
                found[contender] = contender.load()
            except Exception as error:  # a foreign package may fail in any way while it is imported
                absent[contender.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found, absent
