"""Episodes from disk: of the form of the glyphs', drawn by seed alone, and the same in any number of processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diagnostics.data.bad_data import BadData
from diagnostics.data.image_data import ImageData
from diagnostics.data.library import load, problem_name, spelled, unspelled
from diagnostics.data.sampled import sampled
from diagnostics.data.workers import PIECE, reading
from diagnostics.inner import run_inner
from diagnostics.meta_gradient import estimators
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem_names import build
from tests.diagnostics.data import made

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADGAUGE_CACHE", str(tmp_path / "the cache"))


def test_an_episode_from_disk_has_the_form_of_the_glyphs(tmp_path: Path):
    disk = sampled(str(made.omniglot(tmp_path)), "train", 3, 1, 2)
    assert (disk.channels, disk.side) == (1, 28)
    drawn = disk.draw(4, 0)
    assert {name: (tuple(value.shape), value.dtype) for name, value in drawn.items()} == {
        "support_images": ((4, 3, 1, 28, 28), torch.float64),
        "support_labels": ((4, 3), torch.int64),
        "query_images": ((4, 6, 1, 28, 28), torch.float64),
        "query_labels": ((4, 6), torch.int64),
    }
    few = disk.draw(2, 0)
    assert all(torch.equal(few[name], drawn[name][:2]) for name in drawn)
    assert not torch.equal(disk.draw(4, 1)["support_images"], drawn["support_images"])


def test_images_are_shown_as_they_are(tmp_path: Path):
    """Every image of an episode is one of the set's, averaged over areas; support and query share none."""
    folder = made.class_folders(tmp_path, {"a": 3, "b": 3, "c": 3}, side=32)
    drawn = sampled(str(folder), "all", 3, 1, 2, size=16).draw(1, 0)
    data = load(str(folder))
    whole = torch.from_numpy(data.source.read(np.arange(9))).double().view(9, 3, 16, 2, 16, 2).mean((3, 5)) / 255
    seen = torch.cat([drawn["support_images"], drawn["query_images"]], 1)[0]
    distances = (seen[:, None] - whole[None]).abs().flatten(2).amax(-1)
    assert (distances.min(1).values <= 4 * np.finfo(float).eps).all()  # a mean of 4 numbers in [0, 1]
    assert sorted(distances.argmin(1).tolist()) == list(range(9))
    rows, labels = distances.argmin(1), torch.cat([drawn["support_labels"], drawn["query_labels"]], 1)[0]
    for label in range(3):
        assert len({int(row) // 3 for row in rows[labels == label]}) == 1


def test_the_side_is_the_usual_one_or_what_there_is(tmp_path: Path):
    small = str(made.cifar_fs(tmp_path / "cifar"))
    assert sampled(small, "train", 2, 1, 1).side == 32
    assert sampled(small, "train", 2, 1, 1, size=16).side == 16
    with pytest.raises(ValueError, match="size: expected at most 32, the side of the images, found 33"):
        sampled(small, "train", 2, 1, 1, size=33)
    with pytest.raises(ValueError, match="size: expected at least 16, found 15"):
        sampled(small, "train", 2, 1, 1, size=15)
    large, lists = made.low_shot(tmp_path / "large")
    assert sampled(str(large), "novel", 2, 1, 1, partition=str(lists)).side == 84
    assert sampled(str(large), "novel", 2, 1, 1, partition=str(lists), size=100).side == 100


@pytest.mark.parametrize(
    "wanted, message",
    [
        ({"ways": 6}, "train: expected at least 6 classes for an episode of 6 ways, found 5"),
        ({"queries": 4}, r"train: expected at least 5 images of each class \(1 shots and 4 queries\), found 4"),
        ({"shots": 4}, "expected at least 5 images"),
    ],
)
def test_episodes_that_are_too_large_are_refused_before_anything_is_drawn(wanted, message: str, tmp_path: Path):
    with pytest.raises(BadData, match=message):
        sampled(str(made.omniglot(tmp_path)), "train", **{"ways": 2, "shots": 1, "queries": 1, **wanted})


@pytest.mark.parametrize("name", ["plain", "with space", "a,b", "[brackets]", "100%", "%2C", "it's", "é", "a=b", " x "])
def test_any_path_can_stand_in_the_name_of_a_problem(name: str, tmp_path: Path):
    assert unspelled(spelled(name)) == name
    folder = made.class_folders(tmp_path / name, {"a": 2, "b": 2}, side=16)
    spelt = problem_name(load(str(folder)), str(folder))
    assert "'" not in spelt  # so that it can be quoted in a shell
    problem = build(f"{spelt[:-1]},ways=2,queries=1,width=2,norm=none]")
    assert problem.sample(1, 0)["support_images"].shape == (1, 2, 3, 16, 16)


def test_a_path_that_is_not_spelled_so_is_refused_with_advice(tmp_path: Path):
    for name in ("/data/a,b", "/data/[x]"):
        with pytest.raises(ValueError, match="in a path write %2C for a comma, %5B and %5D for brackets"):
            build(f"few_shot[data={name}]")


@pytest.mark.parametrize("colour", [False, True])
def test_the_gradients_of_an_episode_from_disk_are_right(colour: bool, tmp_path: Path):
    """Two estimators that share no code agree, and the first is a derivative by central differences."""
    folder = made.class_folders(tmp_path, {"a": 3, "b": 3, "c": 3}, side=16, colour=colour)
    problem = build(
        f"few_shot[data={spelled(str(folder))},split=all,ways=2,queries=2,width=2,norm=none,activation=tanh,pool=average]"
    )
    theta, data = problem.draw(2, 0)
    loop = run_inner(problem, GradientDescent(0.1), theta, data, 2)
    first, second = (estimators[name]()(problem, loop).value for name in ("unrolled", "unrolled_adjoint"))
    assert torch.linalg.norm(first - second) <= 1e-12 * torch.linalg.norm(first)  # eps times a few hundred operations
    direction, step = torch.ones_like(theta) / theta.shape[1] ** 0.5, 1e-5

    def outer(at: torch.Tensor) -> torch.Tensor:
        return problem.outer_loss(run_inner(problem, GradientDescent(0.1), at, data, 2).final, at, data)

    slope = (outer(theta + step * direction) - outer(theta - step * direction)) / (2 * step)
    # The error is step^2 times a third derivative of order 1, and eps / step.
    torch.testing.assert_close((first * direction).sum(1), slope, atol=1e-8, rtol=0)


# Workers.


def test_the_number_of_workers_changes_no_bit(tmp_path: Path):
    folder = made.class_folders(tmp_path, {name: PIECE for name in "abc"}, side=16)
    drawn = [sampled(str(folder), "all", 3, 1, 20, workers=workers).draw(2, 0) for workers in (0, 2)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    data = load(str(folder))
    rows = np.random.default_rng(0).permutation(3 * PIECE)
    with reading(data.source, 2) as read:
        np.testing.assert_array_equal(read(rows), data.source.read(rows))
        assert read(rows[:0]).shape == (0, 3, 16, 16)
        (folder / "c" / "00000.png").write_bytes(b"")
        with pytest.raises(BadData, match="c/00000.png: expected an image .* found an empty file"):
            read(rows)
        np.testing.assert_array_equal(read(rows[:1]), data.source.read(rows[:1]))  # and they live on
    with pytest.raises(ValueError, match="workers: expected a whole number >= 0, found -1"), reading(data.source, -1):
        pass


@dataclass(frozen=True)
class Killer:
    """A source whose reading process dies."""

    shape: tuple[int, int, int, int] = (4, 1, 2, 2)
    key: str = "killer"

    def read(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def name(self, row: int, /) -> str:
        return "x"


def test_a_worker_that_dies_is_told_in_one_line():
    with pytest.raises(BadData, match="expected 1 processes to live, found one killed"), reading(Killer(), 1) as read:
        read(np.arange(4))


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path):
    folder = made.class_folders(tmp_path, {"a": 2, "b": 2}, side=16)
    code = (
        "import sys, time, multiprocessing, numpy as np\n"
        "from diagnostics.data.library import load\n"
        "from diagnostics.data.workers import reading\n"
        "if __name__ == '__main__':\n"
        "    data = load(sys.argv[1])\n"
        "    with reading(data.source, 2) as read:\n"
        "        read(np.arange(4)); print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "        time.sleep(60)\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    command, paths = [sys.executable, str(script), str(folder)], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=paths) as driver:
        assert driver.stdout is not None
        pids = [int(word) for word in driver.stdout.readline().split()]
        assert pids and all(alive(pid) for pid in pids)
        driver.kill()
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_worker_needs_no_torch():
    code = (
        "import sys; import diagnostics.data.workers, diagnostics.data.encoded, diagnostics.data.array_files, "
        "diagnostics.data.turned; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# A set larger than memory, in small; benchmarks/image_memory.py measures it in large.


@dataclass(frozen=True)
class Counted:
    """Images that are made when they are read, and a record of how many are."""

    shape: tuple[int, int, int, int]
    most: list[int]
    key: str = "counted"

    def read(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        self.most.append(len(rows))
        return (rows % 251).astype(np.uint8)[:, None, None, None] * np.ones((1, *self.shape[1:]), np.uint8)

    def name(self, row: int, /) -> str:
        return "x"


def test_drawing_reads_only_the_images_of_the_episode_and_few_at_a_time():
    from diagnostics.data.episodes import draw

    source = Counted((10**6, 3, 16, 16), [])
    data = ImageData("made up", source, tuple(map(str, range(1000))), np.full(1000, 1000), {"all": range(1000)})
    drawn = draw(data.split("all"), 100, 5, 1, 15, 0, 16, None)
    assert sum(source.most) <= 100 * 5 * 16 and max(source.most) <= 128
    assert drawn["query_images"].shape == (100, 75, 3, 16, 16)
