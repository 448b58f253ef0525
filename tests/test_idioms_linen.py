"""What people do with linen modules, each with Flax's batch norm and with ours."""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.training.train_state import TrainState
from idioms import Table, X, assert_alike, outcome

import jaxbn
import jaxbn.linen

KEY = jax.random.key(0)
TRAINING = {"use_running_average": False}
table = Table()


def of_flax(use_running_average=False, name=None, **options):
    return nn.BatchNorm(use_running_average, momentum=0.9, name=name, **options)


def batch_norm(use_running_average=False, name=None, **options):
    layer = jaxbn.linen.BatchNorm
    return layer(use_running_average, momentum=0.9, name=name, **options)


def norm(use_running_average=False, name=None, **options):
    pair = jaxbn.batch_norm(momentum=0.9, **options)
    return jaxbn.linen.Norm(pair, use_running_average, name=name)


class Net(nn.Module):
    make: Any

    @nn.compact
    def __call__(self, x, _=None):
        return self.make(name="bn")(nn.Dense(4)(x))


class Step(nn.Module):
    """A body of a scan."""

    make: Any

    @nn.compact
    def __call__(self, x, _):
        return self.make(name="bn")(x), None


class Lifted(nn.Module):
    """Calls a layer through `transform(layer, x)`, but not while it is initialized."""

    make: Any
    transform: Any

    @nn.compact
    def __call__(self, x):
        layer = self.make(name="bn")
        return layer(x) if self.is_initializing() else self.transform(layer, x)


def trained(model, *args):
    """Returns variables, output and statistics of one step of training."""
    variables = model.init(KEY, X, *args)
    return variables, model.apply(variables, X, *args, mutable=["batch_stats"])


def slope_of(model, collection="params"):
    variables = model.init(KEY, X)

    def loss(part):
        given = {**variables, collection: part}
        return (model.apply(given, X, mutable=["batch_stats"])[0] ** 3).mean()

    return jax.value_and_grad(loss)(variables[collection])


@table
def tabulate(make):
    text = Net(make).tabulate(KEY, X, compute_flops=True, compute_vjp_flops=True)
    return str(len(text.splitlines())), str("norm_pair" in text)


@table
def tabulate_deep(make):
    text = nn.tabulate(Net(make), KEY, depth=2, show_repeated=True)(X)
    return str(len(text.splitlines()))


@table
def scan(make):
    axes = {"params": 0, "batch_stats": 0}
    split = {"params": True}
    model = nn.scan(Step, variable_axes=axes, split_rngs=split, length=3)(make)
    return trained(model, None)


@table
def scan_carrying_statistics(make):
    one = {"variable_broadcast": "params", "variable_carry": "batch_stats"}
    model = nn.scan(Step, split_rngs={"params": False}, length=3, **one)(make)
    variables = make().init(KEY, X)
    nested = {kind: {"bn": held} for kind, held in variables.items()}
    return model.apply(nested, X, None, mutable=["batch_stats"])


@table
def vmap(make):
    axes = {"params": 0, "batch_stats": 0}
    split = {"params": True}
    several = nn.vmap(
        Net, in_axes=None, variable_axes=axes, split_rngs=split, axis_size=3
    )
    return trained(several(make))


@table
def remat(make):
    return slope_of(nn.remat(Net)(make))


@table
def jit(make):
    return trained(nn.jit(Net)(make))


@table
def while_loop(make):
    def several(layer, x):
        more, once = lambda m, held: held[1] < 3, lambda m, c: (m(c[0]), c[1] + 1)
        carried = {"carry_variables": "batch_stats"}
        return nn.while_loop(more, once, layer, (x, 0), **carried)[0]

    return trained(Lifted(make, several))


@table
def cond(make):
    call, leave = lambda layer, x: layer(x), lambda layer, x: x
    choose = lambda p: lambda layer, x: nn.cond(p, call, leave, layer, x)
    return trained(Lifted(make, choose(True))), trained(Lifted(make, choose(False)))


@table
def switch(make):
    branches = [lambda layer, x: x, lambda layer, x: layer(x)]
    return trained(Lifted(make, lambda layer, x: nn.switch(1, branches, layer, x)))


@table
def jvp(make):
    call = lambda layer, x: layer(x)
    push = lambda layer, x: nn.jvp(call, layer, (x,), (x,), {})[1]
    return trained(Lifted(make, push))


@table
def vjp(make):
    call = lambda layer, x: layer(x)
    return trained(Lifted(make, lambda layer, x: nn.vjp(call, layer, x)[0]))


@table
def map_variables(make):
    double = {"trans_in_fn": lambda held: jax.tree.map(lambda a: a * 2, held)}
    model = nn.map_variables(Net, "params", **double)(make)
    variables = Net(make).init(KEY, X)
    return model.apply(variables, X, mutable=["batch_stats"])


