"""Episodes: what is drawn, how it is moved, and that it can be drawn again."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diagnostics.data import episodes, glyphs
from diagnostics.data.episodes import JITTER, Jitter, choose, draw


@dataclass(frozen=True, eq=False)
class Images:
    images: np.ndarray
    labels: np.ndarray


def noise(drawings_per_class: list[int], *shape: int) -> Images:
    """Random images; the labels are shuffled and leave gaps."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(10 * np.arange(len(drawings_per_class)), drawings_per_class))
    return Images(rng.integers(0, 256, (len(labels), *shape)).astype(np.uint8), labels)


SMALL = noise([4, 5, 7, 4, 16, 6, 4], 14, 14)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> glyphs.Glyphs:
    """The test split; rendered into a folder of its own unless this process has it already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADGAUGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return glyphs.load("test")


def test_shapes_types_and_ranges():
    drawn = draw(SMALL, tasks=3, ways=5, shots=2, queries=4, seed=0, size=7)
    assert {name: (tuple(value.shape), value.dtype) for name, value in drawn.items()} == {
        "support_images": ((3, 10, 1, 7, 7), torch.float64),
        "support_labels": ((3, 10), torch.int64),
        "query_images": ((3, 20, 1, 7, 7), torch.float64),
        "query_labels": ((3, 20), torch.int64),
    }
    for role in ("support", "query"):
        assert 0 <= drawn[f"{role}_images"].min() < drawn[f"{role}_images"].max() <= 1
    assert drawn["support_labels"].tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]] * 3


def test_colour_images_keep_their_channels():
    drawn = draw(noise([4, 4, 4], 3, 12, 10), tasks=2, ways=2, shots=1, queries=1, seed=0, size=5)
    assert drawn["query_images"].shape == (2, 2, 3, 5, 5)


def test_fewer_episodes_are_the_first_of_more():
    few, more = (draw(SMALL, tasks=tasks, ways=5, shots=2, queries=9, seed=3, size=7) for tasks in (4, 8))
    assert 8 * 5 * 9 > episodes._CHUNK, "the case must cross a boundary between chunks"
    for name in more:
        assert torch.equal(few[name], more[name][:4]), name


def test_glyph_episodes_are_prefix_stable_too(letters: glyphs.Glyphs):
    few, more = (draw(letters, tasks=tasks, ways=5, shots=1, queries=15, seed=3) for tasks in (1, 5))
    for name in more:
        assert torch.equal(few[name], more[name][:1]), name


def test_a_seed_gives_the_same_episodes_again_and_another_does_not():
    first, again, other = (draw(SMALL, 2, 5, 1, 2, seed, size=7) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["support_images"], other["support_images"])


def test_classes_differ_within_an_episode_and_vary_between_them():
    classes = choose(SMALL.labels, tasks=400, ways=5, shots=1, queries=1, seed=0).classes
    assert all(len(set(row)) == 5 for row in classes.tolist())
    # Each of 7 classes takes part in 5/7 of the episodes; the standard deviation of that share is 0.023.
    shares = [(classes == value).any(axis=1).mean() for value in np.unique(SMALL.labels)]
    assert np.allclose(shares, 5 / 7, atol=0.1)


def test_images_come_from_the_class_of_their_label():
    chosen = choose(SMALL.labels, tasks=50, ways=5, shots=3, queries=4, seed=0)
    for rows in (chosen.support, chosen.query):
        assert (SMALL.labels[rows] == chosen.classes[..., None]).all()


@pytest.mark.parametrize("shots, queries", [(1, 1), (1, 15), (2, 2), (3, 1), (5, 15), (15, 1), (20, 20)])
def test_no_drawing_is_on_both_sides(shots: int, queries: int):
    chosen = choose(SMALL.labels, tasks=60, ways=6, shots=shots, queries=queries, seed=0)
    counts = dict(zip(*np.unique(SMALL.labels, return_counts=True), strict=True))
    for value, support, query in zip(
        chosen.classes.reshape(-1), chosen.support.reshape(-1, shots), chosen.query.reshape(-1, queries), strict=True
    ):
        assert not set(support) & set(query)
        n = counts[value]
        if shots + queries <= n:
            assert len(set(support)) == shots and len(set(query)) == queries, "nothing need be used twice"
        else:
            assert len(set(support)) >= min(shots, n // 2) and len(set(query)) >= min(queries, n // 2)


def test_a_class_with_one_drawing_shows_it_on_both_sides_moved_differently():
    data = noise([1, 1], 14, 14)
    drawn = draw(data, tasks=3, ways=2, shots=2, queries=2, seed=0, size=7)
    assert (choose(data.labels, 3, 2, 2, 2, 0).support == choose(data.labels, 3, 2, 2, 2, 0).query).all()
    _assert_all_differ(drawn)


def test_no_query_is_a_support_image(letters: glyphs.Glyphs):
    _assert_all_differ(draw(letters, tasks=40, ways=5, shots=5, queries=15, seed=0))


def _assert_all_differ(drawn: dict[str, Tensor]) -> None:
    images = torch.cat([drawn["support_images"], drawn["query_images"]], dim=1).flatten(2)
    for episode in images.numpy():
        assert len(np.unique(episode, axis=0)) == len(episode)


def test_pixels_alone_are_well_above_chance_and_well_below_perfect(letters: glyphs.Glyphs):
    """1-nearest neighbour, 5-way 1-shot: chance is 20 %; over 200 episodes its standard error is about 1 %."""
    drawn = draw(letters, tasks=200, ways=5, shots=1, queries=5, seed=0)
    distances = torch.cdist(drawn["query_images"].flatten(2), drawn["support_images"].flatten(2))
    guess = drawn["support_labels"].gather(1, distances.argmin(-1))
    assert 0.38 < (guess == drawn["query_labels"]).double().mean() < 0.55


# The moves themselves: `moves` holds rotation, scale, shear, shift_x, shift_y in [0, 1]; 0.5 is the middle of a range.


def _move(image: np.ndarray, move: list[float], size: int, jitter: Jitter) -> np.ndarray:
    return episodes._moved(image[None], np.array([0]), np.array([move]), size, jitter)[0, 0].numpy()


def test_without_a_move_the_image_is_averaged_over_areas(letters: glyphs.Glyphs):
    image = letters.images[0]
    still = Jitter(rotation=0, smallest=1, largest=1, shear=0, shift=0)
    expected = image.reshape(28, 2, 28, 2).mean((1, 3)) / 255
    # Positions are rounded at 1e-16 of the side; bilinear weights, and so the greys, at some 56 times that.
    np.testing.assert_allclose(_move(image, [0.3, 0.9, 0.1, 0.7, 0.2], 28, still), expected, atol=1e-13)


def test_a_shift_moves_right_and_down(letters: glyphs.Glyphs):
    image = letters.images[0]
    moved = _move(image, [0.5, 0.5, 0.5, 1.0, 0.75], 56, Jitter(smallest=1, largest=1, shift=4 / 56))
    np.testing.assert_allclose(moved, np.roll(image, (2, 4), (0, 1)) / 255, atol=1e-13)


def test_a_rotation_turns_clockwise(letters: glyphs.Glyphs):
    image = letters.images[0]
    moved = _move(image, [1.0, 0.5, 0.5, 0.5, 0.5], 56, Jitter(rotation=90, smallest=1, largest=1))
    np.testing.assert_allclose(moved, np.rot90(image, -1) / 255, atol=1e-12)


def test_the_grid_is_the_inverse_of_the_stated_move():
    height, width, moves = 12, 20, np.random.default_rng(0).random((6, 5))
    grid = episodes._grid(torch.from_numpy(moves), height, width, JITTER).numpy()
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    for move, source in zip(2 * moves - 1, grid, strict=True):
        half = move[0] * np.tan(np.radians(JITTER.rotation) / 2)
        angle = 2 * np.arctan(half)
        scale = (JITTER.smallest + JITTER.largest) / 2 + move[1] * (JITTER.largest - JITTER.smallest) / 2
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[1, JITTER.shear * move[2]], [0, 1]])
        shift = JITTER.shift * np.array([width * move[3], height * move[4]])
        pixels = source * np.array([width, height]) / 2
        np.testing.assert_allclose(pixels @ (scale * rotation @ shear).T + shift, np.stack([x, y], axis=-1), atol=1e-12)


@pytest.mark.parametrize("name", ["tasks", "ways", "shots", "queries", "size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_counts_that_are_no_positive_whole_numbers_are_refused(name: str, value):
    arguments: dict[str, Any] = {"tasks": 1, "ways": 2, "shots": 1, "queries": 1, "size": 7, name: value}
    with pytest.raises(ValueError, match=f"{name}.*expected a whole number >= 1, found"):
        draw(SMALL, seed=0, **arguments)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed.*found -1"):
        draw(SMALL, 1, 2, 1, 1, seed=-1, size=7)


def test_more_ways_than_classes_are_refused():
    with pytest.raises(ValueError, match="expected ways <= 7.*found 8.*ask for fewer"):
        draw(SMALL, tasks=1, ways=8, shots=1, queries=1, seed=0, size=7)


@pytest.mark.parametrize(
    "data, size, message",
    [
        (Images(SMALL.images.astype(np.float32), SMALL.labels), 7, "expected images .* of uint8, found float32"),
        (Images(SMALL.images[0], SMALL.labels), 7, r"found uint8 of shape \(14, 14\)"),
        (Images(SMALL.images, SMALL.labels[1:]), 7, "expected a label for each of 46 images, found 45"),
        (SMALL, 15, "expected size <= 14.*found 15"),
    ],
)
def test_unfit_images_are_refused(data: Images, size: int, message: str):
    with pytest.raises(ValueError, match=message):
        draw(data, tasks=1, ways=2, shots=1, queries=1, seed=0, size=size)


@pytest.mark.parametrize("smallest, largest", [(0.0, 1.0), (-1.0, 1.0), (1.1, 1.0), (1.0, float("nan"))])
def test_impossible_scales_are_refused(smallest: float, largest: float):
    with pytest.raises(ValueError, match="jitter.*expected"):
        Jitter(smallest=smallest, largest=largest)
