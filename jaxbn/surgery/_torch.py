"""PyTorch: batch norms of a state dict as Flax's trees, and back. No torch is needed.

    weight -> scale        running_mean -> mean
    bias   -> bias         running_var  -> var        num_batches_tracked -> count

Conventions that differ: torch's `momentum` is one minus ours, with None for the
cumulative average on both sides, and its `running_var` has absorbed unbiased variances
(`unbiased=True` here), though it normalizes by biased ones. The epsilon is no part of a
state dict: 1e-5 by default there and here.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbn._values import (
    as_numpy,
    as_tensor,
    check_flags,
    check_mapping,
    check_number,
    is_count,
    is_number,
    shown,
)
from jaxbn.tree import find_layers, has_statistics

Arrays = Mapping[str, Any]


def from_torch(
    state_dict: Arrays,
    *,
    cumulative: bool = False,
    num_elements: float | Mapping[str, float] | None = None,
    prefix: str = "",
) -> dict[str, Any]:
    """Returns the batch norms of a state dict as `{'params': ..., 'batch_stats': ...}`.

    Every module with a 'running_mean' is one, SyncBatchNorm and BatchNorm1d, 2d and 3d
    alike; everything else is left out. Names are split at dots: 'layer1.0.bn1' lies at
    ['layer1']['0']['bn1'], ready to be moved to where a Flax model has that layer.

    Args:
        state_dict: of tensors of any dtype, on any device, or of what `np.asarray`
            takes, such as `safetensors.numpy.load_file` returns. jaxbn reads no files
            of torch itself: they are pickles, which run code; load those of others
            with `torch.load(path, weights_only=True)`.
        cumulative: whether the modules average all batches (torch's momentum=None);
            'count' then is their num_batches_tracked.
        num_elements: n, how many elements a channel had in each batch; the variance
            is then made biased, times (n - 1) / n. It cannot be known from the dict. A
            mapping by module, such as {'layer1.0.bn1': 32 * 56 * 56}, where it differs,
            as it does with the size of the images; others stay as they are.
        prefix: of the names, taken off: 'module.' of DistributedDataParallel. Names
            without it are left out.

    Returns:
        A tree of float32 arrays; scale and bias only where there are weight and bias.

    Raises:
        ValueError: if there is no batch norm, one has no running_var, or arrays of
            different shapes, or, `cumulative`, no num_batches_tracked, or if a tensor
            holds no numbers, being on torch's meta device.

    Example:
        >>> found = from_torch({'bn.weight': [2.0], 'bn.bias': [1.0],
        ...     'bn.running_mean': [3.0], 'bn.running_var': [4.0]})
        >>> found['batch_stats']['bn']['var'], found['params']['bn']['scale']
        (Array([4.], dtype=float32), Array([2.], dtype=float32))
    """
    check_mapping("state_dict", state_dict)
    check_flags(cumulative=cumulative)
    if not isinstance(prefix, str):
        raise ValueError(f"prefix is {shown(prefix)}, expected the start of names")
    numbers = num_elements.values() if isinstance(num_elements, Mapping) else ()
    for n in numbers or (num_elements,):
        if n is not None and not isinstance(n, Mapping):
            check_number("num_elements", n, 0, fix="pass how many a batch had")
    start, suffix = prefix, "running_mean"
    state_dict = {
        name.removeprefix(start): value
        for name, value in state_dict.items()
        if name.startswith(start)
    }
    names = [n for n in state_dict if n == suffix or n.endswith("." + suffix)]
    if not names:
        raise ValueError(
            f"state_dict has {sorted(state_dict)[:8]}, expected names that end with "
            "'running_mean'; pass the state dict of a whole module"
        )
    trees: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name in names:
        prefix = name.removesuffix(suffix)
        found = {
            entry: as_tensor(prefix + entry, state_dict[prefix + entry])
            for entry in ("weight", "bias", suffix, "running_var")
            if state_dict.get(prefix + entry) is not None
        }
        tracked = state_dict.get(prefix + "num_batches_tracked")
        shapes = {entry: value.shape for entry, value in found.items()}
        missing = {suffix, "running_var"} - set(shapes)
        if missing or len(set(shapes.values())) > 1:
            raise ValueError(
                f"the arrays beside {name!r} have shapes {shapes}, expected "
                "running_mean and running_var of one shape, and weight and bias of it "
                "where there are some; pass the state dict as torch made it"
            )
        var = found["running_var"].astype(np.float64)
        n = num_elements
        n = n.get(prefix.rstrip(".")) if isinstance(n, Mapping) else n
        if n is not None and n > 1:
            var = var * (n - 1) / n
        stats = {"mean": found[suffix], "var": var}
        if cumulative:
            if tracked is None:
                raise ValueError(
                    f"{prefix + suffix!r} has no num_batches_tracked beside it, "
                    "expected the count of a cumulative average; say cumulative=False"
                )
            tracked = as_tensor(prefix + "num_batches_tracked", tracked)
            if tracked.size != 1:
                raise ValueError(
                    f"state_dict has num_batches_tracked of shape {tracked.shape} "
                    f"beside {name!r}, expected one number"
                )
            tracked = tracked.reshape(())
            stats["count"] = np.full(var.shape, tracked)
        affine = {"weight": "scale", "bias": "bias"}
        params = {affine[k]: v for k, v in found.items() if k in affine}
        path = [part for part in prefix.split(".") if part]
        _put(trees["batch_stats"], path, stats)
        if params:
            _put(trees["params"], path, params)
    return trees


def to_torch(
    params: Any, batch_stats: Any, *, num_batches_tracked: int = 0
) -> dict[str, np.ndarray]:
    """Returns the batch norms of Flax's trees as entries of a torch state dict.

    Args:
        params: a tree with 'scale' and 'bias' where the layers have them, at the paths
            of their statistics; other layers are left out.
        batch_stats: a tree with 'mean' and 'var'. Their paths become names with dots.
        num_batches_tracked: for layers without a 'count'; torch uses it only where it
            averages cumulatively.

    Returns:
        NumPy arrays, float32 and int64, for `module.load_state_dict(..., strict=False)`
        after `torch.from_numpy`. The variance is written as it is: unbiased if the
        layers have absorbed it so.

    Raises:
        ValueError: if no layer has 'mean' and 'var'.

    Example:
        >>> stats = {'bn': {'mean': jnp.zeros(1), 'var': jnp.ones(1)}}
        >>> sorted(to_torch({}, stats))
        ['bn.num_batches_tracked', 'bn.running_mean', 'bn.running_var']
    """
    if not is_count(num_batches_tracked, 0):
        raise ValueError(
            f"num_batches_tracked is {shown(num_batches_tracked)}, expected an int "
            "from 0 on"
        )
    layers = find_layers(params)
    stats = find_layers(batch_stats)
    norms = {p: s for p, s in stats.items() if has_statistics(s)}
    if not norms:
        raise ValueError(
            "batch_stats has no layer with 'mean' and 'var', expected at least one; "
            "pass the statistics of a model with batch norm"
        )
    names = {"scale": "weight", "bias": "bias"}
    names |= {"mean": "running_mean", "var": "running_var"}
    found: dict[str, np.ndarray] = {}
    for path, held in norms.items():
        prefix = path.replace("/", ".") + "." * bool(path)
        affine = {k: v for k, v in layers.get(path, {}).items() if k in names}
        for key, value in {**affine, **held}.items():
            if key in names:
                found[prefix + names[key]] = as_numpy(
                    f"the {key} of {path!r}", value
                ).real.astype(np.float32)
        count = as_numpy(
            f"the count of {path!r}", held.get("count", num_batches_tracked)
        )
        tracked = np.max(count, initial=0)
        found[prefix + "num_batches_tracked"] = np.asarray(tracked, np.int64)
    return found


def momentum_from_torch(momentum: float | None) -> float | None:
    """Returns a momentum of torch, the weight of the new value, as that of the old.

    Args:
        momentum: 0.1 by default in torch; None is the cumulative average in both.

    Returns:
        One minus it, or None.

    Raises:
        ValueError: unless it lies between 0 and 1.

    Example:
        >>> momentum_from_torch(0.1), momentum_from_torch(None)
        (0.9, None)
    """
    if momentum is None:
        return None
    if not is_number(momentum) or not 0 <= momentum <= 1:
        raise ValueError(
            f"momentum is {shown(momentum)}, expected 0 <= momentum <= 1, the weight "
            "of the new value; torch's default is 0.1"
        )
    return 1 - momentum


def _put(tree: dict[str, Any], path: list[str], layer: dict[str, Any]) -> None:
    """Puts arrays at a path of nested dicts, in place."""
    for part in path:
        tree = tree.setdefault(part, {})
    # Copies: torch changes its buffers in place, which asarray may share.
    tree |= {name: jnp.array(value, jnp.float32) for name, value in layer.items()}
