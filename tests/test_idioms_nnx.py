"""What people do with nnx modules, each with Flax's batch norm and with ours."""

import contextlib
import copy
import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.nnx import bridge
from idioms import Table, X, assert_alike, outcome
from jax import export
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jaxbn
import jaxbn.nnx

MOMENTUM = {"momentum": 0.9}
table = Table()


def of_flax(rngs, **options):
    return nnx.BatchNorm(4, rngs=rngs, **MOMENTUM | options)


def batch_norm(rngs, **options):
    return jaxbn.nnx.BatchNorm(4, rngs=rngs, **MOMENTUM | options)


def norm(rngs, use_running_average=False, **options):
    pair = jaxbn.batch_norm(**MOMENTUM | options)
    return jaxbn.nnx.Norm(4, pair, use_running_average=use_running_average, rngs=rngs)


class Net(nnx.Module):
    def __init__(self, make):
        rngs = nnx.Rngs(0)
        self.dense, self.bn = nnx.Linear(4, 4, rngs=rngs), make(rngs)

    def __call__(self, x):
        return self.bn(self.dense(x))


def layer(make, **options):
    return make(nnx.Rngs(0), **options)


def after(module, *results):
    """Returns results, and what the module holds after them."""
    return results, nnx.to_pure_dict(nnx.state(module))


def stacked(make):
    """Returns three layers as one, stacked by vmap."""
    create = nnx.vmap(lambda rngs: make(rngs), in_axes=0, out_axes=0)
    return nnx.split_rngs(splits=3)(create)(nnx.Rngs(0))


def loss(model):
    return (model(X) ** 3).mean()


@table
def tabulate(make):
    text = nnx.tabulate(Net(make), X, console_kwargs={"width": 200})
    # The layer is not spoiled by it either.
    return str("batch_stats" in text.lower() or "BatchStat" in text), layer(make)(X)


@table
def display(make):
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        nnx.display(layer(make))
    return str("mean" in written.getvalue()), str("BatchStat" in repr(layer(make)))


@table
def view(make):
    if not hasattr(nnx, "view"):
        pytest.skip("nnx.view is newer than this flax")
    module = layer(make)
    return after(module, nnx.view(module, use_running_average=True)(X))


@table
def view_of_something_unknown(make):
    if not hasattr(nnx, "view"):
        pytest.skip("nnx.view is newer than this flax")
    return nnx.view(layer(make), nonsense=True)(X)


@table
def eval_and_train(make):
    model = Net(make)
    model.eval()
    evaluated = model(X)
    model.train()
    return after(model, evaluated, model(X))


@table
def set_attributes(make):
    model = Net(make)
    model.set_attributes(use_running_average=True)
    return after(model, model(X))


@table
def split_merge(make):
    module = nnx.merge(*nnx.split(layer(make), nnx.Param, nnx.BatchStat))
    return after(module, module(X))


@table
def clone(make):
    module = layer(make)
    other = nnx.clone(module)
    return after(module, after(other, other(X)))


@table
def update(make):
    module = layer(make)
    nnx.update(module, jax.tree.map(lambda a: a + 1, nnx.state(module, nnx.BatchStat)))
    return after(module)


@table
def filters(make):
    return nnx.to_pure_dict(nnx.state(Net(make), nnx.PathContains("bn")))


@table
def jit(make):
    module = layer(make)
    return after(module, nnx.jit(lambda m, x: m(x))(module, X))


@table
def jit_of_jax(make):
    graph, state = nnx.split(layer(make))

    @jax.jit
    def step(state, x):
        module = nnx.merge(graph, state)
        y = module(x)
        return y, nnx.to_pure_dict(nnx.state(module))

    return step(state, X)


@table
def value_and_grad(make):
    model = Net(make)
    value, slope = nnx.value_and_grad(loss)(model)
    return after(model, value, nnx.to_pure_dict(slope))


@table
def gradient_of_a_part(make):
    only = nnx.DiffState(0, nnx.All(nnx.Param, nnx.PathContains("bn")))
    return nnx.to_pure_dict(nnx.grad(loss, argnums=only)(Net(make)))


