"""Training on pictures, top-5 accuracy, and where else metrics go."""

import dataclasses
import json
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn import data
from jaxbn.training import ConfigError, Diverged, Interrupted, TrainConfig, fit
from jaxbn.training._check_config import check_config
from jaxbn.training._loggers import open_loggers
from jaxbn.training._loop import Run
from jaxbn.training._metrics import count_top5
from tests.pictures import write_folder

# orbax leaves event loops and coroutines behind.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = write_folder(
        tmp_path_factory.mktemp("pictures"), num_classes=20, train=4, test=1
    )
    return TrainConfig(
        dataset="image_folder",
        data_dir=str(folder),
        image_size=12,
        augment=True,
        norm="batch,none",
        num_epochs=2,
        batch_size=16,
        num_devices=1,
        log_to="none",
    )


def rows_of(folder):
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(dataclasses.replace(config, workdir=str(folder)))
    return rows_of(folder)


def test_pictures_are_learned_and_scored_by_top5(whole):
    last = whole[-2]
    assert last["norm"] == "batch" and last["step"] == 10
    assert 0 <= last["test_accuracy"] <= last["test_top5"] <= 1
    assert {"test_top5_precise", "test_top5_batch"} <= last.keys()


def test_a_run_on_pictures_goes_on_bit_for_bit(config, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxbn.training._loop.CHUNK_SECONDS", 0.0)  # One step each.
    config = dataclasses.replace(config, workdir=str(tmp_path))
    looks = 0

    def agree(processes, stop, chunk):
        nonlocal looks
        looks += 1
        return looks == 8, chunk  # In the midst of the second epoch.

    with monkeypatch.context() as patch:
        patch.setattr("jaxbn.training._loop.agree", agree)
        with pytest.raises(Interrupted, match="step 8"):
            fit(config)
    fit(dataclasses.replace(config, resume=True))
    assert rows_of(tmp_path) == whole


@pytest.mark.usefixtures("eight_devices")
@pytest.mark.parametrize("parallel", ["pmap", "jit"])
def test_devices_see_the_crops_of_one(config, whole, parallel, tmp_path):
    many = dataclasses.replace(
        config, workdir=str(tmp_path), num_devices=4, parallel=parallel
    )
    fit(many)
    for one, other in zip(whole, rows_of(tmp_path), strict=True):
        for name in ("train_loss", "test_loss"):
            assert other[name] == pytest.approx(one[name], rel=1e-3)


def test_what_diverges_on_pictures_is_found(config, tmp_path):
    code = dataclasses.replace(
        config, workdir=str(tmp_path), learning_rate=1e30, norm="none"
    )
    with pytest.raises(Diverged, match=r"none diverged in step \d+: .* not finite"):
        fit(code)


def test_a_picture_is_decoded_once_an_epoch_for_all_arms(config, tmp_path, monkeypatch):
    """Whatever the chunks."""
    decoded = []
    real = data._pictures.decode

    def counted(file, *others):
        decoded.append(file)
        return real(file, *others)

    monkeypatch.setattr("jaxbn.training._loop.CHUNK_SECONDS", 0.0)
    monkeypatch.setattr("jaxbn.data._pictures.decode", counted)
    monkeypatch.setattr(Run, "evaluate", lambda self: None)
    monkeypatch.setattr(Run, "compile", lambda self: None)
    once = dataclasses.replace(config, workdir=str(tmp_path), num_epochs=1)
    monkeypatch.setattr("jaxbn.training._report.Report.conclude", lambda *_: {})
    fit(once)
    train = [path for path in decoded if "/train/" in path]
    looked_at = 80  # For the mean and deviation.
    assert len(train) == looked_at + 80


@pytest.mark.parametrize("num_classes", [20, 3])
def test_top5_counts_the_five_most_likely(num_classes):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, 50)
    mask = np.arange(50) < 40
    found = count_top5(jnp.array(logits), labels, mask)
    ranks = (logits > logits[np.arange(50), labels][:, None]).sum(1)
    assert found == ((ranks < 5) & mask).sum()


class FakeRun:
    def __init__(self, **options):
        self.options, self.id = options, options["id"] or "made"
        self.logged, self.ended = [], False

    def define_metric(self, *args, **options):
        self.logged.append((args, options))

    def log(self, values):
        self.logged.append(values)

    def finish(self, exit_code):
        self.ended = exit_code == 0


