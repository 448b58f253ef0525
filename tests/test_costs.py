"""What a step costs, where that is certain: what is kept, moved and compiled.

Times are for `benchmarks/`. Here programs are asked what they hold and access, beside
Flax's layer in the same process.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import _peers as peers
from benchmarks import block
from jaxbn import bn_apply, bn_init, ghost_norm, keep_norm_inputs
from jaxbn.training import TrainConfig, fit

POLICIES = {"": None, "policy": keep_norm_inputs}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(block, "SHAPE", (8, 8, 8, 16))


def held(function, x, *others):
    """Returns what autodiff keeps of the size of `x`."""
    leaves = jax.tree.leaves(jax.vjp(function, x, *others)[1])
    return [leaf for leaf in leaves if leaf.size >= x.size]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ghosts", [False, True])
def test_only_the_input_is_kept_in_its_own_dtype(dtype, masked, ghosts):
    x = jnp.ones((8, 5, 5, 4), dtype)
    params, state = bn_init(4)
    mask = jnp.arange(8)[:, None, None] < 6 if masked else None
    apply = ghost_norm(size=4).apply if ghosts else bn_apply

    def layer(x, params):
        return apply(params, state, x, True, mask=mask)[0]

    kept = held(layer, x, params)
    assert [(a.dtype, a.shape[-3:]) for a in kept] == [(x.dtype, x.shape[1:])]
    assert len(held(peers.of_flax(True), x, params["scale"], params["bias"])) > 1


def test_evaluation_sums_nothing():
    x = jnp.ones((8, 5, 5, 4))
    params, state = bn_init(4)
    program = jax.jit(lambda x: bn_apply(params, state, x, False)[0]).lower(x)
    assert "reduce" not in program.as_text()


def test_shifts_are_constants_to_second_derivatives():
    x = jnp.ones((16, 4)) * 100 + jnp.arange(16.0)[:, None]
    params, state = bn_init(4)

    def loss(x):
        return jnp.sum(bn_apply(params, state, x, True)[0] ** 3)

    def curvature(x, v):
        return jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), v))(x)

    text = str(jax.make_jaxpr(curvature)(x, x))
    assert " pad[" not in text and "scatter" not in text


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="XLA stored what its sums read, ours too"
)
@pytest.mark.parametrize(
    ("shape", "bound"), [((64, 16, 16, 32), 1.5), ((4096, 64), 2.0)]
)
def test_a_mask_is_applied_where_the_input_is_read_anyway(shape, bound):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params, state = bn_init(shape[-1])
    mask = (jnp.arange(shape[0]) % 7 > 0).reshape(-1, *(1,) * (len(shape) - 1))

    def accessed(mask):
        def loss(x, ct):
            return jnp.vdot(bn_apply(params, state, x, True, mask=mask)[0], ct)

        program = jax.jit(jax.grad(loss)).lower(x, x).compile()
        return program.cost_analysis()["bytes accessed"]

    assert accessed(mask) <= bound * accessed(None)


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="XLA stored what its sums read, ours too"
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_hold_and_access_less_than_those_of_flax(dtype, small):
    found = {}
    for name, norm in {"ours": peers.ours, "flax": peers.of_flax(True)}.items():
        loss, given = block.blocks(norm, dtype)
        program = jax.jit(jax.value_and_grad(loss)).lower(*given).compile()
        memory = program.memory_analysis().temp_size_in_bytes
        found[name] = memory, program.cost_analysis()["bytes accessed"]
    (memory, accessed), (theirs, accessed_there) = found["ours"], found["flax"]
    assert memory <= 0.9 * theirs
    assert accessed <= 0.98 * accessed_there


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_policy_keeps_the_inputs_of_norms_and_of_the_whole(dtype, small):
    plain = block.kept(*block.blocks(peers.ours, dtype))
    kept = block.kept(*block.blocks(peers.ours, dtype, keep_norm_inputs))
    assert kept == block.DEPTH + 1
    assert kept < 0.45 * block.kept(*block.blocks(peers.of_flax(True), dtype))
    assert kept < plain


def test_the_policy_changes_no_number_and_repeats_no_sum(small):
    def evaluating(x, scale, bias):
        state = bn_init(x.shape[-1])[1]
        return bn_apply({"scale": scale, "bias": bias}, state, x, False)[0]

    gradients, done = [], []
    for norm in (peers.ours, evaluating):
        for policy in (None, keep_norm_inputs):
            loss, given = block.blocks(norm, "float32", policy)
            step = jax.grad(loss, argnums=(0, 1))
            gradients.append(jax.jit(step)(*given))
            text = str(jax.make_jaxpr(step)(*given))
            done.append(
                [
                    text.count(f" {name}[")
                    for name in ("conv_general_dilated", "reduce_sum")
                ]
            )
    for i in (0, 2):
        for a, b in zip(*map(jax.tree.leaves, gradients[i : i + 2]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert done[i][0] >= 3 * block.DEPTH - 1
        assert np.all(np.array(done[i + 1]) <= done[i])


@pytest.mark.usefixtures("eight_devices")
def test_nothing_is_compiled_after_the_first_epoch(tmp_path, caplog):
    def compilations(num_epochs):
        caplog.clear()
        with jax.log_compiles():
            fit(config(num_epochs))
        return caplog.text.count("Finished XLA compilation of")

    def config(num_epochs):
        return TrainConfig(
            workdir=str(tmp_path / str(num_epochs)),
            norm="batch",
            num_devices=2,
            num_epochs=num_epochs,
            train_limit=96,
            test_limit=64,
        )

    compilations(1)  # What is compiled once a process.
    assert compilations(2) == compilations(4) > 0
