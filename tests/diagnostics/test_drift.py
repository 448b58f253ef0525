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
        assert drift.batch.shift.max() < 1e-3
        assert np.abs(drift.batch.log_ratio).max() < 1e-3
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
    precise = jax.tree.map(lambda a: a, stats)
    precise["bn1"]["mean"] -= 2 * jnp.sqrt(stats["bn1"]["var"])
    drifts = measure_drift(model, variables, X[:2], True, precise=precise)
    assert find_stale(drifts) == ("bn1",)
    assert "precise shift" in drift_table(drifts)
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
    oracle.assert_close(drift.batch.shift, shift, 1e-4)
    ratio = np.log((var + 1e-5) / (4 + 1e-5))
    oracle.assert_close(drift.batch.log_ratio, ratio, 1e-5)
    surprise = np.abs(mean - 1 - offset) / np.sqrt(var / 200)
    oracle.assert_close(drift.surprise, surprise, 1e-4)
    (other,) = measure_drift(
        model, held, x, mask=mask, precise={"mean": mean, "var": var}
    )
    np.testing.assert_allclose(other.precise.shift, shift, rtol=1e-3)
    np.testing.assert_allclose(other.precise.log_ratio, ratio, rtol=1e-5)


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


def test_each_layer_has_its_own_epsilon():
    model = nn.Sequential(
        [nn.BatchNorm(use_running_average=True, epsilon=e) for e in (1.0, 1e-5)]
    )
    x = jnp.array([[0.0], [2.0]])
    first, second = measure_drift(model, model.init(KEY, x), x)
    assert first.batch.shift == pytest.approx(1 / np.sqrt(2))
    assert second.batch.shift == pytest.approx(1 / np.sqrt(2), rel=1e-4)
    assert first.batch.log_ratio == pytest.approx(0)
    assert second.batch.log_ratio == pytest.approx(np.log(0.5), rel=1e-4)


def scanned(axis):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            norm = nn.BatchNorm(use_running_average=True, name="bn")
            return norm(nn.Dense(8)(x)), None

    return nn.scan(
        Layer,
        variable_axes={"params": 0, "batch_stats": axis},
        split_rngs={"params": True},
        length=3,
    )()


def test_layers_stacked_by_a_scan_are_looked_at_one_by_one():
    model = scanned(0)
    variables = model.init(KEY, X, None)
    stats = variables["batch_stats"]["bn"]
    stats["mean"] = stats["mean"].at[1].set(50.0)
    kernel = variables["params"]["Dense_0"]["kernel"]
    variables["params"]["Dense_0"]["kernel"] = kernel.at[2, :, 5].set(0)
    drifts = measure_drift(model, variables, X, None)
    assert [drift.path for drift in drifts] == ["bn[0]", "bn[1]", "bn[2]"]
    assert find_stale(drifts)[0] == "bn[1]" and find_dead(drifts) == {"bn[2]": (5,)}
    assert drifts[0].scale.shape == (8,)
    other = scanned(-1)
    variables = other.init(KEY, X, None)
    with pytest.raises(
        ValueError, match=r"shape \(8, 3\), .*; stack layers along axis 0"
    ):
        measure_drift(other, variables, X, None)


def test_one_element_says_nothing_of_dead_channels():
    model = nn.BatchNorm(use_running_average=True)
    variables = model.init(KEY, X)
    assert find_dead(measure_drift(model, variables, X[:1])) == {}
    stats = {"mean": jnp.zeros(8), "var": jnp.ones(8).at[3].set(0)}
    drifts = measure_drift(model, {**variables, "batch_stats": stats}, X[:1])
    assert find_dead(drifts) == {"": (3,)}


def test_what_was_never_updated_is_stale_on_any_data():
    model = nn.BatchNorm(use_running_average=True)
    x = (X - X.mean(0, keepdims=True)) / X.std(0, keepdims=True)
    drifts = measure_drift(model, model.init(KEY, x), x)
    assert drifts[0].is_initial and find_stale(drifts) == ("",)
    assert drift_table(drifts).endswith("stale, as initialized")


def test_what_is_not_finite_is_stale():
    model = nn.BatchNorm(use_running_average=True)
    variables = model.init(KEY, X)
    stats = {"mean": jnp.full(8, jnp.nan), "var": jnp.ones(8)}
    drifts = measure_drift(model, {**variables, "batch_stats": stats}, X)
    assert find_stale(drifts) == ("",) and np.isinf(drifts[0].batch.shift).all()
    assert len(plot_drift(drifts).axes) == 2


def test_surprise_counts_examples_where_pixels_are_alike():
    """Constant images: 64 independent numbers, however many pixels."""
    images = jnp.broadcast_to(X[:64, None, None, :], (64, 5, 5, 8))
    model = nn.BatchNorm(use_running_average=True)
    variables = model.init(KEY, images)
    (alike,) = measure_drift(model, variables, images)
    (alone,) = measure_drift(model, variables, X[:64])
    assert alike.num_elements == 1600
    np.testing.assert_allclose(alike.num_independent, 64, rtol=1e-4)
    np.testing.assert_allclose(alike.surprise, alone.surprise, rtol=1e-4)
    noise = jax.random.normal(KEY, (64, 5, 5, 8))
    (apart,) = measure_drift(model, variables, noise)
    assert np.median(apart.num_independent) > 1000


@pytest.mark.parametrize("masked", [False, True])
def test_domains_are_looked_at_one_by_one(masked):
    norm = jaxbn.domain_norm(3, jaxbn.batch_norm(momentum=0.0))
    layer = jaxbn.linen.Norm(norm)
    domain = jnp.arange(256) % 2
    kept = jnp.arange(256) < (100 if masked else 256)
    x = X + 10 * domain[:, None]
    mask = kept[:, None] if masked else None
    x = jnp.where(kept[:, None], x, jnp.nan)
    call = {"domain": domain, "mask": mask}
    variables = layer.init(KEY, X, use_running_average=True)
    drifts = measure_drift(layer, variables, x, use_running_average=True, **call)
    assert [drift.path for drift in drifts] == ["[0]", "[1]", "[2]"]
    for i, drift in enumerate(drifts[:2]):
        rows = np.asarray(x, np.float64)[kept & (domain == i)]
        assert drift.num_elements == len(rows)
        oracle.assert_close(drift.batch_mean, rows.mean(0), 1e-5)
        oracle.assert_close(drift.batch_var, rows.var(0), 1e-4)
    assert drifts[2].num_elements == 0 and np.isnan(drifts[2].batch.shift).all()
    assert set(find_stale(drifts)) == {"[0]", "[1]"}


def test_precise_statistics_that_lack_a_layer_are_refused():
    model, variables = fitted()
    with pytest.raises(
        ValueError, match=r"no statistics of layers \['bn0'.*; pass what"
    ):
        measure_drift(model, variables, X, False, precise={})
