"""Programs on devices: drawn, mapped by any of the wrappers, and run."""

import functools
import itertools
import math
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
from catalog import Law
from wrappers import JITS, MAPPED, in_context, lay, spread

from tests.properties import _compositions as compositions
from tests.properties import _norms as norms
from tests.properties._cases import Case
from tests.properties._programs import DTYPES, WEIGHTS, Program

KINDS = (
    norms.batch_norm,
    norms.batch_norm,
    norms.batch_renorm,
    compositions.domain_norm,
    norms.adaptive_norm,
    compositions.split_norm,
    compositions.shuffled,
)
MOST = 40
"""Elements of one device."""


def draw_pool(seed: object, number: int) -> list[Program]:
    """Returns programs on devices, those on fewest first."""
    pool = []
    for k in range(number):
        rng = Random(f"{seed} devices {k}")
        program = None
        while program is None:
            program = _draw(rng, KINDS[k % len(KINDS)])
        pool.append(program)
    return sorted(pool, key=lambda p: (p.devices, len(p.shape), math.prod(p.shape)))


def _draw(rng: Random, kind) -> Program | None:
    rank = rng.choice((2, 2, 3, 4))
    shape = [rng.choice((1, 2, 3, 4)) for _ in range(rank)]
    axis = rng.choice((-1, -1, rng.randrange(1, rank) - rank))
    while math.prod(shape) > MOST:
        shape[rng.choice([a for a in range(rank) if shape[a] > 1])] -= 1
    row = kind(rng, tuple(shape), axis, inside=True)
    dtype = rng.choice(DTYPES)
    if row is None or Law.DEVICES not in row.laws:
        return None
    if row.out and dtype == "complex64":
        return None
    if row.reference is None and Law.PERMUTING not in row.laws:
        return None
    devices = rng.randint(2, min(8, max(len(jax.devices()), 2)))
    wrapper = rng.choice((*MAPPED, *MAPPED, *JITS))
    if wrapper in JITS and kind in (compositions.shuffled, compositions.split_norm):
        wrapper = rng.choice(MAPPED)  # Places and shuffles are those of a device.
    if wrapper in JITS and devices * shape[0] in (shape[axis], row.domains):
        return None  # `spread` tells arrays of examples by their number.
    masks = ("none", "element", "position")
    groups, size = _draw_groups(rng, devices), None
    if kind in (norms.batch_norm, norms.batch_renorm) and rng.random() < 0.25:
        groups, share = None, shape[0]
        sizes = [n for n in range(1, share + 1) if share % n == 0]
        sizes += [share * n for n in range(2, devices + 1) if devices % n == 0]
        size = rng.choice(sizes)
    if row.shuffled:
        groups = None  # Examples come from anywhere.
    return Program(
        row,
        tuple(shape),
        dtype=dtype,
        mask=rng.choice(masks if wrapper in JITS else (*masks, "scalar", "channel")),
        weights=rng.choice(WEIGHTS),
        wrapper=wrapper,
        devices=devices,
        groups=groups,
        size=size,
    )


def _draw_groups(rng: Random, devices: int) -> tuple[tuple[int, ...], ...] | None:
    how = rng.choice(("all", "all", "equal", "any", "any", "each"))
    order = rng.sample(range(devices), devices)
    sizes = [devices]
    if how == "each":
        sizes = [1] * devices
    elif how == "equal":
        many = rng.choice([n for n in range(1, devices + 1) if devices % n == 0])
        sizes = [devices // many] * many
    elif how == "any":
        sizes, left = [], devices
        while left:
            sizes.append(rng.randint(1, left))
            left -= sizes[-1]
    ends = np.cumsum([0, *sizes])
    groups = tuple(tuple(order[a:b]) for a, b in itertools.pairwise(ends))
    return None if how == "all" else groups


@functools.cache
def mesh_of(devices: int) -> jax.sharding.Mesh:
    """Returns some devices along one axis named 'devices'."""
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("devices",))


def named(program: Program) -> dict:
    """Returns the options that say what is normalized together."""
    options = {"axis_name": "devices", "param_dtype": program.param_dtype}
    if program.size is not None:
        return {**options, "normalization_batch_size": program.size}
    groups = program.groups
    return {**options, "axis_index_groups": groups and [list(g) for g in groups]}


@functools.cache
def mapped(program: Program):
    """Returns the norm, and `step(shared, x, mask, domain)`, as there are any."""
    norm = program.row.make(**named(program))
    masked, by_domain = program.mask != "none", bool(program.row.domains)

    def step(shared, x, *rest):
        params, state = shared
        rest = list(rest)
        mask = rest.pop(0) if masked else None
        more = {"domain": rest.pop(0)} if by_domain else {}
        y, new = norm.apply(params, state, x, True, mask=mask, **more)
        return y, new, norm.apply(params, new, x, False, mask=mask, **more)[0]

    shards = 1 + masked + by_domain
    return norm, spread(step, program.wrapper, mesh_of(program.devices), shards)


@functools.cache
def pulled(program: Program):
    """Returns `pull(shared, x, cotangent, mask) -> dparams, dx` of a loss of each."""
    norm = program.row.make(**named(program))

    def pull(shared, x, cotangent, *mask):
        params, state = shared

        def loss(params, x):
            mask_or_none = mask[0] if mask else None
            y, _ = norm.apply(params, state, x, True, mask=mask_or_none)
            return jnp.sum(y * cotangent).real

        return jax.grad(loss, argnums=(0, 1))(params, x)

    shards = 2 + (program.mask != "none")
    return spread(pull, program.wrapper, mesh_of(program.devices), shards)


def batch_of(case: Case):
    """Returns data, masks (or None) and domains (or None) of all devices, stacked."""
    each = range(case.program.devices)
    masks = None
    if case.program.mask != "none":
        masks = np.stack([case.mask(d) for d in each])
    domains = [case.more(d).get("domain") for d in each]
    x = np.stack([case.numbers(d) for d in each])
    return x, masks, None if domains[0] is None else np.stack(domains)


def call(program: Program, step, shared, *shards):
    """Returns what a mapped step gives, in NumPy; shards may be None."""
    mesh, wrapper = mesh_of(program.devices), program.wrapper
    shards = [lay(a, wrapper, mesh) for a in shards if a is not None]
    with in_context(wrapper, mesh):
        shared = lay(shared, wrapper, mesh, by_device=False)
        return jax.tree.map(np.asarray, step(shared, *shards))


def hidden(case: Case, arrays, masks):
    """Returns arrays of all devices with something else behind their masks."""
    if masks is None:
        return arrays
    return np.stack(list(map(case.hide, arrays, masks)))


def run(case: Case):
    """Returns parameters, state, the batch, and what a step on devices gives."""
    params, state = case.start()
    x, masks, domains = batch_of(case)
    _, step = mapped(case.program)
    shards = hidden(case, x, masks), masks, domains
    result = call(case.program, step, (params, state), *shards)
    return params, state, (x, masks, domains), result