@table
def intercept(make):
    seen, model = [], Net(make)
    variables = model.init(KEY, X)

    def note(call, args, kwargs, context):
        seen.append(context.method_name)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        result = model.apply(variables, X, mutable=["batch_stats"])
    return " ".join(seen), result


class Perturbed(nn.Module):
    make: Any

    @nn.compact
    def __call__(self, x):
        return self.perturb("after", self.make(name="bn")(self.perturb("before", x)))


@table
def perturb(make):
    return slope_of(Perturbed(make), "perturbations")


@table
def bind(make):
    model = make()
    bound = model.bind(model.init(KEY, X), mutable=["batch_stats"])
    return bound(X), bound.variables


class Shared(nn.Module):
    make: Any

    def setup(self):
        self.inner = self.make()
        nn.share_scope(self, self.inner)

    def __call__(self, x):
        return self.inner(x)


@table
def share_scope(make):
    return trained(Shared(make))


class SetUp(nn.Module):
    make: Any

    def setup(self):
        self.first, self.others = self.make(), [self.make(), self.make()]

    def __call__(self, x):
        return self.others[1](self.others[0](self.first(x)))


@table
def setup(make):
    return trained(SetUp(make))


@table
def partial_of_a_partial(make):
    inner = functools.partial(make, use_running_average=True)
    return trained(Net(functools.partial(inner, use_running_average=False)))


@table
def sequential(make):
    return trained(nn.Sequential([nn.Dense(4), make(), nn.relu, make()]))


@table
def with_partitioning(make):
    start = nn.with_partitioning(nn.initializers.ones, ("d",))
    variables, result = trained(make(scale_init=start))
    return str(nn.get_partition_spec(variables)), variables, result


@table
def with_logical_partitioning(make):
    start = nn.with_logical_partitioning(nn.initializers.zeros, ("features",))
    shapes = jax.eval_shape(make(bias_init=start).init, KEY, X)
    return str(nn.get_partition_spec(shapes))


@table
def frozen_dict(make):
    model = Net(make)
    variables = flax.core.freeze(model.init(KEY, X))
    return model.apply(variables, X, mutable=["batch_stats"])


@table
def everything_mutable(make):
    model = Net(make)
    return model.apply(model.init(KEY, X), X, mutable=True)


@table
def statistics_not_mutable(make):
    model = Net(make)
    return model.apply(model.init(KEY, X), X)


@table
def called_unbound(make):
    return make()(X)


@table
def capture_intermediates(make):
    model = Net(make)
    kinds = ["batch_stats", "intermediates"]
    variables = model.init(KEY, X)
    return model.apply(variables, X, capture_intermediates=True, mutable=kinds)


@table
def jitted_init(make):
    return jax.jit(Net(make).init)(KEY, X)


@table
def lazy_init(make):
    return Net(make).lazy_init(KEY, jax.ShapeDtypeStruct(X.shape, X.dtype))


@table
def abstract(make):
    return jax.tree.map(str, jax.eval_shape(Net(make).init, KEY, X))


@table
def serialized(make):
    variables = Net(make).init(KEY, X)
    data = flax.serialization.to_bytes(variables)
    return flax.serialization.from_bytes(variables, data)


class State(TrainState):
    batch_stats: Any


@table
def train_state(make):
    model = Net(make)
    variables = model.init(KEY, X)
    state = State.create(apply_fn=model.apply, tx=optax.sgd(0.1), **variables)

    def loss(params):
        given = {"params": params, "batch_stats": state.batch_stats}
        y, new = state.apply_fn(given, X, mutable=["batch_stats"])
        return ((y - 1) ** 2).mean(), new

    slope, new = jax.grad(loss, has_aux=True)(state.params)
    state = state.apply_gradients(grads=slope, **new)
    return state.params, state.batch_stats


@table
def clone(make):
    return trained(make(use_running_average=True).clone(use_running_average=False))


@pytest.mark.parametrize("ours", [batch_norm, norm])
@pytest.mark.parametrize("name", table)
def test_as_with_flax(name, ours):
    assert_alike(table[name], of_flax, ours)


def test_which_ones_flax_refuses():
    """So that no row of the table compares two errors unnoticed."""
    refused = {name for name in table if outcome(table[name], of_flax)[0]}
    assert refused == {"statistics_not_mutable", "called_unbound"}


def test_boxes_are_kept_in_training_and_in_a_state(tmp_path):
    start = nn.with_partitioning(nn.initializers.ones, ("d",))
    variables, (y, _) = trained(batch_norm(scale_init=start))
    assert isinstance(variables["params"]["scale"], nn.Partitioned)
    np.testing.assert_allclose(jnp.mean(y, 0), 0, atol=1e-6)
