"""Every refusal of the core says what came, what was expected and what to do."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import jet

from jaxbn import (
    batch_moments,
    batch_norm,
    batch_renorm,
    bn_apply,
    bn_init,
    domain_norm,
    merge_moments,
    reduce_moments,
)
from jaxbn.core import describe_groups, normalize

X = jnp.ones((4, 2, 3))
PARAMS, STATE = bn_init(3)


def apply(x=X, params=PARAMS, state=STATE, train=True, **options):
    return bn_apply(params, state, x, train, **options)


def under_vmap(**options):
    return jax.vmap(lambda x: apply(x, **options), axis_name="devices")(X[:, None])


REFUSALS = {
    "features zero": (
        lambda: bn_init(0),
        "num_features is 0, expected a positive int",
        "pass the shape of x",
    ),
    "features float": (lambda: bn_init(2.0), "num_features is 2.0", "positive int"),
    "input of 8 bits": (
        lambda: apply(x=X.astype(jnp.float8_e4m3fn)),
        "x has dtype float8_e4m3fn, expected at least 16 bits; cast it",
        ".astype(jnp.bfloat16)",
    ),
    "scale of 8 bits": (
        lambda: apply(params={"scale": jnp.ones(3, jnp.float8_e5m2)}),
        "params['scale'] has dtype float8_e5m2, expected at least 16",
        "cast it",
    ),
    "mean of 8 bits": (
        lambda: apply(state={**STATE, "mean": jnp.zeros(3, jnp.float8_e5m2)}),
        "state['mean'] has dtype float8_e5m2, expected at least 16",
        "cast it",
    ),
    "mean of 8 bits, evaluating": (
        lambda: apply(train=False, state={**STATE, "var": jnp.ones(3, "float8_e5m2")}),
        "state['var'] has dtype float8_e5m2, expected at least 16",
        "cast it",
    ),
    "parameters of 8 bits": (
        lambda: bn_init(3, param_dtype=jnp.float8_e4m3fn),
        "param_dtype has dtype float8_e4m3fn, expected at least 16 bits",
        "cast it",
    ),
    "jet": (
        lambda: jet.jet(apply, (X,), ((X,),)),
        "x is traced by jax.experimental.jet, which cannot go through",
        "nest jax.jvp",
    ),
    "features empty": (lambda: bn_init(()), "num_features is ()", "tuple of positive"),
    "features mixed": (lambda: bn_init((3, -1)), "num_features is (3, -1)", "positive"),
    "param dtype": (
        lambda: bn_init(3, param_dtype=jnp.int32),
        "param_dtype is",
        "float32 is the default",
    ),
    "momentum": (
        lambda: apply(momentum=1.5),
        "momentum is 1.5, expected 0 <= momentum <= 1",
        "PyTorch's momentum is 1 - momentum here",
    ),
    "momentum at init": (lambda: bn_init(3, momentum=-0.1), "momentum is -0.1", "old"),
    "momentum in pair": (lambda: batch_norm(momentum=2), "momentum is 2", "expected"),
    "epsilon": (
        lambda: apply(epsilon=-1e-5),
        "epsilon is -1e-05, expected a small number >= 0",
        "1e-5 is the default",
    ),
    "debias": (
        lambda: apply(momentum=None, debias=True),
        "debias=True with momentum=None, expected 0 <= momentum < 1",
        "no bias to remove",
    ),
    "groups without axis": (
        lambda: apply(axis_index_groups=[[0], [1]]),
        "axis_index_groups is [[0], [1]] but axis_name is None",
        "name the axis",
    ),
    "groups incomplete": (
        lambda: under_vmap(axis_name="devices", axis_index_groups=[[0, 1], [2]]),
        "axis_index_groups is [[0, 1], [2]], expected every index from 0 to 3",
        "add the missing devices",
    ),
    "groups not nested": (
        lambda: apply(axis_name="devices", axis_index_groups=[0, 1]),
        "axis_index_groups is [0, 1], expected a list of lists of device indices",
        "pass None, or [[0, 1]]",
    ),
    "groups of one device": (
        lambda: jax.vmap(
            lambda x: apply(x, axis_name="i", axis_index_groups=[[0, 1]]), axis_name="i"
        )(X[None]),
        "axis_index_groups is [[0, 1]], expected every index from 0 to 0",
        "add the missing devices",
    ),
    "axis named twice": (
        lambda: under_vmap(axis_name=("devices", "devices")),
        "axis_name is ('devices', 'devices'), which names an axis twice",
        "remove the repetition",
    ),
    "size and groups": (
        lambda: batch_norm(
            axis_name="d", axis_index_groups=[[0]], normalization_batch_size=2
        ),
        "normalization_batch_size is 2 and axis_index_groups is [[0]]",
        "expected one of the two; the size makes the groups",
    ),
    "size zero": (
        lambda: batch_norm(normalization_batch_size=0),
        "normalization_batch_size is 0, expected an int from 1 on",
        "None normalizes all",
    ),
    "size bool": (
        lambda: apply(normalization_batch_size=True),
        "normalization_batch_size is True, expected an int",
        "None normalizes all",
    ),
    "size float": (
        lambda: apply(normalization_batch_size=2.0),
        "normalization_batch_size is 2.0, expected an int",
        "None normalizes all",
    ),
    "examples of unequal shares": (
        lambda: describe_groups(3, 10, 4),
        "num_examples is 10 on 4 devices, expected a multiple of them",
        "pad the batch and mask what was added",
    ),
    "axis unbound": (
        lambda: apply(axis_name="devices"),
        "axis_name is ('devices',), which is not bound here",
        "pass axis_name=None",
    ),
    "axis unbound, moments": (
        lambda: reduce_moments(batch_moments(X), "batch"),
        "axis_name is ('batch',), which is not bound here",
        "call inside pmap",
    ),
    "train traced": (
        lambda: jax.jit(lambda train: apply(train=train))(True),
        "train is",
        "static_argnames='train'",
    ),
    "switch": (
        lambda: apply(update_stats=1),
        "update_stats is 1, expected a Python bool",
        "static_argnames='update_stats'",
    ),
    "integer x": (
        lambda: apply(jnp.ones((4, 3), jnp.uint8)),
        "x has dtype uint8, expected a floating or complex dtype",
        "x.astype(jnp.float32) / 255",
    ),
    "axis out of range": (
        lambda: apply(axis=3),
        "axis 3 is out of range for x with 3 axes, expected -3 <= axis < 3",
        "pass the axis of x that holds features",
    ),
    "scalar x": (lambda: apply(jnp.ones(())), "out of range for x with 0 axes", "axis"),
    "axis twice": (
        lambda: apply(axis=(2, -1)),
        "axis (2, -1) names an axis of x (rank 3) twice",
        "remove the repetition",
    ),
    "axis empty": (lambda: apply(axis=()), "axis is empty", "pass axis=-1"),
    "axis float": (lambda: apply(axis=1.0), "axis is 1.0, expected an int", "axis=-1"),
    "params keys": (
        lambda: apply(params={"kernel": jnp.ones(3)}),
        "params has keys ['kernel'], expected only 'scale' and 'bias'",
        "variables['params']['bn1']",
    ),
    "params shape": (
        lambda: apply(params={"scale": jnp.ones(2)}),
        "params['scale'] has shape (2,), expected (3,)",
        "check axis and num_features",
    ),
    "state keys": (
        lambda: apply(state={"mean": jnp.zeros(3)}),
        "state has keys ['mean'], expected ['mean', 'var']",
        "variables['batch_stats']['bn1']",
    ),
    "state without count": (
        lambda: apply(momentum=None),
        "expected ['mean', 'var', 'count']",
        "with the same momentum and debias",
    ),
    "state shape": (
        lambda: apply(state={"mean": jnp.zeros(3), "var": jnp.ones((1, 3))}),
        "state['var'] has shape (1, 3), expected (3,)",
        "check axis",
    ),
    "state half": (
        lambda: apply(
            state={"mean": jnp.zeros(3, jnp.bfloat16), "var": jnp.ones(3, jnp.float32)}
        ),
        "state['mean'] has dtype bfloat16, expected float32 or wider",
        "a.astype(jnp.float32)",
    ),
    "state real": (
        lambda: apply(X.astype(jnp.complex64)),
        "x is complex but state['mean'] has dtype float32",
        "dtype=jnp.complex64",
    ),
    "params complex": (
        lambda: apply(params={"scale": jnp.ones(3, jnp.complex64)}),
        "params['scale'] has dtype complex64 but x has dtype float32",
        "cast x",
    ),
    "mask too short": (
        lambda: apply(mask=jnp.ones(4, bool)),
        "mask has shape (4,), which does not broadcast to x of shape (4, 2, 3)",
        "reshape it to (4, 1)",
    ),
    "mask shape": (
        lambda: apply(mask=jnp.ones((5, 2), bool)),
        "mask has shape (5, 2), which does not broadcast to x of shape (4, 2, 3)",
        "add axes of length one",
    ),
    "mask rank": (
        lambda: apply(mask=jnp.ones((1, 4, 2, 3))),
        "mask has shape (1, 4, 2, 3), which does not broadcast",
        "expected the shape (4, 2)",
    ),
    "mask complex": (
        lambda: apply(mask=jnp.ones((4, 2), jnp.complex64)),
        "mask has dtype complex64, expected bool or real weights",
        "comparison",
    ),
    "mask of moments": (
        lambda: batch_moments(X, mask=jnp.ones((3, 3))),
        "mask has shape (3, 3), which does not broadcast",
        "expected the shape (4, 2)",
    ),
    "mask of normalize": (
        lambda: normalize(X, jnp.zeros(3), jnp.ones(3), mask=jnp.ones((9, 1))),
        "mask has shape (9, 1), which does not broadcast",
        "expected the shape (4, 2)",
    ),
    "momentum of another kind": (
        lambda: apply(momentum="0.9"),
        "momentum is '0.9', expected 0 <= momentum <= 1",
        "PyTorch's momentum",
    ),
    "momentum of another shape": (
        lambda: apply(momentum=jnp.ones((2, 3))),
        "momentum is an array of shape (2, 3) and dtype float32, expected a number",
        "pass a number",
    ),
    "epsilon traced": (
        lambda: jax.jit(lambda epsilon: apply(epsilon=epsilon))(1e-5),
        "epsilon is an array of shape () and dtype float32, expected a small number",
        "1e-5 is the default",
    ),
    "flag": (
        lambda: batch_norm(unbiased="False"),
        "unbiased is 'False', expected True or False",
        "static_argnames='unbiased'",
    ),
    "dtype of no name": (
        lambda: batch_norm(dtype="nosuch"),
        "dtype is 'nosuch', expected a floating or complex dtype",
        "that of x is the default",
    ),
    "x of words": (lambda: apply(["a"]), "x is ['a'], expected an array of", "NumPy"),
    "x None": (lambda: apply(None), "x is None, expected an array of", "pass one"),
    "mask of objects": (
        lambda: apply(mask=[object()]),
        "mask is [<object",
        "expected an array of numbers",
    ),
    "state None": (
        lambda: apply(state=None),
        "state is None, expected a dict of arrays",
        "the norm's init",
    ),
    "state of words": (
        lambda: apply(state={**STATE, "var": "x"}),
        "state['var'] is 'x', expected an array of numbers",
        "subtree of one norm",
    ),
    "key": (
        lambda: bn_init(3, key=0),
        "key is 0, expected one random key",
        "jax.random.key(0)",
    ),
    "axis by number": (
        lambda: apply(axis_name=0),
        "axis_name is 0, expected the name of an axis",
        "vmap",
    ),
    "groups by example": (
        lambda: apply(state={}, group_index=jnp.zeros(3, jnp.int32)),
        "group_index is an array of shape (3,) and dtype int32, expected integers of",
        "one an example",
    ),
    "groups without rows": (
        lambda: apply(state={}, group_index=jnp.zeros(4, jnp.int32)),
        "state has 'mean' of shape (), expected a row for each group",
        "stack",
    ),
    "norm in a norm": (
        lambda: domain_norm(2, None),
        "norm is None, expected a jaxbn.Norm",
        "what batch_norm() or another",
    ),
    "limits not numbers": (
        lambda: batch_renorm(r_max=float("nan")),
        "r_max is nan and d_max is 5.0, expected r_max >= 1",
        "1 and 0 are plain batch norm",
    ),
    "moments of shapes": (
        lambda: merge_moments(batch_moments(X)._replace(m2=jnp.ones(2))),
        "moments has fields of shapes [(3,), (3,), (3,), (2,)], expected four",
        "batch_moments",
    ),
    "channels of normalize": (
        lambda: normalize(X, jnp.zeros(1), jnp.ones(3)),
        "mean has shape (1,), expected (3,)",
        "check axis",
    ),
    "unknown option": (
        lambda: batch_norm(momentun=0.9),
        "batch_norm got options ['momentun'], expected some of",
        "check the spelling",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses(name):
    call, came, fix = REFUSALS[name]
    with pytest.raises(ValueError, match=re.escape(came)) as caught:
        call()
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_of_batches_beyond_counting_are_judged_at_once():
    with pytest.raises(ValueError, match="num_examples is 1099511627776, expected an"):
        describe_groups(3, 2**40, 4)
    with pytest.raises(ValueError, match="size is 7 for a batch of 1073741824 on 4"):
        describe_groups(7, 2**30, 4)


@pytest.mark.usefixtures("eight_devices")
def test_mixed_axes_with_groups_are_refused():
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    mesh = Mesh(jax.devices()[:2], ("mesh",))

    def layer(x):
        groups = [[0, 1], [2, 3]]
        names = ("mesh", "lanes")
        return apply(x, axis_name=names, axis_index_groups=groups)[0]

    lanes = jax.vmap(layer, axis_name="lanes")
    mapped = jax.shard_map(lanes, mesh=mesh, in_specs=P(None, "mesh"), out_specs=P())
    with pytest.raises(ValueError, match="mixes mesh and vmap axes; expected axes of"):
        mapped(jnp.ones((2, 4, 2, 3)))