@table
def optimizer(make):
    model = Net(make)
    descent = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, descent):
        value, slope = nnx.value_and_grad(loss)(model)
        descent.update(model, slope)
        return value

    return after(model, [step(model, descent) for _ in range(3)])


@table
def cached_partial(make):
    model = Net(make)
    descent = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, descent, x):
        slope = nnx.grad(lambda model: (model(x) ** 3).mean())(model)
        descent.update(model, slope)

    cached = nnx.cached_partial(step, model, descent)
    for _ in range(3):
        cached(X)
    return after(model)


@table
def scan_carry(make):
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def step(module, x):
        return module, module(x)

    module, ys = step(layer(make), jnp.stack([X, X + 1, X * 2]))
    return after(module, ys)


@table
def scan_stacked(make):
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def forward(x, module):
        return module(x)

    modules = stacked(make)
    return after(modules, forward(jnp.asarray(X), modules))


@table
def vmap_state_axes(make):
    axes = nnx.StateAxes({nnx.Param: None, nnx.BatchStat: 0})
    graph, params, stats = nnx.split(layer(make), nnx.Param, nnx.BatchStat)
    stats = jax.tree.map(lambda a: jnp.stack([a] * 3), stats)
    module = nnx.merge(graph, params, stats)
    forward = nnx.vmap(lambda m, x: m(x), in_axes=(axes, 0))
    return after(module, forward(module, jnp.stack([X, X + 1, X * 2])))


@table
def remat(make):
    model = Net(make)
    again = lambda model: (nnx.remat(lambda m, x: m(x))(model, X) ** 3).mean()
    value, slope = nnx.value_and_grad(again)(model)
    return after(model, value, nnx.to_pure_dict(slope))


@table
def cond(make):
    module, call, leave = layer(make), lambda m, x: m(x), lambda m, x: x
    choose = nnx.jit(lambda m, x, p: nnx.cond(p, call, leave, m, x))
    return after(module, choose(module, X, True), choose(module, X, False))


@table
def switch(make):
    module, x = layer(make), jnp.asarray(X)
    return after(module, nnx.switch(1, [lambda m, x: x, lambda m, x: m(x)], module, x))


@table
def loops(make):
    step = lambda i, held: (held[0], held[0](held[1]))
    module, y = nnx.fori_loop(0, 3, step, (layer(make), jnp.asarray(X)))
    more = lambda held: held[2] < 2
    once = lambda held: (held[0], held[0](held[1]), held[2] + 1)
    module, y, _ = nnx.while_loop(more, once, (module, y, jnp.int32(0)))
    return after(module, y)


def over_devices(make, **options):
    mesh, state = Mesh(np.array(jax.devices()[:4]), "d"), nnx.StateSharding({...: P()})
    specs = {"in_specs": (state, P("d")), "out_specs": P("d")}
    forward = nnx.shard_map(lambda m, x: m(x), mesh=mesh, **specs, **options)
    module = layer(make, axis_name="d")
    return after(module, forward(module, jnp.asarray(X)))


@table
def shard_map(make):
    return over_devices(make)


@table
def shard_map_unchecked(make):
    return over_devices(make, check_vma=False)


def on_mesh():
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.set_mesh(jax.make_mesh((4,), ("d",), axis_types=kinds))


@table
def abstract(make):
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: layer(make))))
    return jax.tree.map(lambda a: f"{a.shape} {a.dtype}", shapes)


@table
def created_on_a_mesh(make):
    with on_mesh():
        nnx.eval_shape(lambda: layer(make))
        module = nnx.jit(lambda: layer(make))()
        return after(module, module(X))


@table
def laid_out_by_its_initializer(make):
    start = nnx.with_partitioning(nnx.initializers.ones, ("d",))
    with on_mesh():
        module = nnx.jit(lambda: layer(make, scale_init=start))()
        return str(module.scale[...].sharding.spec), module(X)


@table
def sequential(make):
    model = nnx.Sequential(layer(make), nnx.relu, layer(make))
    return after(model, model(X))


