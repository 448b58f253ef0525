"""Precise statistics are those of one large batch, of any model, however it is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbn.linen
import jaxbn.nnx
from jaxbn.population import precise_batch_stats
from jaxbn.tree import find_layers, watch

RNG = np.random.default_rng(0)
DATA = (RNG.normal(2, 3, (150, 5)) * np.linspace(0.5, 2, 5)).astype(np.float32)
KEY = jax.random.key(0)
CUTS = {"by 7": 7, "by 64": 64, "whole": 150}


class Net(nn.Module):
    """As Flax's examples are: its own layer, told by `train` what to do."""

    layer: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train=True, mask=None):
        x = self.layer(use_running_average=not train, name="first")(x, mask=mask)
        x = nn.relu(nn.Dense(6, name="dense")(x))
        again = self.layer(use_running_average=not train, name="twice")
        x = again(x, mask=mask)
        x = again(2 * x + 1, mask=mask)
        return nn.Dropout(0.0, deterministic=not train)(nn.Dense(3)(x))


class Nnx(nnx.Module):
    def __init__(self, layer, rngs):
        self.first = layer(5, rngs=rngs)
        self.dense = nnx.Linear(5, 6, rngs=rngs)
        self.last = layer(6, rngs=rngs)
        self.spare = layer(4, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.dense(self.first(x))))


def pieces(size, data=DATA):
    return [jnp.asarray(data[i : i + size]) for i in range(0, len(data), size)]


def started(model):
    return model.init(KEY, jnp.asarray(DATA[:3]))


def assert_moments(layer, rows, tolerance=1e-6):
    rows = np.asarray(rows, np.float64)
    oracle.assert_close(layer["mean"], rows.mean(0), tolerance)
    oracle.assert_close(layer["var"], rows.var(0), tolerance)


def normalized(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def deeper(variables, batches):
    """What the layers see, batch by batch, each normalized by itself, in float64."""
    params = jax.tree.map(oracle.wide, variables["params"])
    first, second = [], []
    for batch in batches:
        x = normalized(np.asarray(batch, np.float64))
        x = x @ params["dense"]["kernel"] + params["dense"]["bias"]
        x = np.maximum(x, 0)
        first.append(x)
        second.append(2 * normalized(x) + 1)
    return np.concatenate([*first, *second])


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("layer", [nn.BatchNorm, jaxbn.linen.BatchNorm])
def test_a_linen_model_in_batches_of_any_size(layer, cut):
    model, batches = Net(layer), pieces(CUTS[cut])
    variables = started(model)
    held = jax.tree.map(np.array, variables)
    stats, report = precise_batch_stats(model, variables, batches)
    assert_moments(stats["first"], DATA)
    assert_moments(stats["twice"], deeper(variables, batches), 1e-5)
    assert report.num_batches == len(batches) and report.not_reached == ()
    assert report.counted == {"first": 150, "twice": 300}
    jax.tree.map(np.testing.assert_array_equal, variables, held)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("layer", [nnx.BatchNorm, jaxbn.nnx.BatchNorm])
def test_an_nnx_model_in_batches_of_any_size(layer, cut):
    model = Nnx(layer, nnx.Rngs(0))
    held = jax.tree.map(np.array, nnx.state(model))
    stats, report = precise_batch_stats(model, None, pieces(CUTS[cut]))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), held)
    assert report.not_reached == ("spare",)
    nnx.update(model, stats)
    assert_moments({"mean": model.first.mean[...], "var": model.first.var[...]}, DATA)
    np.testing.assert_array_equal(model.spare.var[...], 1)
    y = model.first(jnp.asarray(DATA), use_running_average=True)
    oracle.assert_close(y, normalized(DATA.astype(np.float64)), 1e-5)
    again, _ = precise_batch_stats(model, nnx.state(model), pieces(CUTS[cut]))
    jax.tree.map(np.testing.assert_array_equal, again, stats)


