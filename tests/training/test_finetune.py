"""Fine-tuning: what a run starts from, what stands still, and what is refused."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

import jaxbn
from jaxbn.models import create_model, dump_torch, load_torch, torch_shapes
from jaxbn.training import TrainConfig, fit, load_trained
from jaxbn.training._config import ConfigError
from jaxbn.training._divergence import Diverged
from jaxbn.training._finetune import start_from

pytestmark = pytest.mark.filterwarnings("ignore")  # orbax leaves event loops behind.
TINY = TrainConfig(num_epochs=1, train_limit=320, test_limit=100, norm="batch")
STATISTICS, AFFINE, WEIGHTS = {"mean", "var"}, {"scale", "bias"}, {"kernel"}


def leaves(variables):
    """Returns NumPy arrays by path."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def tuned(folder, source, **options):
    """Returns the arrays after an epoch from those of `source`."""
    workdir = str(folder / "tuned")
    given = dataclasses.replace(
        TINY, workdir=workdir, init_from=str(source), seed=1, **options
    )
    fit(given)
    return leaves(load_trained(workdir).variables)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "w"
    fit(dataclasses.replace(TINY, workdir=str(folder)))
    return folder


@pytest.mark.parametrize(
    ("freeze", "options", "moving"),
    [
        ("nothing", {}, STATISTICS | AFFINE | WEIGHTS),
        ("statistics", {}, AFFINE | WEIGHTS),
        ("statistics", {"num_devices": 2}, AFFINE | WEIGHTS),
        ("all_but_affine", {"weight_decay": 0.1}, STATISTICS | AFFINE),
        ("all_but_head", {"average_decay": 0.9}, set()),
    ],
)
def test_what_stands_still_and_what_moves(tmp_path, source, freeze, options, moving):
    if jax.device_count() < options.get("num_devices", 1):
        pytest.skip("needs two devices")
    before = leaves(load_trained(source).variables)
    after = tuned(tmp_path, source, freeze=freeze, **options)
    assert before.keys() == after.keys()
    for name, value in before.items():
        kind = name.rpartition("/")[2]
        moves = not np.array_equal(value, after[name])
        assert moves == (kind in moving or "head" in name), name


def test_a_frozen_run_is_gone_on_with(tmp_path, source):
    options = {"freeze": "all_but_head", "optimizer": "adam"}
    after = tuned(tmp_path, source, **options)
    again = tuned(tmp_path, source, resume=True, **options)
    jax.tree.map(np.testing.assert_array_equal, again, after)


def test_training_by_running_statistics_is_training_in_evaluation(tmp_path, source):
    """One step of gradient descent by hand: the loss of `model(x, train=False)`."""
    start = load_trained(source)
    rate, workdir = 0.1, str(tmp_path / "w")
    config = dataclasses.replace(
        TINY, workdir=workdir, init_from=str(source), freeze="statistics",
        train_limit=32, batch_size=32, optimizer="sgd", momentum=0.0, weight_decay=0.0,
        learning_rate=rate, schedule="constant", warmup_epochs=0,
    )  # fmt: skip
    fit(config)
    found = load_trained(workdir)
    train = jaxbn.data.load("digits", train_limit=32).train
    x, _ = found.arguments(train.inputs)

    def loss(params):
        logits = start.model.apply({**start.variables, "params": params}, *x)
        picked = jax.nn.log_softmax(logits)[jnp.arange(32), train.labels]
        return -picked.mean()

    slopes = jax.grad(loss)(start.variables["params"])
    expected = jax.tree.map(
        lambda p, g: p - rate * g, start.variables["params"], slopes
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found.variables["params"],
        expected,
    )


def test_a_file_with_the_names_of_flax(tmp_path, source):
    variables = load_trained(source).variables
    path = tmp_path / "weights.safetensors"
    save_file(leaves(variables), path)
    config = dataclasses.replace(TINY, init_from=str(path))
    fresh = jax.tree.map(jnp.zeros_like, variables)
    found = start_from(config, "batch", fresh["params"], fresh["batch_stats"])
    expected = variables["params"], variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("classes", [7, 5])
def test_a_file_of_pytorch_and_a_head_of_other_classes(tmp_path, classes):
    rng = np.random.default_rng(0)
    shapes = torch_shapes("resnet18", num_outputs=7)
    arrays = {k: rng.random(s).astype(np.float32) for k, s in shapes.items()}
    path = tmp_path / "resnet18.safetensors"
    save_file(arrays, path)
    config = dataclasses.replace(TINY, model="resnet18", init_from=str(path))
    model = create_model("resnet18", classes, jaxbn.batch_norm())
    images = jnp.zeros((1, 32, 32, 3))
    shaped = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False))
    fresh = jax.tree.map(lambda s: jnp.full(s.shape, -1.0, s.dtype), shaped)
    params, stats = start_from(config, "batch", fresh["params"], fresh["batch_stats"])
    expected = load_torch("resnet18", arrays)
    if classes != 7:
        expected["params"]["head"] = fresh["params"]["head"]
    found = {"params": params, "batch_stats": stats}
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert dump_torch("resnet18", found).keys() == arrays.keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "narrow"}, "is not of --model=narrow with --norm=batch: .* missing"),
        ({"norm": "none"}, r"--norm=none: params/dense1/bias.* missing; .* unexpected"),
        ({"init_from": "nowhere"}, "--init_from: nowhere is not there, expected"),
        (
            {"init_from": None, "norm": "group", "freeze": "statistics"},
            "--freeze=statistics, but --norm=group has no running statistics",
        ),
        ({"freeze": "head"}, "--freeze is 'head', expected one of nothing, statistics"),
    ],
)
def test_refuses(tmp_path, source, options, words):
    given = {"workdir": str(tmp_path / "w"), "init_from": str(source), **options}
    with pytest.raises(ConfigError, match=words) as refused:
        fit(dataclasses.replace(TINY, **given))
    assert len(str(refused.value).splitlines()) == 1
    assert not re.search("[Tt]raceback", str(refused.value))


def test_a_file_of_something_else_is_refused_by_its_names(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": np.ones(2), "a/b": np.ones(2)}, path)
    config = dataclasses.replace(TINY, init_from=str(path))
    with pytest.raises(ConfigError, match=r"params/dense1/bias missing; a, a/b unexp"):
        start_from(config, "batch", {"dense1": {"bias": jnp.ones(2)}}, {})


def test_a_frozen_run_that_diverges_names_a_layer(tmp_path, source):
    with pytest.raises(Diverged, match=r"layer|loss|output"):
        tuned(tmp_path, source, freeze="statistics", learning_rate=1e30)
