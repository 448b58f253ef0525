"""An observer: the diagnosis of drift as something to call in any loop."""

from collections.abc import Callable
from typing import Any

from jaxbn._values import check_function, is_count, shown
from jaxbn.diagnostics._drift import Drift
from jaxbn.diagnostics._measure_drift import measure_drift
from jaxbn.diagnostics._report import drift_table
from jaxbn.tree._watch import check_kind


class Diagnose:
    """Looks at the statistics of a model every so many steps, and says what it sees.

    `observer(step, variables, *args, **kwargs)` returns the drifts where it looks and
    None elsewhere; the forward pass is compiled once.

    Args:
        model: a linen or nnx module.
        every: steps between looks; the first is at step 0.
        say: what gets the table, `print` by default; None to keep quiet.

    Further arguments of a call go to `measure_drift`, `precise=` among them.

    Attributes:
        history: (step, drifts) of each look.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> model = nn.BatchNorm(use_running_average=True)
        >>> x = jnp.array([[4.0], [6.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> observer = Diagnose(model, every=10, say=None)
        >>> for step in range(11):
        ...     drifts = observer(step, variables, x)
        >>> [step for step, _ in observer.history]
        [0, 10]
    """

    def __init__(
        self,
        model: Any,
        *,
        every: int = 100,
        say: Callable[[str], object] | None = print,
    ):
        check_kind(model)
        if say is not None:
            check_function("say", say, "of a text, or None to keep quiet")
        if not is_count(every):
            raise ValueError(
                f"every is {shown(every)}, expected a number of steps from 1 on; 1 "
                "looks at each"
            )
        self.model, self.every, self.say = model, every, say
        self.history: list[tuple[int, tuple[Drift, ...]]] = []

    def __call__(
        self, step: int, variables: Any, *args: Any, **kwargs: Any
    ) -> tuple[Drift, ...] | None:
        """Returns what `measure_drift` finds, every so many steps."""
        if step % self.every:
            return None
        drifts = measure_drift(self.model, variables, *args, **kwargs)
        self.history.append((int(step), drifts))
        if self.say is not None:
            self.say(f"step {step}\n{drift_table(drifts)}")
        return drifts
