"""Statistics of other frameworks give what those give, and come back as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from jaxbn import bn_apply
from jaxbn.surgery import (
    from_equinox,
    from_haiku,
    from_keras,
    from_torch,
    momentum_from_torch,
    to_torch,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, (6, 5, 4)).astype(np.float32)


def resnet_names(blocks=(2, 2, 2, 2), layers=2):
    yield "bn1", 64
    for stage, count in enumerate(blocks, 1):
        width = 64 * 2 ** (stage - 1)
        for block in range(count):
            for i in range(1, layers + 1):
                yield f"layer{stage}.{block}.bn{i}", width * (4 if i == 3 else 1)
            if block == 0 and (stage > 1 or layers == 3):
                yield f"layer{stage}.{block}.downsample.1", width


@pytest.mark.parametrize(
    ("blocks", "layers", "norms"), [((2, 2, 2, 2), 2, 20), ((3, 4, 6, 3), 3, 53)]
)
def test_a_resnet_shaped_state_dict_comes_back(blocks, layers, norms):
    state = {"fc.weight": np.ones((3, 3)), "conv1.weight": np.ones((1,))}
    for name, width in resnet_names(blocks, layers):
        for entry in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{entry}"] = RNG.uniform(size=width).astype(np.float32)
        state[f"{name}.num_batches_tracked"] = np.int64(7)
    found = from_torch(state, cumulative=True)
    assert len(jax.tree.leaves(found["params"])) == 2 * norms
    back = to_torch(found["params"], found["batch_stats"])
    assert set(back) == {name for name in state if "bn" in name or "downsample" in name}
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name])
        assert value.dtype == state[name].dtype


@pytest.mark.parametrize(("blocks", "layers"), [((2, 2, 2, 2), 2), ((3, 4, 6, 3), 3)])
def test_every_norm_of_a_resnet_gives_what_torch_gives(blocks, layers):
    torch = pytest.importorskip("torch")
    for name, width in resnet_names(blocks, layers):
        norm = torch.nn.BatchNorm2d(width)
        for value in norm.state_dict().values():
            if value.ndim:
                value.uniform_(0.5, 2)
        state = {f"{name}.{k}": v.numpy() for k, v in norm.state_dict().items()}
        found = from_torch(state)
        params, stats = found["params"], found["batch_stats"]
        for part in name.split("."):
            params, stats = params[part], stats[part]
        x = RNG.normal(2, 3, (2, width, 3, 3)).astype(np.float32)
        expected = norm.eval()(torch.from_numpy(x)).detach().numpy()
        y, _ = bn_apply(params, stats, jnp.asarray(x), False, axis=1)
        oracle.assert_close(y, expected, 1e-5)


def test_torch_layers_give_the_same(recwarn):
    torch = pytest.importorskip("torch")
    recwarn.clear()
    net = torch.nn.Sequential(
        torch.nn.BatchNorm1d(4, momentum=0.25), torch.nn.BatchNorm1d(4, affine=False)
    )
    with torch.no_grad():
        net[0].weight.uniform_(0.5, 2)
        net[0].bias.uniform_(-1, 1)
    rows = torch.from_numpy(X.reshape(-1, 4))
    names = {k: v.numpy() for k, v in net.state_dict().items()}
    found = from_torch(names)
    y, momentum = jnp.asarray(X.reshape(-1, 4)), momentum_from_torch(0.25)
    states = {}
    for i, m in (("0", momentum), ("1", momentum_from_torch(0.1))):
        params, stats = found["params"].get(i, {}), found["batch_stats"][i]
        y, states[i] = bn_apply(params, stats, y, True, momentum=m, unbiased=True)
    oracle.assert_close(y, net(rows).detach().numpy(), 1e-4)
    trained = {k: v.numpy() for k, v in net.state_dict().items()}
    back = to_torch(found["params"], states, num_batches_tracked=1)
    assert set(back) == set(trained)
    for name, value in back.items():
        oracle.assert_close(value, trained[name], 1e-5)
    net.eval()
    expected = net(rows).detach().numpy()
    net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in back.items()})
    oracle.assert_close(net(rows).detach().numpy(), expected, 1e-5)
    y = jnp.asarray(X.reshape(-1, 4))
    for i in "01":
        y, _ = bn_apply(found["params"].get(i, {}), states[i], y, False)
    oracle.assert_close(y, expected, 1e-4)


def test_the_variance_of_torch_made_biased():
    stats = {"running_mean": np.zeros(2), "running_var": np.full(2, 4.0)}
    found = from_torch(stats, num_elements=4)
    np.testing.assert_array_equal(found["batch_stats"]["var"], 3.0)


def test_haiku():
    hk = pytest.importorskip("haiku")

    def net(x, train):
        return hk.BatchNorm(True, True, 0.9, name="bn")(x, train)

    model = hk.transform_with_state(net)
    params, state = model.init(jax.random.key(0), X, True)
    for scale in (1, 2):
        _, state = model.apply(params, state, None, scale * X, True)
    params["bn"]["offset"] += 0.5
    expected, _ = model.apply(params, state, None, X, False)
    ours, stats = from_haiku(params, state, "bn")
    y, _ = bn_apply(ours, stats, jnp.asarray(X), False)
    oracle.assert_close(y, expected, 1e-5)
    with pytest.raises(ValueError, match=r"a batch norm called 'x'; it has \['bn"):
        from_haiku(params, state, "x")


@pytest.mark.parametrize("mode", ["ema", "batch"])
def test_equinox(mode):
    eqx = pytest.importorskip("equinox")
    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode=mode)
    run = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    rows = jnp.asarray(X.reshape(-1, 4))
    for scale in (1, 2, 3):
        _, state = run(scale * rows, state)
    still = eqx.nn.inference_mode(layer)
    evaluate = jax.vmap(still, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    expected, _ = evaluate(rows, state)
    if mode == "ema":
        mean, var = state.get(layer.ema_state_index)
        options = {}
    else:
        mean, var = state.get(layer.batch_state_index)
        options = {"count": int(state.get(layer.batch_counter)), "as_evaluated": True}
    affine = {"weight": layer.weight, "bias": layer.bias}
    params, stats = from_equinox(mean, var, **affine, **options)
    y, _ = bn_apply(params, stats, rows, False)
    oracle.assert_close(y, expected, 1e-4)
    if mode == "batch":
        right = from_equinox(mean, var, count=3)[1]
        variances = [(s * X.reshape(-1, 4)).var(0) for s in (1, 2, 3)]
        weights = np.array([0.99**2, 0.99, 1]) * 0.01 / (1 - 0.99**3)
        oracle.assert_close(right["var"], weights @ np.array(variances), 1e-3)


def test_keras():
    arrays = [np.full(3, value) for value in (2.0, 1.0, 3.0, 4.0)]
    params, state = from_keras(arrays)
    order = "gamma", "beta", "moving_mean", "moving_variance"
    names = dict(zip(order, arrays, strict=True))
    assert jax.tree.all(
        jax.tree.map(np.array_equal, from_keras(names), (params, state))
    )
    x = jnp.ones((2, 3)) * 5
    y, _ = bn_apply(params, state, x, False, epsilon=1e-3)
    oracle.assert_close(y, 2 * 2 / np.sqrt(4 + 1e-3) + 1 + np.zeros((2, 3)), 1e-6)
    params, _ = from_keras(arrays[1:], scale=False)
    assert set(params) == {"bias"}


def test_refusals():
    with pytest.raises(ValueError, match=r"names that end with 'running_mean'; pass"):
        from_torch({"fc.weight": np.ones(2)})
    with pytest.raises(ValueError, match=r"beside 'a.running_mean' have shapes {'run"):
        from_torch({"a.running_mean": np.ones(2)})
    with pytest.raises(ValueError, match=r"no layer with 'mean' and 'var', .*; pass"):
        to_torch({}, {"bn": {"mean": np.ones(2)}})
    with pytest.raises(ValueError, match=r"momentum is 1.5, expected 0 <= mom"):
        momentum_from_torch(1.5)
    with pytest.raises(ValueError, match=r"count is 0, expected at least 1 batch"):
        from_equinox([0.0], [1.0], count=0)
    with pytest.raises(ValueError, match=r"weights has 3 arrays, .*; say scale=False"):
        from_keras([[1.0]] * 3)
    with pytest.raises(ValueError, match=r"weights has \['gamma'\], .*; pass the w"):
        from_keras({"gamma": [1.0]})


def test_torch_names_with_a_prefix_and_counts_by_module():
    entries = {"running_mean": [3.0], "running_var": [4.0]}
    held = {f"module.{n}.{k}": v for n in ("a", "b") for k, v in entries.items()}
    found = from_torch(held, prefix="module.", num_elements={"a": 5})["batch_stats"]
    np.testing.assert_allclose(found["a"]["var"], 4 * 4 / 5)
    np.testing.assert_allclose(found["b"]["var"], 4)
    with pytest.raises(ValueError, match=r"has no num_batches_tracked .*; say cumul"):
        from_torch(held, cumulative=True)
    with pytest.raises(ValueError, match=r"of one shape, .*; pass the state dict as"):
        from_torch({"running_mean": [1.0, 2.0], "running_var": [1.0]})
    with pytest.raises(ValueError, match=r"have shapes {'running_var': \(1,\)}, exp"):
        from_torch({"running_mean": None, "running_var": [1.0]})
    with pytest.raises(ValueError, match=r"'weight': \(2,\).*; pass the state dict as"):
        from_torch({**entries, "weight": [1.0, 2.0]})
    assert from_torch({**entries, "weight": None, "bias": [1.0]})["params"] == {
        "bias": jnp.ones(1)
    }


def test_the_fused_layer_of_keras_and_averages_of_nothing():
    weights = {"moving_mean": [0.0], "moving_variance": [5.0]}
    var = from_keras(weights, num_elements=5)[1]["var"]
    np.testing.assert_allclose(var, 4.0)
    with pytest.raises(ValueError, match=r"shape \(1,\) and moving_variance \(2,\), "):
        from_keras({"moving_mean": [0.0], "moving_variance": [5.0, 1.0]})
    with pytest.raises(ValueError, match=r"momentum is 1.0, expected less than 1: "):
        from_equinox([0.0], [1.0], count=3, momentum=1.0)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8_e4m3fn"])
def test_tensors_of_any_dtype(dtype):
    torch = pytest.importorskip("torch")
    layer = torch.nn.BatchNorm2d(3)
    layer(torch.ones(2, 3, 4, 4) * torch.tensor([1.0, 2, 3]).reshape(3, 1, 1))
    held = {k: v.to(getattr(torch, dtype)) for k, v in layer.state_dict().items()}
    found = from_torch(held, cumulative=True)
    np.testing.assert_array_equal(found["batch_stats"]["count"], 1)
    for name, value in (("mean", layer.running_mean), ("var", layer.running_var)):
        expected = value.to(getattr(torch, dtype)).double().numpy()
        np.testing.assert_allclose(found["batch_stats"][name], expected, rtol=1e-6)
        assert found["batch_stats"][name].dtype == jnp.float32


def test_tensors_that_are_trained_and_tensors_without_numbers():
    torch = pytest.importorskip("torch")
    layer = torch.nn.BatchNorm1d(3)
    found = from_torch(layer.state_dict(keep_vars=True))
    np.testing.assert_array_equal(found["params"]["scale"], 1)
    words = "'weight' is on torch's meta device, expected numbers; load the state dict"
    with pytest.raises(ValueError, match=words):
        from_torch(torch.nn.BatchNorm1d(3, device="meta").state_dict())
