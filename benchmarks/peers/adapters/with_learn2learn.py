"""learn2learn: its MAML wrapper.

Its package cannot be imported without gym, torchvision and qpth, nor its release be built on Python 3.11; the MAML
wrapper needs none of them. So the parents' `__init__` files are passed over, and `learn2learn.algorithms.maml` itself
is imported, from the installed package or from the unpacked release on `PYTHONPATH`.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.peers.setting import Setting, Task, flat


def _without_init(name: str) -> None:
    """Put an empty package in the place of one whose `__init__` imports too much; its folder stays its path."""
    if name in sys.modules:
        return
    parent, _, last = name.rpartition(".")
    if parent:
        folder = Path(sys.modules[parent].__path__[0]) / last
    else:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError(f"No module named {name!r}")
        folder = Path(spec.origin).parent
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


for _package in ("learn2learn", "learn2learn.algorithms"):
    _without_init(_package)
MAML = importlib.import_module("learn2learn.algorithms.maml").MAML


def unrolled(setting: Setting) -> Tensor:
    """As its README: `clone`, then `adapt` once a step, one task after the other."""
    maml = MAML(setting.network(), lr=setting.learning_rate)
    theta = tuple(maml.parameters())

    def gradient(task: Task) -> tuple[Tensor, ...]:
        learner = maml.clone()
        for _ in range(setting.steps):
            loss = setting.model.loss(learner(task.support_x), task.support_y)
            learner.adapt(loss + setting.proximal(learner.parameters(), theta))
        return torch.autograd.grad(setting.model.loss(learner(task.query_x), task.query_y), theta)

    return flat(gradient(task) for task in setting.tasks)
