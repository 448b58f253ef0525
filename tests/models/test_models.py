"""Models: known sizes, the same weights with and without a norm, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn import batch_norm
from jaxbn.models import create_model, model_names

SHAPES = {"resnet50": (2, 224, 224, 3), "narrow": (2, 1), "mlp": (2, 28, 28, 1)}
SHAPES |= {"convnet": (2, 28, 28, 1), "resnet8": (2, 32, 32, 3)}
SHAPES |= {"resnet20": (2, 32, 32, 3)}


def shapes(name, norm, outputs=10):
    model = create_model(name, outputs, norm)
    x = jnp.zeros(SHAPES[name])
    return jax.eval_shape(lambda: model.init(jax.random.key(0), x, False))


def small(name, norm):
    """A model of the kind that compiles quickly."""
    options = {"stages": (1, 1), "width": 4} if name == "resnet8" else {}
    return create_model(name, 10, norm, **options)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "outputs", "params"),
    [
        ("mlp", 10, 784 * 64 + 64 * 128 + 128 * 10 + 10 + 2 * (64 + 128)),
        ("narrow", 1, 60 + 6 * 930 + 31 + 2 * (1 + 7 * 30)),
        ("resnet20", 10, 272_474),  # 269,722 with shortcuts free of parameters
        ("resnet50", 1000, 25_557_032),  # as in torchvision and Flax's example
    ],
)
def test_number_of_parameters(name, outputs, params):
    assert size(shapes(name, batch_norm(), outputs)["params"]) == params


@pytest.mark.parametrize("name", ["mlp", "narrow", "convnet", "resnet8"])
def test_the_same_key_gives_the_same_weights_with_and_without_norm(name):
    x = jnp.zeros(SHAPES[name])
    kernels = []
    for norm in (batch_norm(), None):
        model = small(name, norm)
        variables = jax.jit(model.init, static_argnums=2)(jax.random.key(1), x, False)
        flat = jax.tree_util.tree_leaves_with_path(variables["params"])
        kernels.append({str(p): v for p, v in flat if p[-1].key == "kernel"})
    assert kernels[0].keys() == kernels[1].keys()
    for path, kernel in kernels[0].items():
        np.testing.assert_array_equal(kernel, kernels[1][path])


@pytest.mark.parametrize("name", ["mlp", "narrow", "convnet", "resnet8"])
def test_masked_examples_have_no_say(name):
    model = small(name, batch_norm(momentum=0.0))
    x = jax.random.normal(jax.random.key(0), (6, *SHAPES[name][1:]))
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(1), x, False)
    apply = jax.jit(
        lambda x, mask=None: model.apply(
            variables, x, True, mask, mutable=["batch_stats"]
        )
    )
    mask = jnp.array([True] * 4 + [False] * 2)
    padded = x.at[4:].set(jnp.nan)
    out, stats = apply(padded, mask)
    alone, expected = apply(x[:4])
    np.testing.assert_allclose(out[:4], alone, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_residual_block_starts_as_its_shortcut():
    model = small("resnet8", batch_norm())
    x = jnp.zeros(SHAPES["resnet8"])
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), x, False)
    block = variables["params"]["stage1_block1"]
    np.testing.assert_array_equal(block["bn2"]["scale"], 0)
    np.testing.assert_array_equal(block["bn1"]["scale"], 1)


def test_layers_before_a_norm_have_no_bias_and_others_do():
    params = shapes("convnet", batch_norm())["params"]
    assert "bias" not in params["conv1"]
    assert "bias" in shapes("convnet", None)["params"]["conv1"]


def test_activations_can_be_asked_for():
    model = create_model("mlp", 10, batch_norm())
    x = jnp.zeros(SHAPES["mlp"])
    variables = model.init(jax.random.key(0), x, False)
    _, seen = model.apply(variables, x, False, mutable=["intermediates"])
    (layer,) = seen["intermediates"]["layer2"]
    assert layer.shape == (2, 128)


def test_computation_in_bfloat16_keeps_float32_parameters_and_outputs():
    model = create_model("convnet", 10, batch_norm(), dtype=jnp.bfloat16)
    x = jnp.ones(SHAPES["convnet"])
    variables = model.init(jax.random.key(0), x, False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out, seen = model.apply(variables, x, False, mutable=["intermediates"])
    assert out.dtype == jnp.float32
    assert seen["intermediates"]["layer1"][0].dtype == jnp.bfloat16


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="model is 'resnet5', expected one of mlp"):
        create_model("resnet5", 10, None)
    large = {f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
    assert set(model_names()) == set(SHAPES) | large


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet8"])
def test_the_length_of_a_batch_may_be_symbolic(name):
    model = small(name, batch_norm())
    shape = SHAPES[name]
    variables = model.init(jax.random.key(0), jnp.ones(shape), False)
    symbolic = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((*symbolic, *shape[1:]), jnp.float32)
    mask = jax.ShapeDtypeStruct(symbolic, bool)

    @jax.jit
    def run(x, mask):
        return model.apply(variables, x, False, mask)

    program = jax.export.export(run)(x, mask)
    x = jax.random.normal(jax.random.key(1), (3, *shape[1:]))
    mask = jnp.array([True, True, False])
    np.testing.assert_allclose(
        program.call(x, mask), run(x, mask), rtol=1e-5, atol=1e-5
    )
