"""The claims of `residual_net`, and the errors that they are of."""

from typing import Any

import numpy as np

from jaxbn.experiments._verdicts import Verdict, greater, jointly, less

CHOSEN = "the learning rate and the larger SGD batch were chosen on the seed 0"
"""What had been seen before any claim was judged."""


def errors_of(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns errors [S, NBS]; in test mini-batches as many as in training."""
    own = np.diagonal(np.asarray(found["val_mb"]), axis1=1, axis2=2)
    keys = ("train_mb", "train_pop", "val_pop", "frozen")
    return {"val_mb": own, **{key: np.asarray(found[key]) for key in keys}}


def lags(found: dict[str, Any]) -> list[np.ndarray]:
    """Returns what moving averages cost [S, epochs], with the small and large batch."""
    arms = [found["averages"][str(batch)] for batch in found["batches"]]
    return [np.asarray(arm["moving"]) - arm["precise"] for arm in arms]


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns the claims, in the order of the experiment's docstring."""
    every = [*on_sizes(found), *on_averages(found), *on_statistics(found)]
    return [verdict._replace(changed=CHOSEN) for verdict in every]


def on_sizes(found: dict[str, Any]) -> list[Verdict]:
    """Returns the claims on normalization batch sizes, 1 to 5."""
    errors, largest = errors_of(found), f"NBS {found['sizes'][-1]}"
    train, val, pop = (errors[key] for key in ("train_mb", "val_mb", "val_pop"))
    middle = pop[:, list(found["sizes"]).index(found["middle"])]
    gap = val - train
    return [
        greater(
            "in a residual net the training error is larger at NBS 2 than at "
            f"{largest}",
            train[:, 0],
            train[:, -1],
            source="16.5 and 8.5 %",
        ),
        greater(
            f"in a residual net the generalization gap is larger at {largest} than at "
            "NBS 2",
            gap[:, -1],
            gap[:, 0],
            source="16.3 and 9.5 points",
        ),
        jointly(
            f"in a residual net with population statistics NBS {found['middle']} is "
            "better than at both ends",
            [
                less(f"minus {name}", middle, pop[:, i])
                for name, i in (("NBS 2", 0), (largest, -1))
            ],
            source="23.4 %, and 32.5 and 23.7 %",
        ),
        less(
            "in a residual net at NBS 2 mini-batch statistics are better than "
            "population statistics",
            val[:, 0],
            pop[:, 0],
            source="26.0 and 32.5 %",
        ),
        greater(
            f"in a residual net at {largest} mini-batch statistics are worse than "
            "population statistics",
            val[:, -1],
            pop[:, -1],
            source="24.8 and 23.7 %",
        ),
    ]


def on_averages(found: dict[str, Any]) -> list[Verdict]:
    """Returns the claims on moving averages, 6 and 7."""
    few, many = lags(found)
    small, large = ((lag[:, : lag.shape[1] // 3]).mean(1) for lag in (few, many))
    batches = [f"{batch:,}" for batch in found["batches"]]
    return [
        jointly(
            "in a residual net moving averages are worse than precise early on, more "
            "with the larger batch",
            [
                greater(f"moving minus precise, batches of {batches[1]}", large),
                greater(f"more than with batches of {batches[0]}", large, small),
            ],
            source="52.8 and 39.4 % at epoch 30 of 100, batches of 8,192",
        ),
        less(
            "in a residual net with the larger batch moving averages cost less at the "
            "end than early on",
            many[:, -1],
            large,
            source="24.0 and 23.7 % at the end",
        ),
    ]


def on_statistics(found: dict[str, Any]) -> list[Verdict]:
    """Returns the claims on other statistics than those of training, 8 to 12."""
    errors, largest = errors_of(found), f"NBS {found['sizes'][-1]}"
    frozen, pop = errors["frozen"], errors["val_pop"]
    tested, shift = np.asarray(found["val_mb"]), found["shift"]
    return [
        less(
            "in a residual net at NBS 2 freezing the statistics lowers the error",
            frozen[:, 0],
            pop[:, 0],
            source="from 32.5 to 25.2 %",
        ),
        greater(
            f"in a residual net at {largest} freezing the statistics raises the error",
            frozen[:, -1],
            pop[:, -1],
            source="from 23.7 to 24.5 %",
        ),
        jointly(
            "in a residual net test mini-batches of another size than in training are "
            "worse",
            [
                greater("trained at NBS 2", tested[:, 0, -1], tested[:, 0, 0]),
                greater(f"trained at {largest}", tested[:, -1, 0], tested[:, -1, -1]),
            ],
        ),
        jointly(
            "in a residual net target statistics lower the error under less contrast "
            "and under noise",
            [
                less(kind, shift[kind]["target"], shift[kind]["source"])
                for kind in ("contrast", "noise")
            ],
            source="from 40.8 to 33.1 % and from 64.4 to 52.5 %",
        ),
        greater(
            "in a residual net statistics of low-contrast images raise the error on "
            "clean images",
            shift["clean"]["of contrast"],
            shift["clean"]["source"],
            source="39.7 and 23.4 %",
        ),
    ]