def test_weights_and_biases_gets_what_was_measured(tmp_path, monkeypatch):
    runs = []

    def init(**options):
        runs.append(FakeRun(**options))
        return runs[-1]

    fake = types.ModuleType("wandb")
    spec = types.SimpleNamespace(name="wandb", origin="wandb/__init__.py")
    fake.__dict__.update(init=init, __spec__=spec)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = TrainConfig(
        workdir=str(tmp_path / "run"),
        norm="batch",
        num_epochs=1,
        train_limit=64,
        test_limit=16,
        num_devices=1,
        log_to="tensorboard, wandb",
    )
    check_config(config)
    fit(config)
    fit(dataclasses.replace(config, resume=True))
    first, second = runs
    assert first.options["name"] == "run" and first.options["config"]["seed"] == 0
    assert first.options["id"] is None and second.options["id"] == "made"
    assert first.options["resume"] == "allow" and first.ended and second.ended
    assert first.logged[1] == (("*",), {"step_metric": "step"})
    (row,) = rows_of(tmp_path / "run")
    assert first.logged[2]["step"] == row["step"] == 2
    assert first.logged[2]["test_loss/batch"] == row["test_loss"]
    assert "epoch/batch" not in first.logged[2]
    assert list((tmp_path / "run" / "events").iterdir())


def test_a_logger_that_does_not_start_ends_the_run_in_words(tmp_path, monkeypatch):
    closed = []

    class First:
        def close(self, failed):
            closed.append(failed)

    def second(*_):
        raise RuntimeError("No API key configured.\nUse login")

    loggers = {"tensorboard": lambda *_: First(), "wandb": second}
    monkeypatch.setattr("jaxbn.training._loggers.LOGGERS", loggers)
    words = r"wandb, which does not start \(RuntimeError: No API key configured\.\);"
    with pytest.raises(ConfigError, match=words):
        open_loggers(TrainConfig(log_to="tensorboard,wandb"), tmp_path, None)
    assert closed == [True]


def test_a_run_is_resumed_on_the_pictures_it_had(config, tmp_path):
    folder = write_folder(tmp_path / "set", num_classes=20, train=2, test=1)
    own = dataclasses.replace(
        config, data_dir=str(folder), workdir=str(tmp_path / "w"), num_epochs=1
    )
    fit(own)
    held = (tmp_path / "w" / "data.json").read_text()
    path = folder / "train" / "class03" / "0.jpg"
    path.rename(path.with_name("1b.jpg"))
    with pytest.raises(ConfigError, match=r"whose run had data with files '"):
        fit(dataclasses.replace(own, resume=True))
    path.with_name("1b.jpg").unlink()
    with pytest.raises(ConfigError, match=r"had data with (files|num_train) "):
        fit(dataclasses.replace(own, resume=True))
    assert (tmp_path / "w" / "data.json").read_text() == held


def test_pictures_that_are_not_cropped_are_read_once(config, tmp_path, monkeypatch):
    decoded = []
    real = data._pictures.decode
    count = lambda *args: (decoded.append(args[0]), real(*args))[1]
    monkeypatch.setattr("jaxbn.data._pictures.decode", count)
    fit(dataclasses.replace(config, workdir=str(tmp_path), augment=False))
    assert len(decoded) == 80 + 80 + 20  # The mean; training; test.


def test_no_logger_is_none(tmp_path):
    assert open_loggers(TrainConfig(log_to="none"), tmp_path, None) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"log_to": "aim"}, "--log_to is 'aim', expected none, or some of tensorboard"),
        ({"log_to": ""}, "--log_to is '', expected none"),
        ({"log_to": "none,wandb"}, "--log_to is 'none,wandb', expected none, or some"),
        ({"dataset": "image_folder"}, "--dataset has image_folder, a folder of pict"),
        ({"image_size": 0}, "--image_size is 0, expected 1 or more"),
        ({"image_size": 32}, "--image_size is 32, but digits has a size of its own"),
    ],
)
def test_refuses(options, words):
    with pytest.raises(ConfigError, match=words):
        check_config(TrainConfig(**options))


def test_a_logger_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"wandb is not installed; pip install wandb"):
        check_config(TrainConfig(log_to="wandb"))
