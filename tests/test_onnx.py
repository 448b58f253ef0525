"""Export to ONNX by jax2onnx: evaluation in the numbers of JAX, training refused.

jax2onnx replaces functions of jax.numpy while it traces; `jnp.shape` then returns a
traced array. It turns Flax's batch norm in training into one in evaluation, with a
warning in the log and other numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.errors import TraceContextError

import jaxbn
import jaxbn.linen
import jaxbn.nnx
from jaxbn.surgery import fold

RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, (6, 5, 5, 4)).astype(np.float32)
PARAMS = {key: RNG.normal(1, 1, 4).astype(np.float32) for key in ("scale", "bias")}
STATE = {"mean": RNG.normal(2, 1, 4).astype(np.float32)}
STATE |= {"var": RNG.uniform(4, 9, 4).astype(np.float32)}


class Net(nn.Module):
    """Both layers of `jaxbn.linen` behind convolutions."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        still = not self.train
        x = nn.Conv(4, (3, 3))(x)
        x = nn.relu(jaxbn.linen.BatchNorm(use_running_average=still)(x))
        norm = jaxbn.ghost_norm(size=2)
        return jaxbn.linen.Norm(norm, use_running_average=still)(nn.Dense(3)(x))


def of_nnx(layer):
    layer = layer(4, use_running_average=True, rngs=nnx.Rngs(0))
    for name, value in {**PARAMS, **STATE}.items():
        getattr(layer, name)[...] = jnp.asarray(value)
    return layer


def trained(model):
    """Returns the variables of a net that has seen some batches."""
    variables = model.init(jax.random.key(0), X)
    training = model.clone(train=True)
    for _ in range(5):
        _, new = training.apply(variables, X, mutable=["batch_stats"])
        variables = {**variables, **new}
    return variables


def of_function(x):
    return jaxbn.bn_apply(PARAMS, STATE, x, False)[0]


def of_linen():
    model, variables = Net(), trained(Net())
    return lambda x: model.apply(variables, x)


def of_layer():
    model = jaxbn.linen.BatchNorm(use_running_average=True)
    return lambda x: model.apply({"params": PARAMS, "batch_stats": STATE}, x)


def folded():
    model, variables = Net(), trained(Net())
    found = fold(model, variables, X)
    assert len(found.pairs) == 2
    return lambda x: found.apply(found.variables, x)


MODELS = {
    "function": lambda: of_function,
    "linen": of_linen,
    "linen layer": of_layer,
    "nnx": lambda: of_nnx(jaxbn.nnx.BatchNorm),
    "nnx, any pair": lambda: of_nnx(
        lambda *args, **options: jaxbn.nnx.Norm(
            args[0], jaxbn.batch_renorm(), **options
        )
    ),
    "folded": folded,
}


@pytest.fixture
def to_onnx():
    reason = "jax2onnx is not installed; pip install jax2onnx onnxruntime"
    pytest.importorskip("onnxruntime", reason=reason)
    found = pytest.importorskip("jax2onnx", reason=reason).to_onnx
    with jax.numpy_rank_promotion("allow"):  # What it puts in place of Flax's needs it.
        yield found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_evaluation_has_the_numbers_of_jax_for_any_batch(name, to_onnx):
    import onnxruntime

    model = MODELS[name]()
    exported = to_onnx(model, [("B", *X.shape[1:])]).SerializeToString()
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    for x in (X, X[:1]):
        (y,) = session.run(None, {session.get_inputs()[0].name: x})
        np.testing.assert_allclose(y, model(jnp.asarray(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_training_is_no_evaluation(to_onnx):
    model, variables = Net(train=True), trained(Net())

    def train(x):
        return model.apply(variables, x, mutable=["batch_stats"])[0]

    with pytest.raises(NotImplementedError, match="batch_norm"):
        to_onnx(train, [X.shape])
    layer = of_nnx(jaxbn.nnx.BatchNorm)
    layer.train()
    with pytest.raises(TraceContextError, match="Cannot mutate BatchStat"):
        to_onnx(layer, [X.shape])


@pytest.mark.parametrize("name", ["function", "linen layer", "nnx", "nnx, any pair"])
def test_shapes_are_read_off_the_arrays(name, monkeypatch):
    """What jax2onnx does to `jnp.shape`, without it."""
    model, expected = MODELS[name](), MODELS[name]()(X)
    shape = jnp.shape
    monkeypatch.setattr(jnp, "shape", lambda x: jnp.asarray(shape(x)))
    found = jax.jit(lambda x: model(x))(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
