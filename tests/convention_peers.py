"""Batch norms of other systems and of jaxbn, all driven alike; see test_conventions.

Each is made with its defaults, where it has any, and gives the *trace* of an evaluation
before training, three steps of 4, 6 and 4 elements a channel, and an evaluation.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx

import jaxbn.nnx
from jaxbn.population import precise_batch_stats

ZEROS, ONES = np.zeros(3, np.float32), np.ones(3, np.float32)
PARAMS = {"scale": ONES, "bias": ZEROS}


def draw(seed, size, axis=-1):
    """Returns `size` examples of two places; a variance of 4e-4 shows the epsilon."""
    rng = np.random.default_rng(seed)
    x = rng.normal([0.01, -1.0, 2.0], [0.02, 1.0, 3.0], (size, 1, 2, 3))
    return np.moveaxis(x, -1, axis).astype(np.float32).copy()


def trace(step, stats, axis=-1):
    """Returns all that a layer gives; `step(x, train)` is y, `stats()` mean and var."""
    x = draw(0, 2, axis)
    found = {"fresh": step(x, False)}
    for seed, size in ((1, 2), (2, 3), (3, 2)):
        found[f"y{seed}"] = step(draw(seed, size, axis), True)
    found["y"] = step(x, False)
    found["mean"], found["var"] = stats()
    return {key: np.asarray(value) for key, value in found.items()}


def trace_pure(apply, state, stats, axis=-1):
    """Returns the trace of `apply(state, x, train) -> (y, state)`."""
    held = [state]

    def step(x, train):
        y, held[0] = apply(held[0], x, train)
        return y

    return trace(step, lambda: stats(held[0]), axis)


# jaxbn, in the ways the rows need.


def pair(state):
    return state["mean"], state["var"]


def of_function(apply, state, axis=-1, **options):
    run = lambda state, x, train: apply(PARAMS, state, x, train, axis=axis, **options)
    return trace_pure(run, state, pair, axis)


def of_oracle(_):
    return of_function(oracle.bn_apply, {"mean": ZEROS, "var": ONES})


def of_jaxbn(mean=ZEROS, var=ONES, **options):
    state = jax.tree.map(jnp.asarray, {"mean": mean, "var": var, "count": ZEROS})
    return of_function(jaxbn.bn_apply, state, **options)


def as_precise(axis=1, momentum=None, **options):
    """Returns the trace of a layer with what `precise_batch_stats` measures."""
    layer, xs = jaxbn.nnx.BatchNorm(3, axis=axis, rngs=nnx.Rngs(0)), []

    def step(x, train):
        if train:
            xs.append(x)
        elif xs:
            nnx.update(layer, precise_batch_stats(layer, None, xs, **options)[0])
        return layer(jnp.asarray(x), use_running_average=not train)

    return trace(step, lambda: (layer.mean[...], layer.var[...]), axis)


def as_ema(mean, var, **options):
    """Returns the trace where the first batch replaces the state, and y is by it."""

    def run(state, x, train):
        if train:
            momentum = options if np.any(state["var"]) else {"momentum": 0.0}
            state = jaxbn.bn_apply(PARAMS, state, x, True, **options | momentum)[1]
        return jaxbn.bn_apply(PARAMS, state, x, False, **options)

    return trace_pure(run, {"mean": mean, "var": var}, pair, options["axis"])


def as_batch(mean, var, **options):
    """Returns our trace with what Equinox leaves in the variance after three steps."""
    ours = of_jaxbn(mean, var, **options)
    wrong = ours["var"] + 0.99**3 / (1 - 0.99**3)  # 32.67 where the state's 1 was
    scale = np.sqrt((ours["var"] + 1e-5) / (wrong + 1e-5))
    return ours | {"var": wrong, "y": ours["y"] * scale.reshape(3, 1, 1)}


# The peers: each takes the class or function of its row.


def of_linen(norm):
    layer = norm()
    state = layer.init(jax.random.key(0), ONES[None], use_running_average=True)
    params = state.pop("params")

    def run(state, x, train):
        options = {"use_running_average": not train, "mutable": ["batch_stats"]}
        return layer.apply({"params": params, **state}, x, **options)

    return trace_pure(run, state, lambda state: pair(state["batch_stats"]))


def of_nnx(norm):
    layer = norm(3, rngs=nnx.Rngs(0))
    step = lambda x, train: layer(jnp.asarray(x), use_running_average=not train)
    return trace(step, lambda: (layer.mean[...], layer.var[...]))


def of_keras(norm):
    layer = norm()
    step = lambda x, train: layer(x, training=train)
    with jax.numpy_rank_promotion("allow"):
        return trace(step, lambda: (layer.moving_mean, layer.moving_variance))


def of_torch(norm):
    torch, layer = importlib.import_module("torch"), norm(3)

    def step(x, train):
        return layer.train(train)(torch.from_numpy(x)).detach().numpy()

    return trace(step, lambda: (layer.running_mean, layer.running_var), axis=1)


def of_timm(norm):
    return of_torch(functools.partial(norm, apply_act=False))


def of_pass(update):
    """Returns the trace of a layer whose statistics a pass over the batches replaces.

    What it learned before is forgotten, and its momentum comes back.
    """
    torch, xs, ys = importlib.import_module("torch"), [], []
    layer = torch.nn.BatchNorm2d(3, momentum=0.25)

    def step(x, train):
        if train:
            xs.append(torch.from_numpy(x))
        elif xs:
            layer.register_forward_hook(lambda module, x, y: ys.append(y))
            update(xs, layer.train())
            assert layer.momentum == 0.25 and len(ys) == len(xs)
        return layer.train(train)(torch.from_numpy(x)).detach().numpy()

    return trace(step, lambda: (layer.running_mean, layer.running_var), axis=1)


def of_fvcore(update):
    return of_pass(lambda xs, layer: update(layer, xs, num_iters=len(xs)))


def of_mlx(norm):
    mx, layer = importlib.import_module("mlx.core"), norm(3)
    mx.set_default_device(mx.cpu)
    step = lambda x, train: np.array(layer.train(train)(mx.array(x)))
    return trace(step, lambda: map(np.array, (layer.running_mean, layer.running_var)))


def onnx_model(onnx, train):
    """Returns a model that is one BatchNormalization, its attributes left out."""
    inputs = ["X", "scale", "B", "input_mean", "input_var"]
    outputs = ["Y", "running_mean", "running_var"][: 3 if train else 1]
    make = onnx.helper
    node = make.make_node("BatchNormalization", inputs, outputs, training_mode=train)

    def typed(name):
        shape = [None] * 4 if name in ("X", "Y") else [3]
        return make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    graph = make.make_graph([node], "g", [*map(typed, inputs)], [*map(typed, outputs)])
    opset = make.make_opsetid("", 15)
    return make.make_model(graph, opset_imports=[opset], ir_version=8)


def of_onnx(start):
    """Returns the trace of what `start(model)` makes runnable."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes models")
    models = [start(onnx_model(onnx, train)) for train in (0, 1)]

    def run(state, x, train):
        inputs = {"X": x, "scale": ONES, "B": ZEROS, **state}
        y, *new = models[train].run(None, inputs)
        return y, dict(zip(state, new, strict=True)) if train else state

    state = {"input_mean": ZEROS, "input_var": ONES}
    return trace_pure(run, state, lambda state: state.values(), axis=1)


