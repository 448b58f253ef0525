"""The data sets that need no file: their values, their splits, what the seed moves."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxbn import data
from jaxbn.data import _embedded


def test_names():
    assert data.dataset_names() == ("digits", "regression")


def test_digits_are_scikit_learns_each_once():
    digits = data.load("digits")
    bunch = load_digits()
    images = np.concatenate([digits.train.inputs, digits.test.inputs])
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert images.shape == (1797, 8, 8, 1)
    assert images.max() == 255
    values = np.rint(images[..., 0] / 255 * 16).astype(int)

    def counted(pixels, targets):
        rows = np.column_stack([pixels.reshape(len(targets), -1), targets])
        return rows.astype(int)[np.lexsort(rows.T)]

    np.testing.assert_array_equal(
        counted(values, labels), counted(bunch.images, bunch.target)
    )


def test_digits_are_the_same_where_the_file_has_moved(monkeypatch):
    expected = _embedded._read_digits()
    monkeypatch.setattr(_embedded.importlib.util, "find_spec", lambda name: None)
    np.testing.assert_array_equal(_embedded._read_digits(), expected)


def test_digits_split_is_stratified_and_mixed():
    digits = data.load("digits")
    assert (len(digits.train.labels), len(digits.test.labels)) == (1442, 355)
    total = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(digits.test.labels), total // 5)
    assert len(set(digits.train.labels[:30])) == 10
    assert digits.train.labels[:8].tolist() == [2, 4, 5, 4, 8, 2, 0, 6]


def test_digits_statistics():
    digits = data.load("digits")
    x = digits.train.inputs / 255
    assert digits.mean.dtype == digits.std.dtype == np.float32
    np.testing.assert_allclose(digits.mean, [x.mean()], rtol=1e-6)
    np.testing.assert_allclose(digits.std, [x.std()], rtol=1e-6)
    assert digits.task == "classification" and digits.num_classes == 10


def test_limits_take_the_first_and_the_statistics_follow():
    whole = data.load("digits")
    few = data.load("digits", train_limit=10, test_limit=7)
    np.testing.assert_array_equal(few.train.inputs, whole.train.inputs[:10])
    np.testing.assert_array_equal(few.test.labels, whole.test.labels[:7])
    np.testing.assert_allclose(few.mean, [few.train.inputs.mean() / 255], rtol=1e-6)
    assert len(data.load("digits", train_limit=10**6).train.labels) == 1442


@pytest.mark.parametrize("limit", ["train_limit", "test_limit"])
def test_limit_below_one(limit):
    with pytest.raises(ValueError, match=f"{limit} is 0; expected 1 or more, or None"):
        data.load("digits", **{limit: 0})


def test_regression_is_the_parabola_with_noise_of_variance_64():
    regression = data.load("regression")
    x, y = regression.train
    assert x.shape == y.shape == (2500, 1)
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_allclose(np.sort(x[:, 0]), np.linspace(-7, 10, 2500), rtol=1e-5)
    noise = y - (x**2 - 5)
    assert abs(noise.mean()) < 4 * 8 / np.sqrt(2500)
    assert abs(noise.var() - 64) < 4 * 64 * np.sqrt(2 / 2500)
    assert abs(np.corrcoef(x[:, 0], noise[:, 0])[0, 1]) < 0.08
    assert abs(np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]) < 0.08
    np.testing.assert_allclose(regression.mean, [1.5], atol=1e-5)
    np.testing.assert_allclose(regression.std, [17 / np.sqrt(12)], rtol=1e-3)
    assert regression.num_classes == 0 and regression.task == "regression"


def test_regression_test_split_is_the_function_itself():
    x, y = data.load("regression").test
    assert x.shape == (500, 1) and x[0] == -7 and x[-1] == 10
    np.testing.assert_allclose(y, x.astype(float) ** 2 - 5, rtol=1e-5, atol=1e-4)
    coarse = data.load("regression", test_limit=18).test.inputs
    np.testing.assert_allclose(coarse[:, 0], np.arange(-7, 11), atol=1e-5)


def test_seed_moves_only_the_training_points_of_regression():
    first, again, other = (data.load("regression", seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.train.labels, again.train.labels)
    assert (first.train.inputs != other.train.inputs).mean() > 0.9
    assert (first.train.labels != other.train.labels).mean() > 0.9
    np.testing.assert_array_equal(first.test.labels, other.test.labels)
    np.testing.assert_array_equal(
        data.load("digits", seed=1).train.labels,
        data.load("digits", seed=2).train.labels,
    )


def test_statistics_are_per_channel_and_exact():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2100, 3, 3, 3), dtype=np.uint8)
    images[..., 1] = 255
    images[..., 2] //= 4
    mean, std = data.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-6)
    assert mean[1] == 1 and std[1] == 0


def test_statistics_of_floats_survive_an_offset():
    values = 1e4 + np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    mean, std = data.channel_statistics(values)
    np.testing.assert_allclose(mean, values.astype(float).mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, values.astype(float).std(0), rtol=1e-5)
