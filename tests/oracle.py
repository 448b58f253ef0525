"""Batch norm in float64 NumPy, written from the paper: what the library is held to.

It shares no code with the library and does nothing cleverly. Everything is done for
one channel at a time, on the list of what that channel saw, with the mean subtracted
before anything is squared. Devices are a list of arrays; those of a group are
concatenated, normalized as one batch and cut apart again.

    mean = sum(w x) / sum(w)        var = sum(w |x - mean|^2) / sum(w)
    xhat = (x - mean) / sqrt(var + epsilon)        y = scale xhat + bias

References:
    Ioffe and Szegedy, Batch Normalization, 2015, algorithms 1 and 2 and the gradients
    of section 3. https://arxiv.org/abs/1502.03167
"""

import numpy as np


def bn_init(num_features, *, complex_mean=False, counts=False):
    """Returns parameters and state before the first step, in float64."""
    shape = np.atleast_1d(num_features)
    mean = np.zeros(shape, np.complex128 if complex_mean else np.float64)
    state = {"mean": mean, "var": np.ones(shape)}
    if counts:
        state["count"] = np.zeros(shape)
    return {"scale": np.ones(shape), "bias": np.zeros(shape)}, state


def bn_apply(params, state, x, train, *, mask=None, **options):
    """Returns `(y, new_state)` of one device; options as in `bn_apply_devices`."""
    ys, states = bn_apply_devices(params, [state], [x], train, masks=[mask], **options)
    return ys[0], states[0]


def bn_apply_devices(
    params,
    states,
    xs,
    train,
    *,
    masks=None,
    groups=None,
    axis=-1,
    momentum=0.99,
    epsilon=1e-5,
    unbiased=False,
    debias=False,
    skip_nonfinite=True,
    use_running_average=None,
    update_stats=None,
):
    """Returns `(ys, new_states)`, lists with one entry a device.

    Args:
        params: of all devices, 'scale' and 'bias', either or both left out.
        states: one a device.
        xs: one array a device; of any sizes that fit together without axis 0.
        train: sets the two switches at the end, which override it.
        masks: one a device (or None), bool or weights.
        groups: lists of device indices; None for all devices together.
        axis: the feature axis, or several.
        momentum: the weight of the old value; None for the cumulative average.
        epsilon: added to the variance.
        unbiased: absorb n/(n-1) times the variance.
        debias: remove the initial value from the average.
        skip_nonfinite: a channel with a non-finite statistic does not move.
        use_running_average: `not train` if None.
        update_stats: `train` if None.
    """
    if use_running_average is None:
        use_running_average = not train
    if update_stats is None:
        update_stats = train
    rows, weights = _all_rows(xs, masks, axis)
    ys, new_states = [None] * len(xs), list(states)
    for group in _groups(groups, len(xs)):
        totals, means, variances = _moments(
            np.concatenate([rows[d] for d in group]),
            np.concatenate([weights[d] for d in group]),
        )
        for d in group:
            mean, var = means, variances
            if use_running_average:
                mean = np.ravel(wide(states[d]["mean"]))
                var = np.ravel(wide(states[d]["var"]))
            y = _normalize(rows[d], weights[d], mean, var, params, epsilon)
            ys[d] = _to_array(y, np.shape(xs[d]), axis)
            if update_stats:
                batch = (totals, means, variances)
                rule = (momentum, debias, unbiased, skip_nonfinite)
                new_states[d] = _absorb(states[d], batch, *rule)
    return ys, new_states


def bn_gradient(params, state, x, cotangent, train, *, mask=None, **options):
    """Returns `dx, dscale, dbias` of one device; see `bn_gradient_devices`."""
    dxs, dscales, dbiases = bn_gradient_devices(
        params, [state], [x], [cotangent], train, masks=[mask], **options
    )
    return dxs[0], dscales[0], dbiases[0]