class ResNet(nn.Module):
    """As in Flax's examples: convolutions and its own BatchNorm, images in."""

    @nn.compact
    def __call__(self, x, train=True):
        def conv(x, width, stride=1):
            x = nn.Conv(width, (3, 3), strides=stride, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(conv(x, 8))
        for width, stride in ((8, 1), (16, 2)):
            y = conv(nn.relu(conv(x, width, stride)), width)
            x = nn.relu(y + (x if stride == 1 else conv(x, width, stride)))
        return nn.Dense(10)(x.mean((1, 2)))


class NnxResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.conv = nnx.Conv(8, 8, (3, 3), use_bias=False, rngs=rngs)
        self.bn1, self.bn2 = (nnx.BatchNorm(8, rngs=rngs) for _ in range(2))

    def __call__(self, x):
        x = nnx.relu(self.bn1(self.stem(x)))
        return nnx.relu(x + self.bn2(self.conv(x))).mean((1, 2))


@pytest.mark.parametrize("size", [7, 24])
@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_resnets_of_flax_measure_what_enters_each_layer(kind, size):
    """In float64, on the inputs that the layers have with batches of this size."""
    images = RNG.normal(100, 2, (24, 8, 8, 3)).astype(np.float32)
    model = ResNet() if kind == "linen" else NnxResNet(nnx.Rngs(0))
    variables = model.init(KEY, images) if kind == "linen" else None
    seen = {}

    def note(call):
        seen.setdefault(call.path, []).append(np.asarray(call.x, np.float64))
        return call.proceed(use_running_average=False), {}

    for batch in pieces(size, images):
        watch(model, note)(variables, batch)
    stats, report = precise_batch_stats(model, variables, pieces(size, images))
    layers = find_layers(stats)
    assert set(layers) == set(seen) and len(seen) == (6 if kind == "linen" else 2)
    for path, inputs in seen.items():
        rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in inputs])
        assert_moments(layers[path], rows, 2e-5)
        assert report.counted[path] == len(rows)


def test_sequential_does_not_depend_on_how_the_data_is_cut():
    """But for layers used twice, which see their own output."""
    model = Nnx(nnx.BatchNorm, nnx.Rngs(0))
    kernel, bias = (oracle.wide(v[...]) for v in (model.dense.kernel, model.dense.bias))
    for size in CUTS.values():
        stats, report = precise_batch_stats(model, None, pieces(size), sequential=True)
        assert report.num_batches == len(pieces(size))
        assert report.not_reached == ("spare",)
        assert_moments(stats["first"], DATA)
        rows = np.maximum(normalized(DATA.astype(np.float64)) @ kernel + bias, 0)
        assert_moments(stats["last"], rows, 1e-5)
    noisy, _ = precise_batch_stats(model, None, pieces(7))
    assert np.abs(noisy["last"]["var"] - stats["last"]["var"]).max() > 1e-3
    linen = Net()
    found, _ = precise_batch_stats(linen, started(linen), pieces(7), sequential=True)
    assert_moments(found["first"], DATA)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_masks_and_offsets(offset):
    model = Net()
    variables = started(model)
    keep = RNG.random(150) < 0.6
    data = np.where(keep[:, None], DATA + np.float32(offset), np.nan)
    batches = [(x, m) for x, m in zip(pieces(20, data), pieces(20, keep), strict=True)]
    batches.append((jnp.full((20, 5), jnp.nan), jnp.zeros(20, bool)))

    def call(batch):
        x, mask = batch
        return (x, True), {"mask": mask[:, None], "rngs": {"dropout": KEY}}

    stats, report = precise_batch_stats(model, variables, batches, call=call)
    rows = data[keep].astype(np.float64)
    oracle.assert_close(stats["first"]["mean"], rows.mean(0), 1e-6)
    oracle.assert_close(stats["first"]["var"], rows.var(0), 2e-6)
    assert report.counted["first"] == keep.sum()


