"""The two switches that `train` sets, and what happens to a state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn import batch_norm, bn_apply, bn_init

X = jnp.asarray(np.random.default_rng(0).normal(3, 2, (16, 4)), jnp.float32)
PARAMS, START = bn_init(4)
STATE = {"mean": jnp.full(4, 0.5), "var": jnp.full(4, 2.0)}
BY_BATCH, ABSORBED = bn_apply(PARAMS, STATE, X, True)
BY_STATE, _ = bn_apply(PARAMS, STATE, X, False)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("use_running_average", [None, False, True])
@pytest.mark.parametrize("update_stats", [None, False, True])
def test_each_switch_can_be_set_on_its_own(train, use_running_average, update_stats):
    y, state = bn_apply(
        PARAMS,
        STATE,
        X,
        train,
        use_running_average=use_running_average,
        update_stats=update_stats,
    )
    running = (not train) if use_running_average is None else use_running_average
    update = train if update_stats is None else update_stats
    np.testing.assert_array_equal(y, BY_STATE if running else BY_BATCH)
    if update:
        for key, value in ABSORBED.items():
            np.testing.assert_array_equal(state[key], value)
    else:
        assert state is STATE


def test_no_state_is_needed_where_none_is_used():
    y, state = bn_apply(PARAMS, {}, X, True, update_stats=False)
    np.testing.assert_array_equal(y, BY_BATCH)
    assert state == {}


def test_keys_of_others_travel_along():
    state = {**STATE, "r_max": jnp.float32(3)}
    _, new = bn_apply(PARAMS, state, X, True)
    assert list(new) == ["mean", "var", "r_max"]
    assert new["r_max"] is state["r_max"]


def test_a_pair_can_be_overridden_for_one_call():
    norm = batch_norm(axis_name="devices", axis_index_groups=[[0], [1]])
    y, _ = norm.apply(PARAMS, STATE, X, True, axis_name=None, axis_index_groups=None)
    np.testing.assert_array_equal(y, BY_BATCH)


def test_a_non_finite_batch_leaves_its_channel_alone():
    x = X.at[3, 1].set(jnp.inf).at[5, 2].set(jnp.nan)
    _, state = bn_apply(PARAMS, STATE, x, True)
    for key in state:
        np.testing.assert_array_equal(state[key][1:3], STATE[key][1:3])
        np.testing.assert_array_equal(state[key][::3], ABSORBED[key][::3])
    _, poisoned = bn_apply(PARAMS, STATE, x, True, skip_nonfinite=False)
    assert not np.isfinite(poisoned["mean"][1:3]).any()


@pytest.mark.parametrize("options", [{"debias": True}, {"momentum": None}])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.9999])
def test_first_batch_leaves_no_trace_of_the_start(options, momentum):
    norm = batch_norm(**{"momentum": momentum, **options})
    params, state = norm.init(4)
    _, state = norm.apply(params, state, X, True)
    _, batch = bn_apply(PARAMS, START, X, True, momentum=0.0)
    np.testing.assert_array_equal(state["mean"], batch["mean"])
    np.testing.assert_array_equal(state["var"], batch["var"])
    np.testing.assert_array_equal(state["count"], 1)


def test_momentum_may_be_traced():
    @jax.jit
    def step(momentum):
        return bn_apply(PARAMS, START, X, True, momentum=momentum)[1]

    expected = bn_apply(PARAMS, START, X, True, momentum=0.25)[1]
    np.testing.assert_allclose(step(0.25)["mean"], expected["mean"], rtol=1e-6)


def test_epsilon_zero_and_no_spread_give_the_bias():
    params = {"scale": jnp.full(4, 3.0), "bias": jnp.arange(4.0)}
    x = jnp.full((8, 4), 7.0)
    y, _ = bn_apply(params, START, x, True, epsilon=0.0)
    np.testing.assert_array_equal(y, jnp.broadcast_to(params["bias"], (8, 4)))
    grad = jax.grad(lambda x: bn_apply(params, START, x, True, epsilon=0.0)[0].sum())(x)
    assert np.isfinite(grad).all()


def test_output_dtype_can_be_asked_for():
    y, _ = bn_apply(PARAMS, STATE, X.astype(jnp.bfloat16), True, dtype=jnp.float32)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-3)
