"""Statistics of the test batch mixed into the running ones."""

import numpy as np
import pytest
from committed import test_committed_form as test_committed_form

from jaxbn.data import Split
from jaxbn.experiments import Settings, figure_png
from jaxbn.experiments.claims._adaptive_inference import (
    INFERENCE,
    SIZES,
    prepare_whole,
    verdicts,
)
from jaxbn.experiments.claims._sweep import whole_batches
from jaxbn.training import ConfigError


def test_smoke(result):
    found = result.numbers
    for images in ("noisy", "clean"):
        assert set(found[images]) == {"0", "16", "64", "infinite"}
        assert all(each.shape == (2, 3) for each in found[images].values())
    assert set(found["trained"]) == set(INFERENCE)
    clean, noisy = (found[images]["infinite"] for images in ("clean", "noisy"))
    assert (clean < noisy).all()
    # The smaller the batch, the more a prior helps.
    gain = found["clean"]["0"] - found["clean"]["16"]
    assert (gain[:, 0] > gain[:, -1]).all()
    png = figure_png(result)
    assert png.startswith(b"\x89PNG") and len(png) < 100_000


def test_no_test_image_is_left_over_from_batches(monkeypatch):
    monkeypatch.setitem(SIZES, "smoke", SIZES["smoke"]._replace(test=None))
    task = prepare_whole(Settings("", size="smoke"), (8, 128))
    assert len(task.images.test.inputs) == len(task.images.test.labels) == 256


def test_a_set_without_a_whole_batch_is_refused():
    split = Split(np.zeros((10, 1)), np.arange(10))
    np.testing.assert_array_equal(whole_batches(split, 4).labels, np.arange(8))
    said = "there are 10 examples to test on, expected at least 16.* a larger data set"
    with pytest.raises(ConfigError, match=said):
        whole_batches(split, 16)


def test_verdicts_follow_their_criteria():
    spread = np.linspace(-0.05, 0.05, 5)

    def held(alone, mixed, infinite):
        each = {"0": alone, "16": mixed, "infinite": [infinite] * 3}
        errors = {
            name: np.add.outer(spread, np.asarray(values))
            for name, values in each.items()
        }
        found = {"batches": (8, 32, 128), "noisy": errors, "clean": errors}
        return [verdict.held for verdict in verdicts(found)]

    good = held([38.0, 30.5, 28.5], [31.0, 29.0, 28.7], 30.0)
    assert good == [True] * 4 + [False]
    assert held([38.0, 30.5, 28.5], [31.0, 29.0, 29.8], 30.0)[4]
    assert held([34.0, 29.0, 29.5], [31.0, 29.1, 30.6], 30.0) == [False] * 5
