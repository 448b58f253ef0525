"""Pairs: a net that is asked for the pixels of the image beside the one it sees.

Nothing in an image tells them; statistics over the two of them do.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxbn import batch_norm, group_norm
from jaxbn.base import Array, Norm
from jaxbn.data import Split
from jaxbn.experiments._images import Images
from jaxbn.experiments._measure import logits, precise
from jaxbn.experiments._runs import Loss, Runs, axis_of, fit, start
from jaxbn.experiments._samplers import at_random
from jaxbn.models import create_model
from jaxbn.training._parallel import Parallel

PLAIN = batch_norm()


class Task(NamedTuple):
    """Images to learn, in batches that several devices may share."""

    images: Images
    seeds: np.ndarray
    batch: int
    parallel: Parallel | None

    def fit(self, loss: Loss, model: Any, epochs: int, rate: float) -> Runs:
        """Returns the runs after some epochs of Adam."""
        inputs, labels = self.images.train
        optimizer = optax.adam(rate)
        runs, _ = fit(
            loss,
            start(model, inputs[:2], self.seeds, optimizer),
            self.images.train,
            at_random(self.seeds, len(labels), self.batch),
            range(epochs),
            optimizer=optimizer,
            parallel=self.parallel,
        )
        return runs


def swapped(x: Any) -> Any:
    """Returns pixels [N, P] of pairs, each of the other.

    Example:
        >>> swapped(np.arange(4).reshape(4, 1)).ravel()
        array([1, 0, 3, 2])
    """
    return x.reshape(-1, 2, x.shape[-1])[:, ::-1].reshape(x.shape)


def guessing(model: Any) -> Loss:
    """Returns the mean squared error of the other's pixels."""

    def loss(params: Any, stats: Any, batch: Split, key: Array) -> tuple[Array, Any]:
        del key
        variables = {"params": params, "batch_stats": stats}
        inputs = jnp.asarray(batch.inputs)
        out, new = model.apply(variables, inputs, True, mutable=["batch_stats"])
        other = swapped(inputs.reshape(len(inputs), -1))
        return jnp.mean((out - other) ** 2), new.get("batch_stats", stats)

    return loss


def learn_pairs(
    task: Task, hidden: tuple[int, ...], epochs: int, sizes: tuple[int, ...]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Returns errors over that of the mean image, [S], and some pictures of pairs.

    Pictures are [4, M, H, W], for `pictures_of`: inputs, the others, what is said of
    them with mini-batch statistics, and with those of the population.
    """
    axis = axis_of(task.parallel)
    train, test = (np.asarray(split.inputs) for split in task.images[:2])
    flat = test.reshape(len(test), -1)
    mean = train.reshape(len(train), -1).mean(0)
    baseline = ((flat - mean) ** 2).mean()

    def guesser(norm: Norm) -> Any:
        return create_model("mlp", flat.shape[1], norm, hidden=hidden)

    found, pictures = {}, {}
    for together in sizes:
        groups = {"normalization_batch_size": together}
        norm = batch_norm(**groups, axis_name=axis) if together else group_norm(8)
        whole = guesser(batch_norm(**groups) if together else norm)
        model = guesser(norm)
        runs = task.fit(guessing(model), model, epochs, 2e-3)
        stats = precise(guesser(PLAIN), runs.params, runs.batch_stats, train)
        judged = guesser(PLAIN) if together else whole
        said = (
            logits(whole, runs.params, stats, test, train=True, batch=task.batch),
            logits(judged, runs.params, stats, test),
        )
        errors = [
            np.mean((np.asarray(one) - swapped(flat)) ** 2, (1, 2)) for one in said
        ]
        found[str(together) if together else "group norm"] = {
            "mini-batch": errors[0] / baseline,
            "population": errors[1] / baseline,
        }
        if together == 2:
            rows = [
                flat[:8],
                swapped(flat)[:8],
                *(np.asarray(one[0, :8]) for one in said),
            ]
            whole_rows = np.stack(rows).reshape(4, 8, *test.shape[1:])
            pictures = as_text(
                (whole_rows * task.images.std + task.images.mean)[..., 0]
            )
    return found, pictures


def as_text(pictures: np.ndarray) -> dict[str, Any]:
    """Returns pictures on [0, 1] as few letters: their shape, and bytes in hex."""
    gray = np.nan_to_num(255 * np.clip(pictures, 0, 1)).round().astype(np.uint8)
    return {"shape": gray.shape, "gray": gray.tobytes().hex()}


def pictures_of(text: dict[str, Any]) -> np.ndarray:
    """Returns pictures on [0, 255].

    Example:
        >>> pictures_of(as_text(np.array([[0.0, 0.2, 1.0]])))
        array([[  0,  51, 255]], dtype=uint8)
    """
    gray = np.frombuffer(bytes.fromhex(text["gray"]), np.uint8)
    return gray.reshape(np.asarray(text["shape"]).tolist())
