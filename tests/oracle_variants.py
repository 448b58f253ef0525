"""The variants in float64 NumPy, written from their papers on top of `oracle`.

References have the signature of `oracle.bn_apply_devices` up to `groups`, as rows of
the catalog take them; each device is by itself unless it says otherwise.
"""

import numpy as np
import oracle


def example_axis(ndim, axis=-1):
    """Returns the first axis that holds no features."""
    features = oracle.feature_axes(axis, ndim)
    return next((a for a in range(ndim) if a not in features), None)


def frozen(params, states, xs, train, *, masks=None, groups=None):
    """Batch norm in evaluation, whatever `train` says."""
    held = {"use_running_average": True, "update_stats": False}
    return oracle.bn_apply_devices(params, states, xs, train, masks=masks, **held)


def ghost(params, states, xs, train, *, masks=None, groups=None, cut=None):
    """Each device's examples in runs; `cut(N)` gives their sizes."""
    if not train:
        return oracle.bn_apply_devices(params, states, xs, train, masks=masks)
    ys, news = [], []
    masks = [None] * len(xs) if masks is None else masks
    for state, x, mask in zip(states, xs, masks, strict=True):
        x = np.asarray(x)
        axis = example_axis(x.ndim)
        whole, new = oracle.bn_apply(params, state, x, True, mask=mask)
        news.append(new)
        if axis is None or not x.shape[axis]:
            ys.append(whole)
            continue
        weights = oracle._spread(mask, x.shape, -1)
        ends = np.cumsum(cut(x.shape[axis]))[:-1]
        parts = zip(np.split(x, ends, axis), np.split(weights, ends, axis), strict=True)
        each = [oracle.bn_apply(params, state, p, True, mask=w)[0] for p, w in parts]
        ys.append(np.concatenate(each, axis))
    return ys, news


def renorm(
    params,
    states,
    xs,
    train,
    *,
    masks=None,
    groups=None,
    momentum=0.99,
    epsilon=1e-5,
    r_max=3.0,
    d_max=5.0,
    warmup_steps=0,
    r_steps=1,
    d_steps=1,
):
    """Ioffe 2017, algorithm 1, with a debiased average."""
    rule = {"momentum": momentum, "epsilon": epsilon, "debias": True, "masks": masks}
    _, news = oracle.bn_apply_devices(params, states, xs, train, groups=groups, **rule)
    if not train:
        ys, _ = oracle.bn_apply_devices(params, states, xs, False, **rule)
        return ys, news
    rows, weights = oracle._all_rows(xs, masks, -1)
    ys = [None] * len(xs)
    for group in oracle._groups(groups, len(xs)):
        totals, means, variances = oracle._moments(
            np.concatenate([rows[i] for i in group]),
            np.concatenate([weights[i] for i in group]),
        )
        for i in group:
            flat = {k: np.ravel(oracle.wide(v)) for k, v in states[i].items()}
            mean, var = means.copy(), variances.copy()
            affine = {k: np.ravel(oracle.wide(v)).copy() for k, v in params.items()}
            y = oracle._normalize(rows[i], weights[i], mean, var, {}, epsilon)
            for k, total in enumerate(totals):
                r, d, steps = 1.0, 0.0, flat["count"][k]
                if steps > 0 and total > 0:
                    deviation = np.sqrt(flat["var"][k] + epsilon)
                    span_r = 1 + (r_max - 1) * _ramp(steps, warmup_steps, r_steps)
                    span_d = d_max * _ramp(steps, warmup_steps, d_steps)
                    r = np.sqrt(var[k] + epsilon) / deviation
                    r = min(max(r, 1 / span_r), span_r)
                    d = (mean[k] - flat["mean"][k]) / deviation
                    d = d * min(1, span_d / abs(d)) if d else d
                seen = weights[i][:, k] != 0
                z = y[seen, k] * r + d
                z = z * affine["scale"][k] if "scale" in affine else z
                z = z + affine["bias"][k] if "bias" in affine else z
                y = y.astype(np.result_type(y, z))
                y[seen, k] = z
            ys[i] = oracle._to_array(y, np.shape(xs[i]), -1)
    return ys, news


def _ramp(steps, start, end):
    if start == end:
        return float(steps >= start)
    return min(max((steps - start) / (end - start), 0.0), 1.0)


def adaptive(params, states, xs, train, *, masks=None, groups=None, prior_count=16.0):
    """Schneider et al. 2020, equation 1, in evaluation."""
    if train:
        return oracle.bn_apply_devices(
            params, states, xs, train, masks=masks, groups=groups
        )
    rows, weights = oracle._all_rows(xs, masks, -1)
    ys = [None] * len(xs)
    for group in oracle._groups(groups, len(xs)):
        totals, means, variances = oracle._moments(
            np.concatenate([rows[i] for i in group]),
            np.concatenate([weights[i] for i in group]),
        )
        for i in group:
            each = max(int(np.prod(np.shape(xs[i])[1:-1])), 1)
            n = totals / each
            share = n / np.where(n + prior_count > 0, n + prior_count, 1)
            mean, var = (np.ravel(oracle.wide(states[i][k])) for k in ("mean", "var"))
            mean = mean + share * (means - mean)
            var = var + share * (variances - var)
            y = oracle._normalize(rows[i], weights[i], mean, var, params, 1e-5)
            ys[i] = oracle._to_array(y, np.shape(xs[i]), -1)
    return ys, list(states)


def one_domain(reference):
    """Returns a reference whose states have an axis of one domain in front."""

    def apply(params, states, xs, train, *, masks=None, groups=None):
        states = [{k: np.asarray(v)[0] for k, v in s.items()} for s in states]
        ys, news = reference(params, states, xs, train, masks=masks, groups=groups)
        return ys, [{k: np.asarray(v)[None] for k, v in s.items()} for s in news]

    return apply


def each_example(over):
    """Returns a reference that knows no batch.

    `over(shape)` gives, for one example [..., C], the group of each of its elements.
    """

    def apply(params, states, xs, train, *, masks=None, groups=None):
        masks = [None] * len(xs) if masks is None else masks
        ys = []
        for x, mask in zip(xs, masks, strict=True):
            x, weights = oracle.wide(x), oracle._spread(mask, np.shape(x), -1)
            whole = x if x.ndim > 1 else x[None]
            weights = weights.reshape(whole.shape)
            y = np.zeros(whole.shape, x.dtype)
            for i, (example, w) in enumerate(zip(whole, weights, strict=True)):
                group = over(example.shape)
                for g in np.unique(group):
                    at = group == g
                    values, ws = example[at][:, None], w[at][:, None]
                    _, mean, var = oracle._moments(values, ws)
                    z = oracle._normalize(values, ws, mean, var, {}, 1e-5)
                    y[i][at] = z[:, 0]
            y = y.reshape(x.shape)
            if "scale" in params:
                y = y * oracle.wide(params["scale"])
            if "bias" in params:
                y = y + oracle.wide(params["bias"])
            ys.append(np.where(weights.reshape(x.shape) != 0, y, 0))
        return ys, list(states)

    return apply


def by_group(num_groups):
    """Returns `over` for group norm; None for a group a channel."""

    def over(shape):
        groups = shape[-1] if num_groups is None else num_groups
        return np.broadcast_to(np.arange(shape[-1]) * groups // shape[-1], shape)

    return over


def by_position(shape):
    """The `over` of layer norm."""
    positions = np.arange(int(np.prod(shape[:-1]))).reshape(*shape[:-1], 1)
    return np.broadcast_to(positions, shape)
