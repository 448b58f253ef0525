"""The data sets that need no file and no network: 'digits' and 'regression'."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxbn.data._order import shuffled_order
from jaxbn.data._split import Split

TRAIN_POINTS = 2500
TEST_POINTS = 500
NOISE_STD = 8.0
"""Standard deviation of the noise on the regression targets."""


def dataset_names() -> tuple[str, ...]:
    """The names that `load` serves without any file: the embedded data sets.

    Example:
        >>> dataset_names()
        ('digits', 'regression')
    """
    return tuple(EMBEDDED)


def load_digits(
    seed: int, train_limit: int | None, test_limit: int | None
) -> tuple[Split, Split, int]:
    """1,797 handwritten digits, 8x8, from scikit-learn (UCI); 10 classes.

    The values v = 0..16 become uint8 by round(v * 255 / 16), half upwards, so that
    x/255 lies on [0, 1] and round(x * 16 / 255) gives v back. One fixed permutation
    orders the examples, and every fifth of each class goes to the test split: 1,442
    and 355 examples, the classes mixed. `seed` changes nothing.
    """
    table = _read_digits().astype(np.int32)  # [1797, 65]: 64 pixels, the class.
    values, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1]
    images = ((values * 255 + 8) // 16).astype(np.uint8)
    order = shuffled_order(len(labels), seed=0)
    one_hot = labels[order, None] == np.arange(10)
    rank_in_class = one_hot.cumsum(0)[one_hot]
    in_test = rank_in_class % 5 == 0
    train, test = order[~in_test][:train_limit], order[in_test][:test_limit]
    return (
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
        10,
    )


def _read_digits() -> np.ndarray:
    """Returns scikit-learn's table of digits, without its import where that can be.

    Importing it takes three seconds (1.9), a quarter of a first run; the file is read
    in 20 ms.
    """
    found = importlib.util.find_spec("sklearn")
    if found is not None and found.origin:
        path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn import datasets

    table: Any = datasets.load_digits(return_X_y=True)
    return np.column_stack(table)


def load_regression(
    seed: int, train_limit: int | None, test_limit: int | None
) -> tuple[Split, Split, int]:
    """y = x^2 - 5 + N(0, 8), 8 the standard deviation, on [-7, 10].

    Training: 2,500 evenly spaced x, shuffled and given noise with `seed`. Test: the
    function without noise on 500 evenly spaced x in ascending order (or `test_limit`
    of them, a coarser grid), so that the test loss measures the distance from the
    truth and its best value is 0; fresh noise would add 64 to it.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    x = rng.permutation(np.linspace(-7.0, 10.0, TRAIN_POINTS))
    y = x**2 - 5 + rng.normal(0.0, NOISE_STD, TRAIN_POINTS)
    grid = np.linspace(-7.0, 10.0, min(test_limit or TEST_POINTS, TEST_POINTS))
    train = _as_columns(x[:train_limit], y[:train_limit])
    return train, _as_columns(grid, grid**2 - 5), 0


def _as_columns(x: np.ndarray, y: np.ndarray) -> Split:
    return Split(x[:, None].astype(np.float32), y[:, None].astype(np.float32))


EMBEDDED: dict[str, Callable[..., tuple[Split, Split, int]]] = {
    "digits": load_digits,
    "regression": load_regression,
}
