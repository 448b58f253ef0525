"""What is planted is found, and nothing else: stale layers, dead channels."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn.diagnostics import (
    Diagnose,
    drift_table,
    find_dead,
    find_stale,
    measure_drift,
    plot_drift,
    sampling_shift,
)
from jaxbn.population import precise_batch_stats

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(2, 3, (256, 8)), jnp.float32)
KEY = jax.random.key(0)


class Net(nn.Module):
    layer: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train, mask=None):
        for i in range(3):
            norm = self.layer(use_running_average=not train, name=f"bn{i}")
            x = nn.Dense(8, name=f"dense{i}")(nn.relu(norm(x, mask=mask)))
        return x


def fitted(layer=nn.BatchNorm):
    """A model whose running statistics are those of the data."""
    model = Net(layer)
    variables = model.init(KEY, X, True)
    stats, _ = precise_batch_stats(
        model, variables, [(X, True)], call=lambda b: (b, {})
    )
    return model, jax.tree.map(lambda a: a, {**variables, "batch_stats": stats})


@pytest.mark.parametrize("layer", [nn.BatchNorm, jaxbn.linen.BatchNorm])
def test_a_fitted_model_has_no_drift(layer):
    model, variables = fitted(layer)
    drifts = measure_drift(model, variables, X, False)
    assert [drift.path for drift in drifts] == ["bn0", "bn1", "bn2"]
    assert find_stale(drifts) == () and find_dead(drifts) == {}
    for drift in drifts:
        assert drift.num_elements == 256
        assert drift.shift.max() < 1e-3 and np.abs(drift.log_ratio).max() < 1e-3
    assert "stale" not in drift_table(drifts)


def test_a_planted_stale_layer_and_a_planted_dead_channel():
    model, variables = fitted()
    stats = variables["batch_stats"]
    stats["bn1"]["mean"] += 2 * jnp.sqrt(stats["bn1"]["var"])
    variables["params"]["dense0"]["kernel"] = (
        variables["params"]["dense0"]["kernel"].at[:, 5].set(0)
    )
    variables["params"]["bn2"]["scale"] = (
        variables["params"]["bn2"]["scale"].at[3].set(0)
    )
    # As the layers are met in training, so that one does not spoil the next.
    drifts = measure_drift(model, variables, X, True)
    assert find_stale(drifts) == ("bn1",)
    assert find_dead(drifts) == {"bn1": (5,), "bn2": (3,)}
    table = drift_table(drifts).splitlines()
    assert table[1].split()[0] == "bn1" and table[1].endswith("stale, dead channels")
    assert plot_drift(drifts).axes[1].get_xticklabels()[1].get_text() == "bn1"


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_numbers(offset):
    model = nn.BatchNorm(use_running_average=True)
    x = X + offset
    variables = model.init(KEY, x)
    stats = {"mean": jnp.full(8, 1.0 + offset), "var": jnp.full(8, 4.0)}
    mask = jnp.arange(256)[:, None] < 200
    x = x.at[200:].set(jnp.nan)
    held = {**variables, "batch_stats": stats}
    (drift,) = measure_drift(model, held, x, mask=mask)
    rows = np.asarray(x[:200], np.float64)
    mean, var = rows.mean(0), rows.var(0)
    shift = np.abs(mean - 1 - offset) / np.sqrt(4 + 1e-5)
    oracle.assert_close(drift.batch_mean, mean, 1e-6)
    oracle.assert_close(drift.shift, shift, 1e-4)
    oracle.assert_close(drift.log_ratio, np.log((var + 1e-5) / (4 + 1e-5)), 1e-5)
    surprise = np.abs(mean - 1 - offset) / np.sqrt(var / 200)
    oracle.assert_close(drift.surprise, surprise, 1e-4)
    (other,) = measure_drift(model, variables, x, mask=mask, reference=stats)
    np.testing.assert_array_equal(other.shift, drift.shift)


def test_an_nnx_model_with_a_layer_not_reached_and_one_used_twice():
    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.used = nnx.BatchNorm(8, rngs=rngs)
            self.spare = jaxbn.nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return self.used(self.used(x))

    model = Pair(nnx.Rngs(0))
    model.eval()
    spare, used = measure_drift(model, None, X)
    assert (spare.path, spare.num_elements, used.num_elements) == ("spare", 0, 512)
    rows = np.concatenate([np.asarray(X, np.float64)] * 2)
    oracle.assert_close(used.batch_mean, rows.mean(0), 1e-4)
    assert find_stale((spare, used)) == ("used",)
    assert find_dead((spare, used)) == {}
    assert drift_table((spare, used)).splitlines()[-1].endswith("not reached")


def test_an_observer_looks_every_so_often():
    model, variables = fitted()
    said = []
    observer = Diagnose(model, every=2, say=said.append)
    looks = [observer(step, variables, X, False) for step in range(4)]
    assert [look is not None for look in looks] == [True, False, True, False]
    assert [step for step, _ in observer.history] == [0, 2]
    assert said[1].startswith("step 2\nlayer")
    with pytest.raises(ValueError, match="every is 0, expected a number of steps from"):
        Diagnose(model, every=0)


def test_models_without_statistics_are_refused():
    model = nn.Dense(2)
    with pytest.raises(ValueError, match=r"no layer with 'mean' and 'var' .*; pass"):
        measure_drift(model, model.init(KEY, X), X)


def test_chance_is_allowed_for_given_the_momentum():
    """A running average of small batches, looked at with another one."""
    batches = RNG.normal(size=(400, 4, 64))
    shifts, mean = [], np.zeros(64)
    for batch in batches:
        shifts.append(batch.mean(0) - mean)
        mean = 0.8 * mean + 0.2 * batch.mean(0)
    assert sampling_shift(4, 0.8) == pytest.approx(np.std(shifts[50:]), rel=0.05)
    model = nn.BatchNorm(use_running_average=True)
    variables = model.init(KEY, X)
    drifts = measure_drift(model, variables, X[:4])
    assert find_stale(drifts) == ("",)
    nearer = {"batch_stats": {"mean": jnp.full(8, 1.2), "var": jnp.full(8, 9.0)}}
    few = measure_drift(model, {**variables, **nearer}, X[:4])
    assert find_stale(few, shift=0.01, momentum=0.9) == ()
