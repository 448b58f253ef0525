"""Steps by hand: what one of them does to a state, and what it is told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxbn.linen
from jaxbn.data import augment_crop_flip, to_float
from jaxbn.training._metrics import no_metrics
from jaxbn.training._state import create_state, own_copies
from jaxbn.training._step import (
    Job,
    evaluate,
    is_finite,
    loss_of,
    measure_population,
    prepare_step,
    read_labels,
    train_at,
    train_step,
    train_steps,
)

RNG = np.random.default_rng(0)
X = RNG.normal(1.0, 2.0, (12, 3)).astype(np.float32)
LABELS = RNG.integers(0, 4, 12).astype(np.int32)
MEAN, STD = np.float32([1.0, 0.0, 2.0]), np.float32([2.0, 1.0, 0.5])
IMAGES = RNG.normal(size=(6, 8, 8, 3)).astype(np.float32)
SHARED = "devices"


class Net(nn.Module):
    """One layer, with a batch norm in front of it or without."""

    num_outputs: int = 4
    norm: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask=None, domain=None):
        x = x.reshape(len(x), -1)
        if self.norm:
            layer = jaxbn.linen.BatchNorm(momentum=0.5, axis_name=self.axis_name)
            x = layer(x, not train, mask=mask)
        x = nn.Dense(self.num_outputs)(x)
        return x if domain is None else x + domain[:, None]


def job_of(**options):
    shared = options.get("axis_name")
    model = Net(norm=options.pop("norm", True), axis_name=shared)
    job = Job(model, optax.sgd(0.5), "classification", MEAN, STD, 0.0, False, shared)
    return job._replace(**options)


def state_of(job, x=X):
    return create_state(job.model, job.optimizer, x[:2], 3)


def assert_near(a, b, tolerance=1e-5):
    def near(a, b):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    jax.tree.map(near, a, b)


def losses_by_hand(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def test_a_step_is_one_of_gradient_descent_on_the_mean_loss():
    job = job_of()
    state = state_of(job)
    new, sums = train_step(job, state, (X, LABELS))
    x = (X - MEAN) / STD

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, new = job.model.apply(variables, x, True, mutable=["batch_stats"])
        return losses_by_hand(logits, LABELS).mean(), (logits, new["batch_stats"])

    grads, (logits, stats) = jax.grad(loss, has_aux=True)(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, grads)
    assert_near(new.params, expected)
    assert_near(new.batch_stats, stats)
    assert_near(sums.loss, losses_by_hand(logits, LABELS).sum())
    assert sums.correct == np.sum(np.argmax(logits, -1) == LABELS)
    assert (sums.num, sums.bad) == (12, 0)
    assert new.step == 1 and new.step.dtype == jnp.int32
    np.testing.assert_array_equal(new.key, state.key)


@pytest.mark.parametrize("apart", [False, True])
def test_devices_that_share_a_batch_take_the_step_of_one(apart):
    job = job_of(norm=not apart)
    state = state_of(job)
    alone, sums = train_step(job, state, (X, LABELS))
    shared = job_of(norm=not apart, axis_name=SHARED, apart=apart)
    step = functools.partial(train_step, shared)
    halves = X.reshape(2, 6, 3), LABELS.reshape(2, 6)
    news, found = jax.vmap(step, (None, 0), axis_name=SHARED)(state, halves)
    for device in range(2):
        assert_near(jax.tree.map(lambda a, d=device: a[d], news), alone)
        assert_near(jax.tree.map(lambda a, d=device: a[d], found), sums)


def test_a_number_that_is_not_finite_on_one_device_stops_all_that_share_a_batch():
    shared = job_of(axis_name=SHARED, apart=True)
    tree = {"a": jnp.array([[1.0, 2.0], [jnp.inf, 1.0]]), "b": jnp.ones(2)}
    found = jax.vmap(functools.partial(is_finite, shared), axis_name=SHARED)(tree)
    np.testing.assert_array_equal(found, [False, False])
    tree["a"] = jnp.ones((2, 2))
    found = jax.vmap(functools.partial(is_finite, shared), axis_name=SHARED)(tree)
    np.testing.assert_array_equal(found, [True, True])
    for bad in ({"a": jnp.ones(2), "b": jnp.nan}, {"a": jnp.array([1.0, jnp.nan])}):
        assert not is_finite(job_of(), bad)


def test_steps_are_those_of_a_part_of_the_epoch_in_its_order():
    job, rows = job_of(), jnp.array([[0, 1, 2], [11, 4, 3], [5, 5, 7], [8, 9, 10]])
    state = state_of(job)
    found = train_steps(job, state, no_metrics(), (X, LABELS), rows, 1, 3)
    by_hand = state, no_metrics()
    for row in rows[1:3]:
        by_hand = train_at(job, *by_hand, (X[row], LABELS[row]), None, 0)
    assert_near(found, by_hand)
    assert found[0].step == 2 and found[1].num == 6
    same = train_steps(job, state, no_metrics(), (X, LABELS), rows, 2, 2)
    assert_near(same, (state, no_metrics()), 0)


def test_labels_of_domains_are_told_apart():
    labels = jnp.array([0, 3, 4, 7, 9])
    classes, told = read_labels(job_of(num_domains=3, by_domain=True), labels)
    np.testing.assert_array_equal(classes, [0, 3, 0, 3, 1])
    np.testing.assert_array_equal(told["domain"], [0, 0, 1, 1, 2])
    classes, told = read_labels(job_of(num_domains=2), labels[:4])
    np.testing.assert_array_equal(classes, [0, 3, 0, 3])
    assert told == {}
    classes, told = read_labels(job_of(by_domain=True), labels)
    np.testing.assert_array_equal(classes, labels)
    np.testing.assert_array_equal(told["domain"], 0)


def test_images_are_augmented_by_the_key_of_the_run_and_the_step():
    job = job_of(augment=True)
    state = state_of(job_of(), IMAGES)
    batch = IMAGES, np.arange(6)

    def of_step(step, job=job, batch=batch):
        return prepare_step(job, state._replace(step=step), batch)[0]

    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 7)
    plain = to_float(IMAGES, MEAN, STD)
    assert_near(of_step(7), augment_crop_flip(key, plain))
    assert np.abs(of_step(8) - of_step(7)).max() > 0.1
    assert_near(of_step(7, job_of()), plain)

    shared = job_of(augment=True, axis_name=SHARED)
    halves = IMAGES.reshape(2, 3, 8, 8, 3), np.arange(6).reshape(2, 3)
    by_two = jax.vmap(lambda *b: of_step(7, shared, b), axis_name=SHARED)(*halves)
    assert_near(by_two.reshape(IMAGES.shape), of_step(7))


@pytest.mark.parametrize("by_batch", [False, True])
def test_evaluation_sums_over_what_the_mask_counts(by_batch):
    job = job_of(label_smoothing=0.3)  # Which has no say here.
    state = state_of(job)
    params = state.params
    stats = jax.tree.map(lambda a: a + 0.5, state.batch_stats)
    rows = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 0, 0]])
    mask = np.array([[1] * 5, [1, 1, 1, 0, 0]], bool)
    found = evaluate(job, by_batch, params, stats, (X, LABELS), rows, mask)
    loss = correct = 0
    for row, counted in zip(rows, mask, strict=True):
        x, labels = (X[row][counted] - MEAN) / STD, LABELS[row][counted]
        variables = {"params": params, "batch_stats": stats}
        logits, _ = job.model.apply(variables, x, by_batch, mutable=["batch_stats"])
        loss += losses_by_hand(logits, labels).sum()
        correct += np.sum(np.argmax(logits, -1) == labels)
    assert_near(tuple(found.sums), (loss, correct, 8, 0), 1e-4)
    assert found.in_top5 is None
    one = evaluate(job, by_batch, params, stats, (X, LABELS), None, np.ones((1, 12)))
    assert one.sums.num == 12


def test_devices_evaluate_together():
    job, shared = job_of(), job_of(axis_name=SHARED)
    state = state_of(job)
    given = state.params, state.batch_stats
    ones = np.ones((1, 12), bool)
    alone = evaluate(job, False, *given, (X, LABELS), np.arange(12)[None], ones)
    rows, mask = np.arange(12).reshape(2, 1, 6), np.ones((2, 1, 6), bool)
    step = functools.partial(evaluate, shared, False, *given, (X, LABELS))
    found = jax.vmap(step, axis_name=SHARED)(rows, mask)
    for device in range(2):
        assert_near(jax.tree.map(lambda a, d=device: a[d], found), alone)


def test_the_mean_loss_of_a_batch_is_smoothed_as_in_training():
    job, logits = job_of(label_smoothing=0.1), jnp.asarray(RNG.normal(size=(5, 4)))
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS[:5], 4), 0.1)
    expected = optax.softmax_cross_entropy(logits, targets).mean()
    assert_near(loss_of(job, logits, LABELS[:5]), expected)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("augment", [False, True])
def test_population_moments_are_those_of_all_batches(devices, augment):
    job = job_of(augment=augment, axis_name=SHARED if devices > 1 else None)
    state = state_of(job_of(), IMAGES)
    rows = np.array([[0, 1, 2], [3, 4, 5]])
    split = IMAGES, np.arange(6)
    step = functools.partial(measure_population, job, state.params, state.batch_stats)
    if devices == 1:
        found = step(split, rows)
    else:
        found = jax.vmap(lambda r: step((IMAGES, np.arange(6)), r), axis_name=SHARED)(
            rows[:, None]
        )
        found = jax.tree.map(lambda a: a[1], found)
    x = to_float(IMAGES, MEAN, STD)
    if augment:
        steps = [(0, 0), (1, 0)] if devices == 1 else [(0, 0), (0, 3)]
        keys = [jax.random.fold_in(jax.random.key(0), step) for step, _ in steps]
        parts = [
            augment_crop_flip(key, x[row], first=first)
            for key, row, (_, first) in zip(keys, rows, steps, strict=True)
        ]
        x = jnp.concatenate(parts)
    x = np.reshape(x, (6, -1))
    (moments,) = found.values()
    np.testing.assert_array_equal(moments.total, 6)
    assert_near((moments.mean, moments.var), (x.mean(0), x.var(0)))


def test_the_moments_of_one_batch_that_is_given():
    job = job_of()
    state = state_of(job)
    found = measure_population(job, *state[1:3], (X, LABELS), None)
    (moments,) = found.values()
    assert_near(moments.mean, ((X - MEAN) / STD).mean(0))


def test_the_same_seed_gives_the_same_weights_with_and_without_a_norm():
    with_norm, without = (state_of(job_of(norm=norm)) for norm in (True, False))
    assert_near(with_norm.params["Dense_0"], without.params["Dense_0"], 0)
    assert without.batch_stats == {}
    assert_near(with_norm.batch_stats["BatchNorm_0"]["mean"], np.zeros(3), 0)
    assert with_norm.step == 0 and with_norm.step.dtype == jnp.int32
    job = job_of()
    other = create_state(job.model, job.optimizer, X[:2], 4)
    assert np.any(other.key != with_norm.key)
    kernel = other.params["Dense_0"]["kernel"]
    assert np.abs(kernel - with_norm.params["Dense_0"]["kernel"]).max() > 1e-3


def test_devices_go_on_with_their_own_statistics_or_start_from_the_pool():
    pooled = {"bn": {"mean": np.arange(2.0)}}
    own = {"bn": {"mean": np.array([[1.0, 2.0], [3.0, 4.0]])}}
    assert own_copies(pooled, own, 2) is own
    for replicas, devices in ((own, 4), (None, 2), ({}, 3)):
        found = own_copies(pooled, replicas, devices)
        assert_near(found, {"bn": {"mean": np.stack([np.arange(2.0)] * devices)}}, 0)