def bn_gradient_devices(
    params,
    states,
    xs,
    cotangents,
    train,
    *,
    masks=None,
    groups=None,
    axis=-1,
    epsilon=1e-5,
    use_running_average=None,
    **_,
):
    """Returns the gradients of `Re(sum(cotangent * y))` over all devices.

    A gradient g of a complex variable z is, as in JAX, the one for which the loss moves
    by `Re(sum(g dz))`. The gradients of scale and bias are what each device
    contributes: their sum over devices is the gradient of a shared parameter.

    Returns:
        `dxs, dscales, dbiases`, lists with one entry a device.
    """
    if use_running_average is None:
        use_running_average = not train
    rows, weights = _all_rows(xs, masks, axis)
    features = _feature_shape(xs[0], axis)
    channels = rows[0].shape[1]
    dxs = [None] * len(xs)
    dscales, dbiases = [None] * len(xs), [None] * len(xs)
    for group in _groups(groups, len(xs)):
        x = np.concatenate([rows[d] for d in group])
        w = np.concatenate([weights[d] for d in group])
        c = np.concatenate([_to_rows(wide(cotangents[d]), axis) for d in group])
        home = np.concatenate([np.full(len(rows[d]), d) for d in group])
        c = np.where(w == 0, 0, c)
        totals, means, variances = _moments(x, w)
        dx = np.zeros(x.shape, np.result_type(x, c))
        dscale = {d: np.zeros(channels, dx.dtype) for d in group}
        dbias = {d: np.zeros(channels, dx.dtype) for d in group}
        for k in range(channels):
            scale = np.ravel(wide(params["scale"]))[k] if "scale" in params else 1.0
            seen = w[:, k] != 0
            xs_k, ws_k, cs_k = x[seen, k], w[seen, k], c[seen, k]
            if use_running_average:
                mean = np.ravel(wide(states[group[0]]["mean"]))[k]
                inverse = _inverse(np.ravel(wide(states[group[0]]["var"]))[k], epsilon)
                dx[seen, k] = cs_k * scale * inverse
            else:
                mean, inverse = means[k], _inverse(variances[k], epsilon)
                dxhat = cs_k * scale
                dvar = -0.5 * inverse**3 * np.sum(dxhat * (xs_k - mean)).real
                dmean = -inverse * np.sum(dxhat)
                dx[seen, k] = (
                    dxhat * inverse
                    + dvar * 2 * ws_k * np.conj(xs_k - mean) / totals[k]
                    + dmean * ws_k / totals[k]
                )
            xhat = (xs_k - mean) * inverse
            for d in group:
                here = home[seen] == d
                dscale[d][k] = np.sum(cs_k[here] * xhat[here])
                dbias[d][k] = np.sum(cs_k[here])
        for d in group:
            dxs[d] = _to_array(dx[home == d], np.shape(xs[d]), axis)
            dscales[d] = dscale[d].reshape(features)
            dbiases[d] = dbias[d].reshape(features)
    return dxs, dscales, dbiases


def finite_differences(loss, x, step=1e-5):
    """Returns the gradient of the real `loss(x)` by central differences."""
    x = wide(x)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        for unit in (1, 1j) if np.iscomplexobj(x) else (1,):
            up, down = x.copy(), x.copy()
            up[index] += unit * step
            down[index] -= unit * step
            slope = (loss(up) - loss(down)) / (2 * step)
            gradient[index] += slope * np.conj(unit)
    return gradient


def assert_close(actual, expected, tolerance):
    """Asserts that all elements agree to `tolerance`, relative to the larger of 1, what
    the element is, and the largest of them."""
    expected = wide(expected)
    size = np.max(np.abs(expected), initial=1.0)
    np.testing.assert_allclose(
        wide(actual), expected, rtol=tolerance, atol=tolerance * size
    )


def wide(x):
    """Returns `x` in float64 or complex128."""
    x = np.asarray(x)
    kind = np.complex128 if np.iscomplexobj(x) else np.float64
    return x.astype(kind)


def feature_axes(axis, ndim):
    """Returns the axes as a sorted list of numbers from 0."""
    return sorted(a % ndim for a in np.atleast_1d(axis).tolist())


def _feature_shape(x, axis):
    return tuple(np.shape(x)[a] for a in feature_axes(axis, np.ndim(x)))