@table
def lists(make):
    model = nnx.List([layer(make), layer(make)])
    return after(model, model[1](model[0](X)))


@table
def dicts(make):
    model = nnx.Dict(first=layer(make))
    return after(model, model["first"](X))


@table
def to_linen(make):
    model = bridge.to_linen(lambda rngs: make(rngs))
    variables = model.init(jax.random.key(0), X)
    return model.apply(variables, X, mutable=["batch_stats"])


@table
def pickled(make):
    module = layer(make)
    module(X)
    module = pickle.loads(pickle.dumps(module))
    return after(module, module(X))


@table
def deep_copy(make):
    module = layer(make)
    other = copy.deepcopy(module)
    return after(module, after(other, other(X)))


@table
def as_a_tree(make):
    return jax.tree.leaves(layer(make))


@table
def exported(make):
    module = layer(make)
    module(X)
    module.eval()
    graph, state = nnx.split(module)
    (batch,) = export.symbolic_shape("batch")
    given = jax.ShapeDtypeStruct((batch, 4), jnp.float32)
    program = export.export(jax.jit(lambda x: nnx.merge(graph, state)(x)))(given)
    return export.deserialize(program.serialize()).call(X)


@table
def one_trace_for_layers_made_alike(make):
    traces = []

    @nnx.jit
    def forward(module, x):
        traces.append(x)
        return module(x)

    for _ in range(2):
        forward(layer(make), X)
    return str(nnx.graphdef(layer(make)) == nnx.graphdef(layer(make))), len(traces)


@table
def without_its_scale(make):
    module = layer(make)
    module.scale = None
    return module(X)


NEED_DEVICES = ("shard_map", "shard_map_unchecked", "created_on_a_mesh")
NEED_DEVICES += ("laid_out_by_its_initializer",)
both = pytest.mark.parametrize("ours", [batch_norm, norm])


@both
@pytest.mark.parametrize("name", table)
def test_as_with_flax(name, ours, request):
    if name in NEED_DEVICES:
        request.getfixturevalue("mesh")
    assert_alike(table[name], of_flax, ours)


def test_initializers_are_not_kept():
    """They could not be pickled, and no two of them are equal."""

    def start(make):
        return layer(make, scale_init=nnx.initializers.constant(2.0))

    def there_and_back(make):
        module = pickle.loads(pickle.dumps(start(make)))
        same = nnx.graphdef(start(make)) == nnx.graphdef(start(make))
        return after(module, module(X), str(same))

    assert_alike(there_and_back, of_flax, batch_norm)


def test_which_ones_flax_refuses(mesh):
    """So that no row of the table compares two errors unnoticed."""
    refused = {name for name in table if outcome(table[name], of_flax)[0]}
    assert refused == {"view_of_something_unknown"}


@both
@pytest.mark.filterwarnings("ignore")
def test_orbax_saves_and_restores(ours, tmp_path):
    module = layer(ours)
    module(X)
    state, fresh = nnx.state(module), nnx.eval_shape(lambda: layer(ours))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        graph, like = nnx.split(fresh)
        restored = nnx.merge(graph, checkpointer.restore(tmp_path / "state", like))
    np.testing.assert_array_equal(restored(X), module(X))


@both
def test_to_nnx(ours):
    import jaxbn.linen

    module = {
        batch_norm: jaxbn.linen.BatchNorm(use_running_average=True),
        norm: jaxbn.linen.Norm(jaxbn.batch_norm(), use_running_average=True),
    }[ours]
    model = bridge.lazy_init(bridge.ToNNX(module, rngs=nnx.Rngs(0)), X)
    np.testing.assert_allclose(model(X), layer(ours, use_running_average=True)(X))


def test_public_methods_return_what_jax_knows():
    """nnx.tabulate traces each of them."""
    for kind in (jaxbn.nnx.BatchNorm, jaxbn.nnx.Norm):
        own = {name for name in vars(kind) if not name.startswith("_")}
        assert own - set(dir(nnx.Module)) <= {"set_view", "norm_pair"}
        assert isinstance(vars(kind)["norm_pair"], property)