def test_the_average_of_batch_variances():
    model, batches = Net(), pieces(40)
    stats, _ = precise_batch_stats(
        model, started(model), batches, definition="averaged"
    )
    parts = [np.asarray(b, np.float64) for b in batches]
    mean = np.mean([p.mean(0) for p in parts], 0)
    var = np.mean([p.var(0, ddof=1) for p in parts], 0)
    oracle.assert_close(stats["first"]["mean"], mean, 1e-6)
    oracle.assert_close(stats["first"]["var"], var, 1e-6)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        norm = jaxbn.linen.BatchNorm(use_running_average=False, momentum=None)
        return nn.Dense(5)(norm(nn.LayerNorm()(x))), None


class Stacked(nn.Module):
    """Blocks under scan, whose variables are stacked; other layers have no batch."""

    @nn.compact
    def __call__(self, x):
        many = nn.scan(
            Block,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=3,
        )
        x = nn.GroupNorm(1)(many()(x, None)[0])
        return jaxbn.linen.Norm(jaxbn.group_norm(1), use_running_average=False)(x)


def test_stacked_layers_and_other_entries():
    model = Stacked()
    variables = started(model)
    stats, _ = precise_batch_stats(model, variables, pieces(150))
    _, new = model.apply(variables, jnp.asarray(DATA), mutable=["batch_stats"])
    (found,), (expected,) = (
        jax.tree.leaves(t, is_leaf=lambda d: "mean" in d)
        for t in (stats, new["batch_stats"])
    )
    for key in ("mean", "var"):  # The cumulative average of one batch is that batch.
        assert found[key].shape == (3, 5)
        oracle.assert_close(found[key], expected[key], 1e-5)
    np.testing.assert_array_equal(found["count"], 0)


def test_batches_that_lie_over_a_mesh(mesh):
    model = Net()
    variables = started(model)
    whole, _ = precise_batch_stats(model, variables, pieces(40, DATA[:120]))
    laid = NamedSharding(mesh, P("devices"))
    batches = [jax.device_put(x, laid) for x in pieces(40, DATA[:120])]
    found, _ = precise_batch_stats(model, variables, batches)
    jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-5), found, whole)


def test_an_error_in_the_middle_leaves_everything_as_it_was():
    model = Nnx(nnx.BatchNorm, nnx.Rngs(0))
    held = jax.tree.map(np.array, nnx.state(model))

    def batches():
        yield jnp.asarray(DATA[:9])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        precise_batch_stats(model, None, batches())
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), held)
    assert type(model.first) is nnx.BatchNorm


def test_refusals():
    model = Net()
    variables = started(model)
    with pytest.raises(ValueError, match="batches is empty, expected at least one; p"):
        precise_batch_stats(model, variables, [])
    with pytest.raises(ValueError, match="batches is empty, expected at least one; p"):
        precise_batch_stats(model, variables, [], sequential=True)
    with pytest.raises(ValueError, match=r"is a list_iterator .*; pass a list"):
        precise_batch_stats(model, variables, iter([DATA]), sequential=True)
    with pytest.raises(ValueError, match="definition is 'mean', expected 'pooled' or"):
        precise_batch_stats(model, variables, [DATA], definition="mean")


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("of", ["given", "split"])
def test_each_domain_has_its_own(of, train):
    """A domain norm's rows are each of their examples; a split norm's by place.

    In whatever mode the model is called: if all is in evaluation, all is measured.
    """
    inner = jaxbn.batch_norm()
    norm = jaxbn.domain_norm(2, inner) if of == "given" else jaxbn.split_norm(inner)
    layer = jaxbn.linen.Norm(norm)
    x = jax.random.normal(jax.random.key(0), (12, 3)) + 1e3
    domain = jnp.arange(8) % 2 if of == "given" else jnp.arange(8) // 4
    sizes = [(x[:8], domain), (x[8:], domain[2:6])]
    if of == "split":
        variables = layer.init(jax.random.key(1), x, use_running_average=True)
    else:
        kwargs = {"use_running_average": True, "domain": jnp.zeros((), int)}
        variables = layer.init(jax.random.key(1), x, **kwargs)

    def call(batch):
        x, domain = batch
        given = {"domain": domain} if of == "given" else {}
        return (x,), {"use_running_average": not train, **given}

    stats, _ = precise_batch_stats(layer, variables, sizes, call=call)
    rows = np.asarray(x, np.float64)
    where = np.concatenate([np.asarray(domain), np.asarray(domain[2:6])])
    for i in range(2):
        oracle.assert_close(stats["mean"][i], rows[where == i].mean(0), 1e-6)
        oracle.assert_close(stats["var"][i], rows[where == i].var(0), 1e-4)


