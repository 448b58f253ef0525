"""Compositions in float64 NumPy: references made of references.

All have the signature of `oracle.bn_apply_devices` up to `groups`, and pass on what
else they are given: `momentum` where a call has one of its own.
"""

import numpy as np
import oracle
import oracle_variants


def on_last_axis(reference, axis):
    """Returns `reference`, which has features last, with features along `axis`."""

    def apply(params, states, xs, train, *, masks=None, groups=None, **rest):
        masks = [None] * len(xs) if masks is None else masks
        moved = [_features_last(oracle.wide(x), axis) for x in xs]
        spread = [
            _features_last(oracle._spread(mask, np.shape(x), axis), axis)
            for x, mask in zip(xs, masks, strict=True)
        ]
        flat = {k: np.ravel(v) for k, v in params.items()}
        states = [{k: (np.ravel(v), np.shape(v)) for k, v in s.items()} for s in states]
        ys, news = reference(
            flat,
            [{k: v for k, (v, _) in s.items()} for s in states],
            moved,
            train,
            masks=spread,
            groups=groups,
            **rest,
        )
        ys = [_features_back(y, np.shape(x), axis) for x, y in zip(xs, ys, strict=True)]
        pairs = zip(states, news, strict=True)
        return ys, [{k: np.reshape(n[k], s[k][1]) for k in s} for s, n in pairs]

    return apply


def _order(ndim, axis):
    features = oracle.feature_axes(axis, ndim)
    rest = [a for a in range(ndim) if a not in features]
    return rest, features


def _features_last(x, axis):
    rest, features = _order(x.ndim, axis)
    shape = [x.shape[a] for a in rest]
    channels = int(np.prod([x.shape[a] for a in features]))
    return np.transpose(x, rest + features).reshape(*shape, channels)


def _features_back(y, shape, axis):
    rest, features = _order(len(shape), axis)
    order = rest + features
    return np.transpose(y.reshape([shape[a] for a in order]), np.argsort(order))


def ghosts(reference, cut, axis):
    """Returns `reference` of runs of examples; `cut(N)` gives their sizes.

    Each device is by itself. Its state absorbs all of its runs as one batch.
    """

    def apply(params, states, xs, train, *, masks=None, groups=None, **rest):
        if not train:
            return reference(params, states, xs, train, masks=masks, **rest)
        masks = [None] * len(xs) if masks is None else masks
        ys, news = [], []
        for state, x, mask in zip(states, xs, masks, strict=True):
            whole, new = reference(params, [state], [x], True, masks=[mask], **rest)
            news += new
            x = oracle.wide(x)
            along = oracle_variants.example_axis(x.ndim, axis)
            if along is None or not x.shape[along]:
                ys += whole
                continue
            weights = oracle._spread(mask, x.shape, axis)
            ends = np.cumsum(cut(x.shape[along]))[:-1]
            parts = []
            for part, inside in zip(
                np.split(x, ends, along), np.split(weights, ends, along), strict=True
            ):
                given = params, [state], [part], True
                parts += reference(*given, masks=[inside], **rest)[0]
            ys.append(np.concatenate(parts, along))
        return ys, news

    return apply


def domains(reference, count, axis, own=False):
    """Returns `reference` of each of `count` domains, whose states are stacked.

    `domain`, one entry a device, is an index or one an example. What has none of them
    is normalized by itself in training, and in evaluation by the statistics of all.
    """

    def apply(
        params, states, xs, train, *, masks=None, groups=None, domain=None, **rest
    ):
        masks = [None] * len(xs) if masks is None else masks
        indices = [
            _each_element(np.asarray(d), np.shape(x), axis)
            for d, x in zip(domain, xs, strict=True)
        ]
        weights = [
            oracle._spread(m, np.shape(x), axis) for m, x in zip(masks, xs, strict=True)
        ]
        ys = [np.zeros(np.shape(x), oracle.wide(x).dtype) for x in xs]
        stacked = [{k: [] for k in state} for state in states]
        for d in range(count + 1):
            unseen = d == count
            pairs = list(zip(indices, weights, strict=True))
            outside = [np.where((i >= 0) & (i < count), 0.0, w) for i, w in pairs]
            inside = outside if unseen else [np.where(i == d, w, 0.0) for i, w in pairs]
            here = [
                pooled(s) if unseen else {k: oracle.wide(v)[d] for k, v in s.items()}
                for s in states
            ]
            affine = params
            if own:
                wide = {k: oracle.wide(v) for k, v in params.items()}
                affine = {k: v.mean(0) if unseen else v[d] for k, v in wide.items()}
            some, news = reference(
                affine, here, xs, train, masks=inside, groups=groups, **rest
            )
            parts = zip(ys, inside, some, strict=True)
            ys = [y + np.where(w != 0, part, 0) for y, w, part in parts]
            for new, stack in zip(news, stacked, strict=True):
                for key in () if unseen else new:
                    stack[key].append(new[key])
        return ys, [{k: np.stack(v) for k, v in s.items()} for s in stacked]

    return apply


