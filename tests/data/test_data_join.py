"""Sets joined are one set of several domains, which its labels tell."""

import numpy as np
import pytest

from jaxbn.data import Column, Dataset, Split, channel_statistics, join_domains, load


def small(name, size, classes=3, channels=1):
    rng = np.random.default_rng(size)
    splits = [
        Split(
            rng.integers(0, 256, (n, size, size, channels)).astype(np.uint8),
            rng.integers(0, classes, n).astype(np.int32),
        )
        for n in (5, 2)
    ]
    numbers = channel_statistics(splits[0].inputs)
    return Dataset(name, *splits, classes, *numbers, "classification")


def test_labels_tell_the_domain_and_images_the_size_of_the_first():
    sets = small("a", 4), small("b", 8), small("c", 2)
    both = join_domains(list(sets))
    assert (both.name, both.num_domains, both.num_classes) == ("a+b+c", 3, 3)
    assert both.train.inputs.shape == (15, 4, 4, 1) and len(both.test.labels) == 6
    for i, one in enumerate(sets):
        mine = both.train.labels // 3 == i
        assert mine.sum() == 5
        np.testing.assert_array_equal(both.train.labels[mine] % 3, one.train.labels)
    np.testing.assert_array_equal(both.train.inputs[:5], sets[0].train.inputs)
    middle = sets[1].train.inputs[:, 1::2, 1::2]
    np.testing.assert_array_equal(both.train.inputs[5:10], middle)
    twice = sets[2].train.inputs.repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(both.train.inputs[10:], twice)
    np.testing.assert_array_equal(both.mean, channel_statistics(both.train.inputs)[0])


def test_names_joined_by_plus_are_loaded():
    both = load("digits+digits", train_limit=6, test_limit=4)
    assert both.train.inputs.shape == (12, 8, 8, 1) and both.num_domains == 2
    assert both.train.labels[6:].min() >= 10


@pytest.mark.parametrize("other", [small("b", 4, 4), small("b", 4, 3, 3)])
def test_sets_of_other_classes_or_channels_are_refused(other):
    with pytest.raises(ValueError, match=r"classes and channels are .*; join sets"):
        join_domains([small("a", 4), other])
    with pytest.raises(ValueError, match=r"classes and channels are .*; join sets"):
        load("regression+regression")


def test_sets_that_stay_on_disk_are_refused():
    lazy = object.__new__(Column)
    large = small("a", 4)._replace(train=Split(lazy, lazy))
    with pytest.raises(ValueError, match=r"'a' does not fit .*; pass a train_limit"):
        join_domains([large, small("b", 4)])
