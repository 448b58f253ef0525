"""Symbolic shapes: every row of the catalog exports with dimensions known by name.

Training with its gradient and new state, and evaluation, with all dimensions but the
features symbolic, for two platforms at once, saved, loaded and called at two sizes.
"""

import math

import catalog
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import export

import jaxbn.linen
import jaxbn.nnx
from jaxbn import batch_norm, domain_norm, ghost_norm

BATCH = {"ghosts of 2": "2*b", "3 ghosts": "3*b", "split": "2*b"}
"""Rows that cut the batch, with the divisibility that they need."""


def exported(function, *like):
    return export.export(jax.jit(function), platforms=("cpu", "cuda"))(*like)


def symbolic(dims):
    return jax.ShapeDtypeStruct(export.symbolic_shape(",".join(dims)), jnp.float32)


def sample(dims, sizes):
    factors = (dim.split("*") for dim in dims)
    shape = [math.prod(int(sizes.get(f, f)) for f in each) for each in factors]
    return jax.random.normal(jax.random.key(0), shape) + 1e4


def agrees(function, dims):
    program = export.deserialize(exported(function, symbolic(dims)).serialize())
    for sizes in ({"b": 4, "h": 5}, {"b": 1, "h": 2}):
        x = sample(dims, sizes)
        pairs = zip(
            jax.tree.leaves(program.call(x)),
            jax.tree.leaves(jax.jit(function)(x)),
            strict=True,
        )
        for found, expected in pairs:
            # What cancels is off by the roundings of what it is made of: a unit or two
            # of the largest, here of gradients of size 1e11.
            size = np.max(np.abs(expected), initial=0.0)
            atol = max(1e-4, 2.0**-22 * size)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)


def step(norm, features, train, **options):
    params, state = norm.init(features)

    def loss(x, params):
        y, new = norm.apply(params, state, x, train, **options)
        return jnp.sum(y**3), new

    graded = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return lambda x: graded(x, params)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("row", catalog.ROWS, ids=lambda row: row.name)
def test_every_row_exports(row, train):
    norm = row.make()
    axes = norm.axis if isinstance(norm.axis, tuple) else (norm.axis,)
    rank = len(axes) + 2
    features = sorted(a % rank for a in axes)
    names = iter([BATCH.get(row.name, "b"), "h"])
    dims = ["8" if a in features else next(names) for a in range(rank)]
    size = 8 if len(features) == 1 else (8,) * len(features)
    agrees(step(norm, size, train), dims)


@pytest.mark.parametrize("real", [False, True])
def test_masks_export(real):
    norm = batch_norm(axis=1)

    def masked(x):
        weights = jnp.arange(x.shape[0]) < 2
        weights = weights.astype(jnp.float32) if real else weights
        return step(norm, 8, True, mask=weights[:, None])(x)

    agrees(masked, ["b", "8", "h"])


def test_domains_of_each_example_export():
    def by_domain(x):
        return step(domain_norm(2, batch_norm()), 8, True, domain=index(x))(x)

    def index(x):
        return jnp.arange(x.shape[0]) % 2

    agrees(by_domain, ["b", "h", "8"])


@pytest.mark.parametrize("norm", [ghost_norm(size=3), ghost_norm(num_groups=3)])
def test_what_may_not_divide_is_refused_in_words(norm):
    with pytest.raises(ValueError, match=r"symbolic number, expected.*such as '3\*k'"):
        exported(step(norm, 8, True), symbolic(["b", "8"]))


def test_a_size_that_may_not_divide_is_refused_in_words():
    norm = batch_norm(normalization_batch_size=4)
    with pytest.raises(ValueError, match=r"symbolic number, expected.*such as '4\*k'"):
        exported(step(norm, 8, True), symbolic(["b", "8"]))
    agrees(step(norm, 8, True), ["4*b", "h", "8"])


def ghosts():
    return ghost_norm(num_groups=2)


@pytest.mark.parametrize("train", [True, False])
def test_flax_modules_export(train):
    for layer in (jaxbn.linen.BatchNorm(), jaxbn.linen.Norm(ghosts())):
        layer = layer.clone(use_running_average=not train)
        model = nn.Sequential([nn.Dense(8), layer])
        variables = model.init(jax.random.key(0), jnp.ones((4, 8)))
        apply = lambda x, m=model, v=variables: m.apply(v, x, mutable=["batch_stats"])
        agrees(apply, ["2*b", "h", "8"])
    for layer in (
        jaxbn.nnx.BatchNorm(8, rngs=nnx.Rngs(0)),
        jaxbn.nnx.Norm(8, ghosts(), rngs=nnx.Rngs(0)),
    ):
        layer.train() if train else layer.eval()
        graph, state = nnx.split(layer)

        def call(x, graph=graph, state=state):
            layer = nnx.merge(graph, jax.tree.map(jnp.asarray, state))
            return layer(x), nnx.to_pure_dict(nnx.state(layer))

        agrees(call, ["2*b", "h", "8"])
