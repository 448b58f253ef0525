"""What a user sees first: names, docstrings, and what an import costs."""

import importlib
import inspect
import subprocess
import sys

import pytest

import jaxbn

ROOMS = ["jaxbn", "jaxbn.core", "jaxbn.data", "jaxbn.models", "jaxbn.population"]
ROOMS += ["jaxbn.training", "jaxbn.linen", "jaxbn.nnx", "jaxbn.variants", "jaxbn.tree"]


def public(room):
    module = importlib.import_module(room)
    for name in dir(module):
        value = getattr(module, name)
        own = getattr(value, "__module__", "").startswith("jaxbn")
        if not name.startswith("_") and own and callable(value):
            yield pytest.param(value, id=f"{room}.{name}")


EVERYTHING = [item for room in ROOMS for item in public(room)]
FUNCTIONS = [p for p in EVERYTHING if inspect.isfunction(p.values[0])]
ARITHMETIC = ("jaxbn.core", "jaxbn.population", "jaxbn.variants")
FACE = [p for p in FUNCTIONS if p.id.startswith(ARITHMETIC)]


@pytest.mark.parametrize("item", EVERYTHING)
def test_has_a_docstring_of_its_own(item):
    assert item.__doc__ and len(item.__doc__.strip()) > 20
    assert not item.__doc__.startswith(f"{item.__name__}(")


@pytest.mark.parametrize("function", FACE)
def test_arithmetic_is_documented_in_full(function):
    doc, signature = inspect.getdoc(function), inspect.signature(function)
    if function.__name__ in ("feature_axes", "feature_shape"):
        return
    if function.__name__.startswith("assert_"):
        assert doc.startswith("Raises unless ")
    else:
        assert doc.startswith("Returns ")
        assert "Returns:" in doc
    assert "Example:" in doc or "devices" in doc
    for name, parameter in signature.parameters.items():
        label = f"**{name}" if parameter.kind is parameter.VAR_KEYWORD else name
        assert f"    {label}:" in doc, f"{function.__name__} does not document {label}"


def test_names_of_the_face():
    names = {p.id.split(".")[-1] for p in EVERYTHING if p.id.count(".") == 1}
    assert names >= {"Norm", "Moments", "batch_norm", "bn_init", "bn_apply"}
    assert jaxbn.__version__.count(".") == 2


def test_a_star_brings_what_is_public_and_no_module():
    code = """
import flax.linen, flax.nnx, jaxbn.linen, jaxbn.nnx
from flax import linen, nnx
from jaxbn import *
print(linen is flax.linen, nnx is flax.nnx, 'core' in globals(), bn_apply.__name__)
from jaxbn.nnx import *
from jaxbn.linen import *
print(linen is flax.linen, nnx is flax.nnx, BatchNorm is jaxbn.linen.BatchNorm)
"""
    assert run(code) == "True True False bn_apply\nTrue True True"
    names = {name for name in dir(jaxbn) if callable(getattr(jaxbn, name))}
    assert set(jaxbn.__all__) == {name for name in names if not name.startswith("_")}


def run(code):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_no_framework_and_starts_no_backend():
    heavy = "flax optax orbax matplotlib tensorflow_datasets sklearn rich tyro torch"
    code = f"""
import sys, jaxbn
from jax._src import xla_bridge
print([m for m in {heavy.split()} if m in sys.modules])
print(xla_bridge.backends_are_initialized())
"""
    assert run(code) == "[]\nFalse"


def test_flax_wrappers_start_no_backend():
    code = """
import jaxbn.linen, jaxbn.nnx
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
"""
    assert run(code) == "False"
