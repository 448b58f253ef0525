"""The same numbers as torch.nn.BatchNorm1d, 2d and 3d, over several steps on the CPU.

PyTorch keeps features on axis 1, weighs the new value by `momentum` (0.1 is 0.9 here)
and absorbs the unbiased variance.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxbn

torch = pytest.importorskip(
    "torch",
    reason="torch is not installed; pip install 'jaxbn[torch]' compares with it",
)

LAYERS = {
    "1d": (torch.nn.BatchNorm1d, (6, 4)),
    "1d with length": (torch.nn.BatchNorm1d, (6, 4, 5)),
    "2d": (torch.nn.BatchNorm2d, (6, 4, 3, 5)),
    "3d": (torch.nn.BatchNorm3d, (3, 4, 3, 2, 2)),
}
STATE = {"running_mean": "mean", "running_var": "var", "num_batches_tracked": "count"}
all_layers = pytest.mark.parametrize("kind", LAYERS)


def draw(seed, shape):
    rng = np.random.default_rng(seed)
    return rng.normal(3.0, 2.0, shape).astype(np.float32)


def pair(kind, *, affine=True, use_running_average=None, momentum=0.1, **torch_options):
    """Returns torch's layer and a jitted step of ours with the same parameters."""
    layer, shape = LAYERS[kind]
    theirs = layer(4, affine=affine, momentum=momentum, **torch_options)
    norm = jaxbn.batch_norm(
        axis=1,
        momentum=None if momentum is None else 1 - momentum,
        unbiased=True,
        use_scale=affine,
        use_bias=affine,
    )
    params, state = norm.init(4)
    if affine:
        params = {"scale": jnp.asarray(draw(8, 4)), "bias": jnp.asarray(draw(9, 4))}
        with torch.no_grad():
            theirs.weight.copy_(torch.tensor(draw(8, 4)))
            theirs.bias.copy_(torch.tensor(draw(9, 4)))

    def step(params, state, x, cotangent, train):
        def forward(params, x):
            return norm.apply(
                params, state, x, train, use_running_average=use_running_average
            )

        y, pullback, new = jax.vjp(forward, params, x, has_aux=True)
        return y, new, *pullback(cotangent)

    return theirs, params, state, jax.jit(step, static_argnames="train"), shape


def check(theirs, params, state, step, x, cotangent, *, train):
    """Takes one step with both, compares all there is, and returns our new state."""
    theirs.train(train)
    theirs.zero_grad()
    there = torch.tensor(x, requires_grad=True)
    expected = theirs(there)
    expected.backward(torch.tensor(cotangent))
    y, new, dparams, dx = step(params, state, x, cotangent, train=train)
    oracle.assert_close(y, expected.detach().numpy(), 1e-5)
    oracle.assert_close(dx, there.grad.numpy(), 1e-5)
    for ours, name in (("scale", "weight"), ("bias", "bias")):
        if ours in params:
            oracle.assert_close(dparams[ours], getattr(theirs, name).grad.numpy(), 1e-5)
    for name, ours in STATE.items():
        running = getattr(theirs, name)
        if running is not None and ours in new:
            value = np.broadcast_to(running.numpy(), new[ours].shape)
            oracle.assert_close(new[ours], value, 1e-5)
    return new


@all_layers
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_three_steps_of_training_then_evaluation(kind, affine, momentum):
    theirs, params, state, step, shape = pair(kind, affine=affine, momentum=momentum)
    for k in range(3):
        x, cotangent = draw(k, shape) * (k + 1), draw(k + 4, shape)
        state = check(theirs, params, state, step, x, cotangent, train=True)
    check(theirs, params, state, step, draw(7, shape), cotangent, train=False)


@all_layers
def test_without_running_statistics(kind):
    """`track_running_stats=False` normalizes by the batch in evaluation too."""
    theirs, params, state, step, shape = pair(
        kind, use_running_average=False, track_running_stats=False
    )
    for train in (True, False):
        check(theirs, params, state, step, draw(0, shape), draw(1, shape), train=train)


def test_one_element_per_channel_which_torch_refuses():
    theirs, params, state, step, _ = pair("1d")
    x = draw(0, (1, 4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        theirs(torch.tensor(x))
    y, new, _, dx = step(params, state, x, x, train=True)
    np.testing.assert_array_equal(y, params["bias"][None])
    assert np.all(dx == 0)
    oracle.assert_close(new["var"], np.full(4, 0.9), 1e-6)


def test_double_precision_agrees_to_twelve_digits(x64):
    with x64():
        norm = jaxbn.batch_norm(
            axis=1, momentum=0.9, unbiased=True, param_dtype="float64"
        )
        params, state = norm.init(4)
        theirs = torch.nn.BatchNorm2d(4, dtype=torch.float64)
        for k in range(3):
            x = draw(k, (6, 4, 3, 5)).astype(np.float64) * 100
            y, state = norm.apply(params, state, x, True)
            oracle.assert_close(y, theirs(torch.tensor(x)).detach().numpy(), 1e-12)
        for name, ours in (("running_mean", "mean"), ("running_var", "var")):
            oracle.assert_close(state[ours], getattr(theirs, name).numpy(), 1e-12)
