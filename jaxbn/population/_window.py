"""Windows: how many batches a running average looks back on.

An exponential average weighs the batch of t steps ago by (1 - m) m^t. Its variance is
that of a plain average of (1 + m) / (1 - m) batches, which is what *window* means here.
(The sum of the weights passes 1 - 1/e after about 1 / (1 - m) batches, half of it.)
"""

import math

from jaxbn._values import is_number, shown


def effective_window(momentum: float) -> float:
    """Returns how many batches, weighing the same, average as precisely.

        window = (1 + m) / (1 - m)

    Args:
        momentum: m, the weight of the old value; PyTorch's is 1 - m.

    Returns:
        A number of batches; times their size, how many examples estimate the
        population. 10^3 to 10^4 suffice (Wu and Johnson 2021, table 1).

    Raises:
        ValueError: unless 0 <= momentum < 1.

    Example:
        >>> round(effective_window(0.9)), round(effective_window(0.99))
        (19, 199)
    """
    _check(momentum)
    return (1 + momentum) / (1 - momentum)


def momentum_for_window(window: float) -> float:
    """Returns the momentum whose window is so many batches.

        m = (window - 1) / (window + 1)

    Args:
        window: a number of batches, from 1 (the last one only) on.

    Returns:
        The weight of the old value.

    Raises:
        ValueError: if the window is below 1.

    Example:
        >>> round(momentum_for_window(effective_window(0.9)), 6)
        0.9
    """
    if not is_number(window) or not 1 <= window < math.inf:
        raise ValueError(
            f"window is {shown(window)}, expected at least 1 batch; 1 keeps the last "
            "one only"
        )
    return (window - 1) / (window + 1)


def momentum_for_batch_size(momentum: float, old: float, new: float) -> float:
    """Returns the momentum that forgets as much an example at another batch size.

        m' = m^(new / old)

    Args:
        momentum: m, that was good at the old size.
        old: examples a batch before.
        new: examples a batch now.

    Returns:
        The weight of the old value.

    Raises:
        ValueError: unless 0 <= momentum < 1 and the sizes are positive.

    Example:
        >>> round(momentum_for_batch_size(0.9, old=256, new=512), 6)
        0.81
    """
    _check(momentum)
    if not all(is_number(n) and 0 < n < math.inf for n in (old, new)):
        raise ValueError(
            f"batch sizes are {shown(old)} and {shown(new)}, expected positive numbers "
            "of examples; pass those of one step"
        )
    return momentum ** (new / old)


def _check(momentum: float) -> None:
    if not is_number(momentum) or not 0 <= momentum < 1:
        raise ValueError(
            f"momentum is {shown(momentum)}, expected 0 <= momentum < 1, the weight of "
            "the old value; PyTorch's momentum is 1 - momentum here"
        )