def test_rows_that_no_one_explains_are_refused():
    pair = jaxbn.domain_norm(2, jaxbn.batch_norm())._replace(parts=None)
    layer = jaxbn.linen.Norm(pair)
    x, domain = jnp.ones((4, 3)), jnp.zeros((), int)
    variables = layer.init(KEY, x, use_running_average=True, domain=domain)
    with pytest.raises(
        ValueError, match=r"shape \(2, 3\) for data with \(3,\), .*parts="
    ):
        precise_batch_stats(
            layer,
            variables,
            [x],
            call=lambda x: ((x,), {"use_running_average": False, "domain": domain}),
        )


def test_frozen_layers_are_left_alone():
    """Those in evaluation while others train, and norms that nothing moves."""

    class Net(nn.Module):
        frozen: nn.Module

        @nn.compact
        def __call__(self, x, train=True):
            x = nn.Dense(5, name="dense")(self.frozen(x))
            return nn.BatchNorm(use_running_average=not train, name="live")(x)

    for frozen in (
        nn.BatchNorm(use_running_average=True),
        jaxbn.linen.Norm(jaxbn.frozen_norm(), use_running_average=False),
    ):
        model = Net(frozen)
        variables = model.init(KEY, DATA)
        stats, report = precise_batch_stats(model, variables, [DATA])
        for name, value in variables["batch_stats"]["frozen"].items():
            np.testing.assert_array_equal(stats["frozen"][name], value)
        assert report.not_reached == ("frozen",)
        expected = model.apply(variables, DATA, mutable=["batch_stats"])[1]
        live = expected["batch_stats"]["live"]["mean"] * 100
        np.testing.assert_allclose(stats["live"]["mean"], live, rtol=1e-3, atol=1e-3)
    everything = nn.BatchNorm(use_running_average=True)
    variables = everything.init(KEY, DATA)
    _, report = precise_batch_stats(everything, variables, [DATA])
    assert report.not_reached == ()


def test_layers_that_only_some_batches_reach():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, which):
            for name in ("a", "b"):
                if name == which or self.is_initializing():
                    x = nn.BatchNorm(use_running_average=False, name=name)(x)
            return x

    model = Net()
    variables = model.init(KEY, DATA, "a")
    parts = [(DATA[:50], "a"), (DATA[50:], "b")]
    stats, report = precise_batch_stats(model, variables, parts)
    assert report.not_reached == () and report.counted == {"a": 50, "b": 100}
    for name, rows in (("a", DATA[:50]), ("b", DATA[50:])):
        oracle.assert_close(stats[name]["mean"], rows.astype(np.float64).mean(0), 1e-5)


def test_each_batch_of_an_nnx_model_has_noise_of_its_own():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.drop(x))

    model = Net(nnx.Rngs(0))
    stats, _ = precise_batch_stats(model, None, [jnp.ones((8, 4))] * 50)
    np.testing.assert_allclose(stats["norm"]["mean"][...], 1, atol=0.2)


@pytest.mark.parametrize("layer", [nn.BatchNorm, jaxbn.linen.BatchNorm])
def test_a_model_of_many_devices_is_measured_on_one(layer):
    model = layer(use_running_average=False, axis_name="devices")
    variables = layer(use_running_average=True).init(KEY, DATA)
    stats, _ = precise_batch_stats(model, variables, [DATA[:40], DATA[40:]])
    oracle.assert_close(stats["mean"], DATA.astype(np.float64).mean(0), 1e-5)


def test_models_without_statistics_are_refused():
    model = nn.BatchNorm(use_running_average=False)
    variables = {"params": model.init(KEY, DATA)["params"]}
    with pytest.raises(
        ValueError, match=r"no layer with 'mean' and 'var' .*; pass its"
    ):
        precise_batch_stats(model, variables, [DATA])
