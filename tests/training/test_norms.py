"""Every norm that `--norm` names trains, with the options it is given."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from jaxbn.data import Split
from jaxbn.models import create_model
from jaxbn.training import ConfigError, TrainConfig, fit
from jaxbn.training._check_config import check_config
from jaxbn.training._norms import create_norm, norm_names, parse_options
from jaxbn.training._optim import average_weights, averaged_weights
from jaxbn.training._report import Report
from jaxbn.training._step import Job, measure_population, read_labels
from jaxbn.training._workdir import open_workdir

# orbax leaves event loops and coroutines behind.
pytestmark = pytest.mark.filterwarnings("ignore")
SHARED = {"momentum": 0.9, "epsilon": 1e-5, "axis_name": None}
SHARED["normalization_batch_size"] = None
NEEDED = {"ghost": {"size": 4}, "group": {"num_groups": 2}}
TINY = TrainConfig(num_epochs=1, train_limit=64, test_limit=20, num_devices=1)
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
X = jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32)


@pytest.mark.parametrize("name", norm_names())
def test_every_name_makes_a_norm(name):
    norm = create_norm(name, **SHARED, **NEEDED.get(name, {}))
    if name == "none":
        assert norm is None
        return
    told = {"domain": jnp.zeros(len(X), int)} if name == "domain" else {}
    y, _ = norm.apply(*norm.init(4), X, True, **told)
    assert y.shape == X.shape


def test_options_reach_the_norm(tmp_path):
    config = dataclasses.replace(
        TINY,
        workdir=str(tmp_path),
        norm="ghost,group",
        norm_options=("ghost.num_groups=4", "group.num_groups=8"),
        eval_stats="precise",
    )
    fit(config)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["norm"] for row in rows] == ["ghost", "group"]
    assert np.isfinite([row["train_loss"] for row in rows]).all()
    assert "test_loss_precise" in rows[0] and "test_loss_precise" not in rows[1]
    best = json.loads((tmp_path / "summary.json").read_text())["best"]
    assert best["score"] == rows[0]["test_accuracy_precise"]
    open_workdir(dataclasses.replace(config, resume=True))  # it is the same run


@pytest.mark.parametrize(("kind", "step"), [("ema", 1), ("precise", 2), ("batch", 3)])
def test_the_best_checkpoint_is_that_of_the_statistics_chosen(kind, step):
    report = types.SimpleNamespace(best={}, config=TrainConfig(eval_stats=kind))
    for i, suffix in enumerate(("", "_precise", "_batch"), 1):
        accuracies = {f"test_accuracy{s}": 0.5 for s in ("", "_precise", "_batch")}
        losses = {f"test_loss{s}": 1.0 for s in ("", "_precise", "_batch")}
        row = {"norm": "batch", "step": i, **losses, **accuracies}
        Report.note_best(report, row | {f"test_accuracy{suffix}": 0.9})
    assert report.best == {"step": step, "score": 0.9}


def test_averaged_weights_are_scored_with_statistics_of_their_own(tmp_path, capsys):
    config = dataclasses.replace(
        TINY,
        workdir=str(tmp_path),
        norm="batch",
        average_decay=0.5,
        diagnose=True,
    )
    fit(config)
    text = (tmp_path / "diagnosis-batch.txt").read_text()
    assert "running statistics against 20 test examples" in text
    assert text.count("not reached") == 0 and "gradient" in text
    assert (tmp_path / "diagnosis-batch.png").stat().st_size > 1000
    assert "stale: " in capsys.readouterr().out
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line)
    kinds = [f"test_loss_averaged{suffix}" for suffix in ("", "_precise", "_batch")]
    assert len({row[kind] for kind in (*kinds, "test_loss_precise")}) == 4


def test_the_average_of_weights():
    optimizer = average_weights(optax.sgd(1.0), 0.5)
    params = average = np.float32(2.0)
    state = optimizer.init(params)
    for steps, grad in enumerate((1.0, -3.0, 0.5)):
        updates, state = optimizer.update(np.float32(grad), state, params)
        params = optax.apply_updates(params, updates)
        keep = min(0.5, (1 + steps) / (10 + steps))
        average = keep * average + (1 - keep) * (2 - sum((1.0, -3.0, 0.5)[: steps + 1]))
    np.testing.assert_allclose(averaged_weights(state), average, rtol=1e-6)
    assert averaged_weights(optax.sgd(1.0).init(params)) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "ghost.size",
            r"has 'ghost.size', expected NORM.OPTION=VALUE .*; for",
        ),
        ("gost.size=3", r"norm_options has 'gost.size=3', expected .* batch, renorm"),
        (
            "ghost.size=x",
            r"has 'ghost.size=x', .* literal .*; quote strings",
        ),
    ],
)
def test_options_of_another_form_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        check_config(TrainConfig(norm_options=(options,)))


@pytest.mark.parametrize(
    ("norm", "options", "words"),
    [
        (
            "batch",
            "batch.momentum=0.5",
            r"\['momentum'\] of .*; say --bn_m",
        ),
        ("batch", "ghost.size=8", r"has options of \['ghost'\], .*; add them there"),
        ("group", "group.num_group=1", r"\['num_group'\]"),
        ("ghost", "ghost.sise=8", r"nothing says how large .* ghost.size=8, or --norm"),
        ("renorm", "renorm.foo=1", r"--norm_options of renorm: .*foo"),
    ],
)
def test_options_that_nothing_takes_are_refused(norm, options, words):
    with pytest.raises(ConfigError, match=words):
        check_config(TrainConfig(norm=norm, norm_options=(options,)))


@pytest.mark.parametrize("limit", [1, 21])
def test_a_diagnosis_is_no_reason_to_end_a_run(tmp_path, limit):
    """Test sets of one example, and of a number that the norm cannot part."""
    config = dataclasses.replace(
        TINY,
        workdir=str(tmp_path),
        norm="split",
        test_limit=limit,
        diagnose=True,
    )
    fit(config)
    text = (tmp_path / "diagnosis-split.txt").read_text()
    assert ("leakage was not probed: x has 21 examples" in text) == (limit == 21)


def test_the_best_step_has_a_checkpoint(tmp_path):
    config = dataclasses.replace(
        TINY,
        workdir=str(tmp_path),
        norm="batch",
        num_epochs=3,
        checkpoint_every=10,
        keep=1,
    )
    best = fit(config)["best"]["step"]
    steps = {int(p.name[-8:]) for p in (tmp_path / "checkpoints").glob("step_*")}
    assert steps == {best, 6}


def test_options_that_a_norm_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"got options \['rmax'\], expected some of"):
        create_norm("shuffled", **SHARED, rmax=1)
    assert parse_options(()) == {}
    assert jax.tree.leaves(parse_options(("renorm.r_max=2",))) == [2]


@pytest.mark.usefixtures("eight_devices")
def test_sets_joined_are_domains_with_statistics_of_their_own(tmp_path):
    config = TrainConfig(
        workdir=str(tmp_path),
        dataset="digits+digits",
        norm="domain,batch",
        num_epochs=1,
        train_limit=64,
        test_limit=20,
        num_devices=2,
        diagnose=True,
    )
    fit(config)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(np.isfinite(row["test_loss_precise"]) for row in rows)
    text = (tmp_path / "diagnosis-domain.txt").read_text()
    assert "bn1[0]" in text and "bn1[1]" in text


def test_precise_statistics_in_training_are_those_of_each_domain():
    """In batches of which one has a single domain, the other more of one of them."""
    images = RNG.integers(0, 256, (12, 2, 2, 1)).astype(np.uint8)
    domain = np.array([0] * 4 + [1, 0, 0, 0] + [1] * 4)
    classes = RNG.integers(0, 3, 12)
    data = Split(images, (classes + 3 * domain).astype(np.int32))
    norm = create_norm("domain", **SHARED, num_domains=2)
    job = Job(
        model=create_model("mlp", 3, norm),
        optimizer=optax.sgd(0.1),
        task="classification",
        mean=np.float32([0.5]),
        std=np.float32([0.25]),
        label_smoothing=0.0,
        augment=False,
        axis_name=None,
        num_domains=2,
        by_domain=True,
    )
    found, told = read_labels(job, jnp.asarray(data.labels))
    np.testing.assert_array_equal(found, classes)
    np.testing.assert_array_equal(told["domain"], domain)
    x = (images.reshape(12, 4).astype(np.float64) / 255 - 0.5) / 0.25
    variables = job.model.init(KEY, jnp.asarray(images, jnp.float32), False)
    rows = jnp.arange(12).reshape(3, 4)
    moments = jax.jit(functools.partial(measure_population, job))(
        variables["params"], variables["batch_stats"], data, rows
    )
    hidden = x @ np.asarray(variables["params"]["dense1"]["kernel"], np.float64)
    for i in range(2):
        mine = hidden[domain == i]
        np.testing.assert_allclose(moments["bn1"].total[i], len(mine))
        oracle.assert_close(moments["bn1"].mean[i], mine.mean(0), 1e-5)
        oracle.assert_close(moments["bn1"].var[i], mine.var(0), 1e-5)