def _each_element(domain, shape, axis):
    along = oracle_variants.example_axis(len(shape), axis)
    size = [n if a == along else 1 for a, n in enumerate(shape)]
    return np.broadcast_to(domain if not domain.ndim else domain.reshape(size), shape)


def pooled(state):
    """Returns the state of all domains: each weighs the same, if it absorbed at all."""
    state = {k: oracle.wide(v) for k, v in state.items()}
    out = {k: v.max(0) for k, v in state.items() if not np.iscomplexobj(v)}
    out |= {k: state[k].mean(0) for k in ("scale", "bias") if k in state}
    if {"mean", "var"} <= set(state):
        seen = np.ones(state["var"].shape)
        if "count" in state:
            any_seen = state["count"].sum(0) > 0
            seen = np.where(any_seen, state["count"] > 0, 1.0)
        share = seen / seen.sum(0)
        out["mean"] = (share * state["mean"]).sum(0)
        apart = np.abs(state["mean"] - out["mean"]) ** 2
        out["var"] = (share * (state["var"] + apart)).sum(0)
    return out


def splits(reference, num_splits, axis):
    """Returns the `domains` reference whose domains are parts of a batch by place."""

    def apply(params, states, xs, train, *, masks=None, groups=None, **rest):
        along = oracle_variants.example_axis(np.ndim(xs[0]), axis)
        sizes = [np.shape(x)[along] for x in xs]
        places = [np.arange(n) // max(n // num_splits, 1) for n in sizes]
        domain = places if train else [0] * len(xs)
        given = {"masks": masks, "groups": groups, "domain": domain}
        return reference(params, states, xs, train, **given, **rest)

    return apply


def shuffles(reference):
    """Returns `reference`, to which order means nothing, with a count of its steps."""

    def apply(params, states, xs, train, **rest):
        inner = [{k: v for k, v in s.items() if k != "shuffles"} for s in states]
        ys, news = reference(params, inner, xs, train, **rest)
        pairs = zip(states, news, strict=True)
        return ys, [{**new, "shuffles": s["shuffles"] + train} for s, new in pairs]

    return apply


def held(reference):
    """Returns `reference` in evaluation, with the scale and bias in the state if any.

    Whatever `train` says: the reference of `frozen_norm`.
    """

    def apply(params, states, xs, train, *, masks=None, groups=None, **_):
        affine = {k: states[0][k] for k in ("scale", "bias") if k in states[0]}
        ys, _ = reference(affine or params, states, xs, False, masks=masks)
        return ys, list(states)

    return apply


def mixed(plain, prior_count, adapt_mean, adapt_var, epsilon):
    """Returns the reference of `adaptive_norm`, features last; `plain` is of training.

    Schneider et al. 2020, equation 1: in evaluation n examples of a batch count beside
    the N that the running statistics stand for.
    """

    def apply(params, states, xs, train, *, masks=None, groups=None, **rest):
        if train:
            given = params, states, xs, train
            return plain(*given, masks=masks, groups=groups, **rest)
        rows, weights = oracle._all_rows(xs, masks, -1)
        ys = [None] * len(xs)
        for group in oracle._groups(groups, len(xs)):
            totals, *batch = oracle._moments(
                np.concatenate([rows[i] for i in group]),
                np.concatenate([weights[i] for i in group]),
            )
            for i in group:
                n = totals / max(int(np.prod(np.shape(xs[i])[1:-1])), 1)
                both = np.where(n + prior_count > 0, n + prior_count, 1)
                share = n / both
                # Not 1 - share: a variance may be far below the running one.
                kept = 1 - share if np.isinf(prior_count) else prior_count / both
                kept = np.where(n + prior_count > 0, kept, 1)
                running = [np.ravel(oracle.wide(states[i][k])) for k in ("mean", "var")]
                mean, var = (
                    kept * old + share * new if adapts else old
                    for adapts, new, old in zip(
                        (adapt_mean, adapt_var), batch, running, strict=True
                    )
                )
                y = oracle._normalize(rows[i], weights[i], mean, var, params, epsilon)
                ys[i] = oracle._to_array(y, np.shape(xs[i]), -1)
        return ys, list(states)

    return apply


def untouched(axis):
    """Returns the reference of `no_norm`."""

    def apply(params, states, xs, train, *, masks=None, groups=None, **_):
        masks = [None] * len(xs) if masks is None else masks
        ys = []
        for x, mask in zip(xs, masks, strict=True):
            weights = oracle._spread(mask, np.shape(x), axis)
            y = np.where(weights != 0, oracle.wide(x), 0)
            shape = [n if a in oracle.feature_axes(axis, y.ndim) else 1
                     for a, n in enumerate(y.shape)]  # fmt: skip
            for key, fold in (("scale", np.multiply), ("bias", np.add)):
                if key in params:
                    y = fold(y, oracle.wide(params[key]).reshape(shape))
            ys.append(np.where(weights != 0, y, 0))
        return ys, list(states)

    return apply