def _to_rows(x, axis):
    """Returns `x` as [what a channel saw, channels]."""
    features = feature_axes(axis, x.ndim)
    rest = [a for a in range(x.ndim) if a not in features]
    seen = int(np.prod([x.shape[a] for a in rest]))
    channels = int(np.prod([x.shape[a] for a in features]))
    return np.transpose(x, rest + features).reshape(seen, channels)


def _to_array(rows, shape, axis):
    """Returns the array of `shape` of which `_to_rows` gives `rows`."""
    features = feature_axes(axis, len(shape))
    order = [a for a in range(len(shape)) if a not in features] + features
    moved = rows.reshape([shape[a] for a in order])
    return np.transpose(moved, np.argsort(order))


def _all_rows(xs, masks, axis):
    masks = [None] * len(xs) if masks is None else masks
    rows, weights = [], []
    for x, mask in zip(xs, masks, strict=True):
        rows.append(_to_rows(wide(x), axis))
        weights.append(_to_rows(_spread(mask, np.shape(x), axis), axis))
    return rows, weights


def _spread(mask, shape, axis):
    """Returns a mask of any shape allowed as weights of the shape of x."""
    if mask is None:
        return np.ones(shape)
    mask = np.asarray(mask).astype(np.float64)
    features = feature_axes(axis, len(shape))
    if mask.ndim == len(shape) - len(features):
        for a in features:
            mask = np.expand_dims(mask, a)
    assert mask.ndim in (0, len(shape)), "a mask of this rank is refused"
    return np.broadcast_to(mask, shape)


def _groups(groups, devices):
    return [list(range(devices))] if groups is None else groups


def _moments(x, w):
    """Returns total, mean and var of each column of `x` [n, C], weighted by `w`."""
    channels = x.shape[1]
    totals, variances = np.zeros(channels), np.zeros(channels)
    means = np.zeros(channels, x.dtype)
    for k in range(channels):
        seen = w[:, k] != 0
        xs, ws = x[seen, k], w[seen, k]
        totals[k] = np.sum(ws)
        if totals[k] > 0:
            with np.errstate(invalid="ignore", over="ignore"):
                means[k] = np.sum(ws * xs) / totals[k]
                variances[k] = np.sum(ws * np.abs(xs - means[k]) ** 2) / totals[k]
    return totals, means, variances


def _inverse(var, epsilon):
    return 0.0 if var + epsilon == 0 else 1 / np.sqrt(var + epsilon)


def _normalize(x, w, mean, var, params, epsilon):
    y = np.zeros(x.shape, np.result_type(x, mean, *map(wide, params.values())))
    for k in range(x.shape[1]):
        seen = w[:, k] != 0
        with np.errstate(invalid="ignore"):
            y[seen, k] = (x[seen, k] - mean[k]) * _inverse(var[k], epsilon)
            if "scale" in params:
                y[seen, k] *= np.ravel(wide(params["scale"]))[k]
            if "bias" in params:
                y[seen, k] += np.ravel(wide(params["bias"]))[k]
    return y


def _absorb(state, batch, momentum, debias, unbiased, skip_nonfinite):
    """Returns the state of one device after one batch."""
    new = {key: wide(value).copy() for key, value in state.items()}
    flat = {key: value.reshape(-1) for key, value in new.items()}
    for k, (total, mean, var) in enumerate(zip(*batch, strict=True)):
        if total == 0:
            continue
        if skip_nonfinite and not (np.isfinite(mean) and np.isfinite(var)):
            continue
        if unbiased and total > 1:
            var = var * total / (total - 1)
        count = flat["count"][k] if momentum is None or debias else None
        if momentum is None:
            keep, rate = count / (count + 1), 1 / (count + 1)
        elif debias:
            weights = momentum ** np.arange(1, count + 1)
            keep, rate = weights.sum() / (1 + weights.sum()), 1 / (1 + weights.sum())
        else:
            keep, rate = momentum, 1 - momentum
        flat["mean"][k] = keep * flat["mean"][k] + rate * mean
        flat["var"][k] = keep * flat["var"][k] + rate * var
        if momentum is None or debias:
            flat["count"][k] += 1
    return new
