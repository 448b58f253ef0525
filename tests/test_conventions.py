"""The table of docs/conventions.md: one row a system, each held to that system.

A peer (`convention_peers.py`) is fed what jaxbn is fed with the options of its row. All
outputs and the running statistics have to agree. The table is written from those very
options. What is not installed is skipped.
"""

import functools
import importlib
import importlib.util
import inspect
import operator
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from convention_peers import (
    ONES,
    ZEROS,
    as_batch,
    as_ema,
    as_precise,
    draw,
    of_batch,
    of_equinox,
    of_function,
    of_fvcore,
    of_haiku,
    of_jaxbn,
    of_keras,
    of_linen,
    of_mlx,
    of_nnx,
    of_onnx,
    of_onnx_runtime,
    of_oracle,
    of_pass,
    of_tensorflow,
    of_timm,
    of_torch,
)
from flax import nnx
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import jaxbn.nnx

PAGE = Path(__file__).parents[1] / "docs" / "conventions.md"
APART = "JAXBN_CONVENTIONS_OF_TENSORFLOW"
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        system: its name; a star where the page says more.
        norm: 'module:path' of a class or function.
        peer: `peer(norm) -> trace`.
        weighs: whose weight its momentum is, 'old' or 'new'; where there is none, what
            weighs the same.
        options: of `bn_apply`, for the same numbers.
        mask: what a mask does.
        fresh: what it evaluates with before training; a key of FRESH.
        given: said after the momentum.
        ours: `ours(mean, var, **options) -> trace`, where it takes more than options.
        says: what it takes instead of `bn_apply`.
    """

    system: str
    norm: str
    peer: Callable[[Any], dict]
    weighs: str
    options: dict
    mask: str = "none"
    fresh: str = "mean 0, variance 1"
    given: str = ""
    ours: Callable[..., dict] = of_jaxbn
    says: str = ""

    def load(self):
        """Returns its class or function, or skips the test."""
        module, _, path = self.norm.partition(":")
        if module.startswith(("tensorflow", "tf_keras")) and APART not in os.environ:
            pytest.skip("TensorFlow runs in a process of its own: test_what_runs_apart")
        reason = f"{module} is not installed; its row is compared where it is"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its import only
            found = pytest.importorskip(module, reason=reason)
            return operator.attrgetter(path)(found)


X = draw(0, 2)
FRESH = {
    "mean 0, variance 1": (ZEROS, ONES),
    "mean 0, variance 0": (ZEROS, ZEROS),
    "the batch `init` saw": (X.mean((0, 1, 2)), X.var((0, 1, 2))),
    "what it is given": (ZEROS, ONES),
}
_, ZERO, INIT, GIVEN = FRESH
COUNTED = "bool or weights: left out of the statistics, 0 in the output"
CAST = "cast to bool: left out of the statistics, normalized with them"
BOOL = "bool only: left out of the statistics, normalized with them"
IGNORED = "ignored, with a warning"

TORCH = {"momentum": 0.9, "unbiased": True, "axis": 1}
CUMULATIVE = {"momentum": None, "unbiased": True, "axis": 1}
POOLED = {"momentum": None, "axis": 1}
MLX = {"momentum": 0.9, "unbiased": True}
ONNX = {"momentum": 0.9, "axis": 1}
KERAS = {"epsilon": 0.001}
TF_KERAS = {"epsilon": 0.001, "unbiased": True}
FUSED = {"momentum": 0.0, "epsilon": 0.001, "unbiased": True}
QUARTER = {"momentum": 0.75, "epsilon": 0.001, "unbiased": True}
HAIKU = {"momentum": 0.9, "debias": True}
EMA, BATCH = {"axis": 1}, {"debias": True, "axis": 1}

of_average = functools.partial(of_tensorflow, exponential_avg_factor=0.25)
AVERAGING = {"fresh": GIVEN, "given": " (passed)"}
of_ema = functools.partial(of_equinox, mode="ema")
pooled = lambda mean, var, **options: as_precise(**options)
ELSE = {"ours": pooled, "says": "precise_batch_stats(model, variables, batches)"}
SWA, FVCORE = "torch.optim.swa_utils:update_bn", "fvcore.nn:update_bn_stats"
REFERENCE, RUNTIME = "onnx.reference:ReferenceEvaluator", "onnxruntime:InferenceSession"
FUSED_OP = "tensorflow:compat.v1.nn.fused_batch_norm"
OLD_KERAS, EQUINOX = "tf_keras.layers:BatchNormalization", "equinox.nn:BatchNorm"
ROWS = [
    Row("jaxbn", "jaxbn:bn_apply", of_oracle, "old", {}, COUNTED),
    Row("Flax linen", "flax.linen:BatchNorm", of_linen, "old", {}, CAST),
    Row("Flax nnx", "flax.nnx:BatchNorm", of_nnx, "old", {}, BOOL),
    Row("Keras 3", "keras.layers:BatchNormalization", of_keras, "old", KERAS, CAST),
    Row("tf_keras, images*", OLD_KERAS, of_keras, "old", TF_KERAS, IGNORED),
    Row("TensorFlow, fused op*", FUSED_OP, of_tensorflow, "new", FUSED, fresh=GIVEN),
    Row("TensorFlow, averaging*", FUSED_OP, of_average, "new", QUARTER, **AVERAGING),
    Row("PyTorch BatchNorm2d", "torch.nn:BatchNorm2d", of_torch, "new", TORCH),
    Row("PyTorch SyncBatchNorm*", "torch.nn:SyncBatchNorm", of_torch, "new", TORCH),
    Row("PyTorch update_bn*", SWA, of_pass, "batch", CUMULATIVE),
    Row("timm BatchNormAct2d*", "timm.layers:BatchNormAct2d", of_timm, "new", TORCH),
    Row("fvcore PreciseBN*", FVCORE, of_fvcore, "element", POOLED, **ELSE),
    Row("MLX*", "mlx.nn:BatchNorm", of_mlx, "new", MLX),
    Row("ONNX's reference*", REFERENCE, of_onnx, "old", ONNX, fresh=GIVEN),
    Row("ONNX Runtime*", RUNTIME, of_onnx_runtime, "old", ONNX, fresh=GIVEN),
    Row("Haiku*", "haiku:BatchNorm", of_haiku, "old", HAIKU, "none", INIT, " (passed)"),
    Row("Equinox 'ema'*", EQUINOX, of_ema, "old", EMA, fresh=ZERO, ours=as_ema),
    Row("Equinox 'batch'*", EQUINOX, of_batch, "old", BATCH, ours=as_batch),
]
BY_NAME = {row.system: row for row in ROWS}
SIGNATURE = inspect.signature(jaxbn.bn_apply).parameters
DEFAULTS = {name: parameter.default for name, parameter in SIGNATURE.items()}


def line(row):
    """Returns a row as a line of the table."""
    options = DEFAULTS | row.options
    weighed = f"no momentum: every {row.weighs} alike"
    if options["momentum"] is not None:
        new = round(1 - options["momentum"], 6)
        value = new if row.weighs == "new" else options["momentum"]
        weighed = f"the {row.weighs}, {value:g}{row.given}"
    said = ", ".join(f"{name}={value!r}" for name, value in row.options.items())
    said = row.says or said
    cells = row.system, "n/(n-1)" if options["unbiased"] else "biased", weighed
    cells += (
        f"{options['epsilon']:g}".replace("e-0", "e-"),
        {-1: "last", 1: "1"}[options["axis"]],
        row.mask,
    )
    cells += row.fresh, f"`{said}`" if said else "the defaults"
    return f"| {' | '.join(cells)} |"


def table():
    names = "", "running variance", "momentum weighs", "epsilon", "feature axis", "mask"
    names += "evaluates before training with", "`bn_apply` with"
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|", *map(line, ROWS)]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """Keras runs on JAX, with settings in a folder; TensorFlow gets no flags of JAX."""
    jax.devices()
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))


each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.system.strip("*"))


@each_row
def test_the_same_numbers(row):
    theirs = row.peer(row.load())
    for key, value in row.ours(*FRESH[row.fresh], **row.options).items():
        close(theirs[key], value, err_msg=key)


def test_other_conventions_would_show():
    """Each moves the numbers by far more than the tolerance."""
    start = {"mean": ZEROS, "var": ONES}
    right = of_function(oracle.bn_apply, start, momentum=0.9)
    for other in ({"unbiased": True}, {"momentum": 0.1}, {"epsilon": 1e-4}):
        wrong = of_function(oracle.bn_apply, start, **{"momentum": 0.9} | other)
        assert any(np.any(abs(right[k] / wrong[k] - 1) > 1e-2) for k in right), other
    x = draw(1, 2)
    outside = (x - x.mean((0, 1, 2))) / (x.std((0, 1, 2)) + 1e-5)
    assert np.any(abs(right["y1"] / outside - 1) > 1e-2)


@each_row
def test_which_take_a_mask(row):
    norm = row.load()
    if inspect.isclass(norm):
        methods = (getattr(norm, key, None) for key in ("forward", "call", "__call__"))
        norm = next(filter(None, methods), norm)
    assert ("mask" in inspect.signature(norm).parameters) == (row.mask != "none")


def masked(system, norm, x, mask):
    """Returns y and mean of a batch [N, C] with a mask [N]."""
    if system == "jaxbn":
        start = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
        y, state = norm({}, start, x, True, momentum=0.0, mask=mask)
        return y, state["mean"]
    if system == "Keras 3":
        layer = norm(momentum=0.0)
        with jax.numpy_rank_promotion("allow"):
            return layer(x, training=True, mask=mask), layer.moving_mean
    if system == "Flax nnx":
        layer = norm(3, momentum=0.0, rngs=nnx.Rngs(0))
        return layer(jnp.asarray(x), mask=mask[:, None]), layer.mean[...]
    layer = norm(momentum=0.0, use_running_average=False)
    variables = layer.init(jax.random.key(0), x)
    y, new = layer.apply(variables, x, mask=mask[:, None], mutable=["batch_stats"])
    return y, new["batch_stats"]["mean"]


@pytest.mark.parametrize("system", ["jaxbn", "Flax linen", "Flax nnx", "Keras 3"])
def test_what_masks_do(system):
    row, x = BY_NAME[system], draw(0, 2).reshape(4, 3)
    norm, mask = row.load(), np.array([0.5, 0, 2, 1], np.float32)
    if row.mask == BOOL:
        with pytest.raises(ValueError, match="boolean"):
            masked(system, norm, x, mask)
        mask = mask != 0
    y, mean = masked(system, norm, x, mask)
    weights = mask if row.mask == COUNTED else mask != 0
    expected, var = np.average(x, 0, weights), x[mask != 0].var(0)
    epsilon = row.options.get("epsilon", 1e-5)
    behind = 0 if row.mask == COUNTED else (x[1] - expected) / np.sqrt(var + epsilon)
    close(mean, expected)
    close(y[1], np.broadcast_to(behind, 3))


def test_tf_keras_ignores_masks():
    x, layer = draw(0, 2), BY_NAME["tf_keras, images*"].load()(momentum=0.0)
    with pytest.warns(UserWarning, match="not supported with `fused=True`"):
        layer(x, training=True, mask=x[..., 0] > 0)
    close(layer.moving_mean, x.mean((0, 1, 2)))


def test_tf_keras_of_rows_absorbs_the_biased_variance():
    x, layer = draw(0, 2).reshape(4, 3), BY_NAME["tf_keras, images*"].load()()
    layer(x, training=True)
    close(layer.moving_variance, 0.99 + 0.01 * x.var(0))


def test_all_inputs_of_onnx_are_given():
    schema = pytest.importorskip("onnx").defs.get_schema("BatchNormalization")
    names = ["X", "scale", "B", "input_mean", "input_var"]  # no mask among them
    assert [entry.name for entry in schema.inputs] == names


def test_what_runs_apart():
    """TensorFlow's rows: loaded before torchvision it ends the process by a signal."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed; its rows are compared where it is")
    command = [sys.executable, "-m", "pytest", "-q", "-k", "tensorflow or tf_keras"]
    environment = os.environ | {APART: "yes"}
    done = subprocess.run([*command, __file__], env=environment, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()[-3000:]


def test_update_bn_is_the_averaged_definition():
    found, expected = as_precise(definition="averaged"), of_jaxbn(**CUMULATIVE)
    for key in ("mean", "var", "y"):
        close(found[key], expected[key])


def test_the_table_of_the_page_is_that_of_the_rows():
    """If not, paste what `'\\n'.join(table())` is into the page."""
    lines = PAGE.read_text().splitlines()
    assert [text for text in lines if text.startswith("|")] == table()


def test_the_example_of_the_page_runs():
    for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(PAGE):
        example.evaluate()
