"""Training loops as users write them: ours, a plain Flax loop, eager torch.

Each trains the same network with the same optimizer on the same rows, and is a
`Trainer`: `advance(rows)` takes one step for each row of indices and waits for the last
one; `accuracy()` is that of the test split with the running statistics.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import _peers as peers
from jaxbn import Norm, bn_init
from jaxbn.data import Dataset, eval_indices, num_batches, to_float
from jaxbn.models import create_model
from jaxbn.training import TrainConfig
from jaxbn.training._arms import create_arm
from jaxbn.training._metrics import averages, no_metrics
from jaxbn.training._parallel import Parallel, put


class Trainer(NamedTuple):
    """A loop in the middle of training.

    Attributes:
        advance: takes the steps of rows of indices, [steps, B].
        accuracy: of the test split.
    """

    advance: Callable[[np.ndarray], None]
    accuracy: Callable[[], float]


def of_jaxbn(config: TrainConfig, dataset: Dataset) -> Trainer:
    """Returns the loop of `train.py`, whose data is on the device."""
    parallel = Parallel("jit", tuple(jax.devices()[:1]))
    steps = num_batches(len(dataset.train.labels), config.batch_size, drop_last=True)
    arm, state = create_arm(config, parallel, dataset, "batch", steps)
    data, test = (put(parallel, part) for part in (dataset.train, dataset.test))
    held = [put(parallel, state), put(parallel, no_metrics())]

    def advance(rows):
        ends = np.int32(0), np.int32(len(rows))
        held[:] = arm.train(*held, data, put(parallel, rows), *ends)
        jax.block_until_ready(held)

    def accuracy():
        rows, mask = eval_indices(len(dataset.test.labels), config.batch_size)
        population = held[0].params, held[0].batch_stats
        sums = arm.evaluate(*population, test, rows, mask)
        return averages(jax.device_get(sums), "classification")["accuracy"]

    return Trainer(advance, accuracy)


def of_flax(config: TrainConfig, dataset: Dataset) -> Trainer:
    """Returns a loop that calls a jitted step with each batch, of Flax's own norm."""
    from flax import linen as nn

    def apply(params, state, x, train, **unused):
        options = {"momentum": config.bn_momentum, "epsilon": config.bn_epsilon}
        layer = nn.BatchNorm(not train, **options)
        variables = {"params": params, "batch_stats": state}
        y, new = layer.apply(variables, x, mutable=["batch_stats"])
        return y, new["batch_stats"]

    model = create_model(config.model, dataset.num_classes, Norm(bn_init, apply))
    optimizer = optax.sgd(config.learning_rate, config.momentum, nesterov=True)
    images, labels = standardized(dataset, "train")
    variables = jax.jit(model.init, static_argnums=2)(
        jax.random.key(0), images[:2], False
    )
    params, stats = variables["params"], variables["batch_stats"]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry, images, labels):
        params, stats, moved = carry

        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            logits, new = model.apply(variables, images, True, mutable=["batch_stats"])
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return each.mean(), new["batch_stats"]

        grads, stats = jax.grad(loss, has_aux=True)(params)
        updates, moved = optimizer.update(grads, moved, params)
        return optax.apply_updates(params, updates), stats, moved

    held = [(params, stats, optimizer.init(params))]

    def advance(rows):
        for row in rows:
            held[0] = step(held[0], images[row], labels[row])
        jax.block_until_ready(held)

    predict = jax.jit(functools.partial(model.apply, train=False))

    def accuracy():
        variables = {"params": held[0][0], "batch_stats": held[0][1]}
        images, labels = standardized(dataset, "test")
        return float(jnp.mean(predict(variables, images).argmax(-1) == labels))

    return Trainer(advance, accuracy)


def of_torch(config: TrainConfig, dataset: Dataset) -> Trainer:
    """Returns an eager loop."""
    import torch

    images, labels = map(torch.from_numpy, standardized(dataset, "train"))
    tested, expected = map(torch.from_numpy, standardized(dataset, "test"))
    images, tested = images.permute(0, 3, 1, 2), tested.permute(0, 3, 1, 2)
    model = torch_models()[config.model](images.shape[1:], dataset.num_classes)
    for layer in model:
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            layer.eps, layer.momentum = config.bn_epsilon, 1 - config.bn_momentum
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate, config.momentum, nesterov=True
    )
    loss = torch.nn.CrossEntropyLoss()

    def advance(rows):
        model.train()
        for row in torch.from_numpy(rows.astype(np.int64)):
            optimizer.zero_grad()
            loss(model(images[row]), labels[row]).backward()
            optimizer.step()

    def accuracy():
        model.eval()
        with torch.no_grad():
            return (model(tested).argmax(-1) == expected).float().mean().item()

    return Trainer(advance, accuracy)


def torch_models() -> dict[str, Callable[..., Any]]:
    """Returns our mlp and convnet as torch modules, by name.

    Torch pads strided convolutions by a pixel on each side, ours on one.
    """
    from torch import nn

    def mlp(shape, classes):
        sizes, layers = [int(np.prod(shape)), 64, 128], []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], classes))

    def convnet(shape, classes):
        sizes, layers = [shape[0], 16, 32, 64], []
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            conv = nn.Conv2d(a, b, 3, stride=2 if i else 1, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(b), nn.ReLU()]
        flat = 64 * (-(-shape[1] // 4)) * (-(-shape[2] // 4))
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, classes))

    return {"mlp": mlp, "convnet": convnet}


def standardized(dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inputs as a loop over NumPy batches has them, and the labels."""
    inputs, labels = getattr(dataset, split)
    inputs = np.array(to_float(inputs, dataset.mean, dataset.std))
    return inputs, labels.astype(np.int64)


def trainers(config: TrainConfig, dataset: Dataset) -> dict[str, Trainer]:
    """Returns the loops there are for a model, by library."""
    found = {"jaxbn": of_jaxbn(config, dataset), "flax": of_flax(config, dataset)}
    if peers.installed("torch") and config.model in torch_models():
        found["torch"] = of_torch(config, dataset)
    return found
