"""The sweep of the normalization batch size, on one device and on four."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from committed import test_committed_form as test_committed_form

from jaxbn.experiments import figure_png, run_experiment
from jaxbn.experiments.claims._normalization_batch_size import CURVES, verdicts
from jaxbn.experiments.claims._styled_groups import ARMS, dress
from jaxbn.training import ConfigError

NAME = "normalization_batch_size"


def test_smoke(result):
    found = result.numbers
    assert found["sizes"].tolist() == [2, 4, 8, 32]
    assert all(found[name].shape == (2, 4) for name in CURVES)
    assert set(found["heads"]) == set(ARMS)
    assert all(head["pop"].shape == (2,) for head in found["heads"].values())
    # Two examples say little of each other; chance is 90 %.
    assert (found["train_mb"][:, 0] > found["train_mb"][:, -1]).all()
    assert (found["test_pop"][:, -1] < 75).all()
    png = figure_png(result)
    assert png.startswith(b"\x89PNG") and len(png) < 100_000


@pytest.mark.usefixtures("eight_devices")
def test_four_devices_find_the_same(result):
    shared = run_experiment(
        NAME, size="smoke", seeds=2, num_devices=4, parallel="shard_map"
    ).numbers
    for name in CURVES:  # But for NBS 2, which makes signs of rounding errors.
        one, four = (numbers[name][:, 1:] for numbers in (result.numbers, shared))
        np.testing.assert_allclose(four, one, atol=1.5)
    for arm in set(ARMS) - {"shuffled"}:  # Which is in another order.
        for key, errors in result.numbers["heads"][arm].items():
            np.testing.assert_allclose(shared["heads"][arm][key], errors, atol=1.5)


def test_groups_share_a_style():
    x = np.random.default_rng(0).normal(size=(32, 3, 3, 1)).astype(np.float32)
    y = np.asarray(dress(jax.random.key(0), jnp.asarray(x))).reshape(2, -1)
    x = x.reshape(2, -1)
    styles = []
    for before, after in zip(x, y, strict=True):
        factor, offset = np.polyfit(before, after, 1)
        np.testing.assert_allclose(after, factor * before + offset, atol=1e-4)
        styles.append((factor, offset))
    assert abs(np.diff(styles, axis=0)).min() > 0.01


@pytest.mark.usefixtures("eight_devices")
def test_refusals():
    with pytest.raises(ConfigError, match="expected 'pmap' or 'shard_map'"):
        run_experiment(NAME, size="smoke", num_devices=4, parallel="jit")
    said = "num_devices is 8, so that each has 8 .* a multiple of 16.* use 4 devices"
    with pytest.raises(ConfigError, match=said):
        run_experiment(NAME, size="smoke", num_devices=8)


def test_verdicts_follow_their_criteria():
    spread = np.linspace(-0.1, 0.1, 5)

    def curve(*values):
        return np.add.outer(spread, np.asarray(values, float))

    def heads(*pop):
        return {
            name: {"pop": value + spread, "mb": 15 + spread}
            for name, value in zip(ARMS, pop, strict=True)
        }

    good = {
        "sizes": (2, 4, 8, 32, 256),
        "train_mb": curve(40, 20, 10, 8, 5),
        "test_mb": curve(45, 25, 16, 15.5, 14),
        "test_pop": curve(50, 17, 15, 13, 13.5),
        "heads": heads(50, 20, 18, 17, 17),
    }
    assert [verdict.held for verdict in verdicts(good)] == [True] * 8
    bad = {
        **good,
        "train_mb": curve(40, 20, 10, 12, 15),
        "test_mb": curve(55, 25, 16, 15, 14),
        "test_pop": curve(17, 17, 15, 13, 12),
        "heads": heads(34, 30, 28, 24, 22),
    }
    assert [verdict.held for verdict in verdicts(bad)] == [False] * 8