def of_onnx_runtime(session):
    on = {"providers": ["CPUExecutionProvider"]}
    return of_onnx(lambda model: session(model.SerializeToString(), **on))


def of_tensorflow(op, **options):
    def run(state, x, train):
        given = state if options or not train else [None, None]
        y, *new = op(x, ONES, ZEROS, *given, is_training=train, **options)
        return y, new

    return trace_pure(run, [ZEROS, ONES], list)


def of_haiku(norm):
    """`init` sees the examples that are evaluated at the beginning and the end."""
    layer = lambda x, train: norm(True, True, 0.9, name="bn")(x, train)
    model = importlib.import_module("haiku").transform_with_state(layer)
    params, state = model.init(jax.random.key(0), draw(0, 2), True)
    run = lambda state, x, train: model.apply(params, state, None, x, train)
    names = "bn/~/mean_ema", "bn/~/var_ema"
    stats = lambda state: [state[name]["average"].reshape(3) for name in names]
    return trace_pure(run, state, stats)


def of_equinox(norm, mode):
    eqx = importlib.import_module("equinox")
    layer, state = eqx.nn.make_with_state(norm)(3, "batch", mode=mode)
    axes = {"in_axes": (0, None, None), "out_axes": (0, None), "axis_name": "batch"}
    one = lambda x, state, still: layer(x, state, inference=still)
    every = eqx.filter_jit(eqx.filter_vmap(one, **axes))
    run = lambda state, x, train: every(jnp.asarray(x), state, not train)
    index = layer.ema_state_index if mode == "ema" else layer.batch_state_index
    return trace_pure(run, state, lambda state: state.get(index), axis=1)


def of_batch(norm):
    """Returns its trace with the statistics that it evaluates with after three."""
    found = of_equinox(norm, "batch")
    return found | {key: found[key] / (1 - 0.99**3) for key in ("mean", "var")}
