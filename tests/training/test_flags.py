"""Flags: what is refused, in which words, before anything is loaded."""

import dataclasses
import errno
import math
import os
import re
import sys

import jax
import pytest

from jaxbn.training import ConfigError, TrainConfig, fit
from jaxbn.training._check_config import check_config
from jaxbn.training._checkpoint import newest_whole, reason_of
from jaxbn.training._files import write_whole
from jaxbn.training._parallel import start_parallel
from jaxbn.training._processes import split_cpu
from jaxbn.training._records import versions
from jaxbn.training._workdir import open_workdir

TINY = TrainConfig(num_epochs=2, train_limit=128, test_limit=50, num_devices=1)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model", "mpl", "model is 'mpl', expected one of mlp, narrow"),
        ("norm", "batch,grupp", "norm is 'grupp', expected one of batch, "),
        ("norm", "batch,batch", "expected distinct names"),
        ("norm", "batch,", "--norm is 'batch,', expected names with commas between"),
        ("workdir", "a" * 300, "File name too long"),
        ("optimizer", "sdg", "did you mean 'sgd'?"),
        ("batch_size", 0, "batch_size is 0, expected 1 or more"),
        (
            "bn_momentum",
            1.5,
            "--bn_momentum is 1.5, expected a number from 0 to below 1",
        ),
        ("bn_momentum", 1.0, "at 1 the running statistics would never move"),
        ("average_decay", 1.0, "at 1 the averaged weights would never move"),
        (
            "label_smoothing",
            2.0,
            "--label_smoothing is 2.0, expected a number from 0 to",
        ),
        ("learning_rate", math.nan, "--learning_rate is nan, expected > 0"),
        ("weight_decay", math.inf, "--weight_decay is inf, expected 0 or more"),
        ("seed", -1, "--seed is -1, expected 0 or more"),
        ("seed", 2**32, "--seed is 4294967296, expected less than 2**32"),
        ("norm", "batch,ghost", "add --norm_options ghost.size=8, or --normalization_"),
        (
            "dataset",
            "mnist+",
            "--dataset is 'mnist+', expected a name, or names joined",
        ),
        ("num_devices", 3, "--batch_size is 32, expected a multiple of the 3 devices"),
        ("learning_rate", 0.0, "learning_rate is 0.0, expected > 0"),
        ("process_id", 1, "are None, None, 1, expected all three or none"),
        ("normalization_batch_size", 0, "normalization_batch_size is 0, expected 1"),
        ("weight_decay", -1.0, "weight_decay is -1.0, expected 0 or more"),
    ],
)
def test_bad_values_are_refused(field, value, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_config(dataclasses.replace(TINY, **{field: value}))


def test_a_normalization_batch_is_judged_with_the_devices_asked_for():
    config = dataclasses.replace(TINY, num_devices=4, normalization_batch_size=12)
    with pytest.raises(
        ConfigError, match="--normalization_batch_size is 12 for a batc"
    ):
        check_config(config)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch_size", 32.0, "--batch_size is 32.0, expected int"),
        (
            "batch_size",
            2**31,
            "--batch_size is 2147483648, expected 1 or more and less",
        ),
        ("learning_rate", "0.1", "--learning_rate is '0.1', expected float"),
        ("seed", True, "--seed is True, expected int"),
        ("augment", "no", "--augment is 'no', expected bool"),
        ("data_dir", 3, "--data_dir is 3, expected str or None"),
        ("norm_options", (3,), "--norm_options is (3,), expected a tuple of strings"),
    ],
)
def test_values_of_another_type_are_refused(field, value, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_config(dataclasses.replace(TINY, **{field: value}))


def test_what_is_no_configuration_is_refused():
    with pytest.raises(ConfigError, match="config is None, expected a TrainConfig"):
        check_config(None)


@pytest.mark.parametrize(
    ("norm", "option", "words"),
    [
        ("group", "group.num_groups=7", "num_groups is 7 for 64 channels, expected a "),
        ("batch", "batch.axis=5", "axis 5 is out of range for x with 2 axes, expected"),
        ("batch", 'batch.dtype="nosuch"', "dtype is 'nosuch', expected a floating or"),
        ("batch", "batch.bias_init=3", "bias_init is 3, expected a function (key, sha"),
        ("batch", "batch.mask=3", "sets ['mask'] of batch, expected options of a lay"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_loaded(
    norm, option, words
):
    config = dataclasses.replace(TINY, norm=norm, norm_options=(option,))
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        check_config(config)
    assert str(caught.value).startswith("--norm_options")


def test_options_that_fit_are_not_refused():
    options = ("group.num_groups=4", "renorm.r_max=2.0", "batch.unbiased=True")
    config = dataclasses.replace(TINY, norm="batch,renorm,group", norm_options=options)
    for model in ("mlp", "convnet", "resnet8"):
        check_config(dataclasses.replace(config, model=model))


def test_an_address_needs_a_port():
    together = {"num_processes": 2, "process_id": 0}
    for address in ("host", "host:", ":12", "host:port", "host:99999"):
        config = dataclasses.replace(TINY, coordinator_address=address, **together)
        with pytest.raises(ConfigError, match=r"_address is .*, expected HOST:PORT of"):
            check_config(config)


def test_folders_that_are_files_are_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        config = dataclasses.replace(TINY, workdir=str(folder))
        with pytest.raises(
            ConfigError, match=r"--workdir is .*, but .*file is a file, "
        ):
            check_config(config)
        config = dataclasses.replace(TINY, data_dir=str(folder))
        check_config(config)  # The digits need no folder.
        config = dataclasses.replace(config, dataset="digits+mnist")
        with pytest.raises(
            ConfigError, match=r"--data_dir is .*, but .*file is a file, "
        ):
            check_config(config)


def test_links_to_nothing_are_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("link", "link/below"):
        config = dataclasses.replace(TINY, workdir=str(tmp_path / name))
        with pytest.raises(ConfigError, match=r"link is a link to nothing, expected a"):
            check_config(config)


def test_a_folder_of_others_is_refused(tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, workdir=str(tmp_path / "new"))
    check_config(config)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=f"nothing may be written to {tmp_path}, exp"):
        check_config(config)


def test_a_run_that_would_be_overwritten_is_refused_before_data_are_loaded(
    tmp_path, monkeypatch
):
    config = dataclasses.replace(TINY, workdir=str(tmp_path))
    open_workdir(config)
    monkeypatch.setattr(
        sys.modules["jaxbn.training._run"],
        "load",
        lambda *args, **kwargs: pytest.fail("read"),
    )
    with pytest.raises(ConfigError, match="already holds this run; pass --resume"):
        fit(config)


def test_versions_of_what_is_not_installed_are_none():
    found = versions(("jax", "not-a-package"))
    assert found == {"jax": jax.__version__, "not-a-package": None}


def test_what_cannot_be_written_is_named(tmp_path):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: '.*curves.png'"):
        write_whole(tmp_path / "curves.png", full)

    def other(path):
        raise OSError("cannot write mode F as PNG")

    with pytest.raises(OSError, match=r"^cannot write mode F as PNG$"):
        write_whole(tmp_path / "curves.png", other)


def test_a_batch_larger_than_the_set_is_refused(tmp_path):
    config = dataclasses.replace(TINY, batch_size=200, workdir=str(tmp_path / "w"))
    with pytest.raises(ConfigError, match="has 128 training examples; pass a smaller"):
        fit(config)
    assert not (tmp_path / "w").exists()


@pytest.mark.usefixtures("eight_devices")
def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="num_devices is 64, but there are 8 cpu"):
        start_parallel(dataclasses.replace(TINY, num_devices=64, batch_size=64))


@pytest.mark.usefixtures("eight_devices")
def test_a_normalization_batch_that_devices_cannot_form_is_refused():
    config = dataclasses.replace(TINY, num_devices=4, normalization_batch_size=12)
    words = "size is 12 for a batch of 32 on 4 devices, expected one of [1, 2, 4, 8, 16"
    with pytest.raises(ConfigError, match=re.escape(words)):
        start_parallel(config)


def test_processes_count_from_zero():
    together = {"coordinator_address": "127.0.0.1:1", "num_processes": 2}
    config = dataclasses.replace(TINY, process_id=2, **together)
    with pytest.raises(ConfigError, match="process_id is 2, expected less than --num_"):
        check_config(config)
    config = dataclasses.replace(TINY, process_id=1, num_devices=3, **together)
    with pytest.raises(ConfigError, match="num_devices is 3, expected a multiple of"):
        split_cpu(config, 2)


def test_resume_needs_a_workdir():
    with pytest.raises(ConfigError, match="--resume needs --workdir"):
        open_workdir(dataclasses.replace(TINY, resume=True))


def test_a_failed_write_is_told_in_the_words_of_the_system(tmp_path):
    error = ValueError("Failed to write 4 bytes [os_error_code='28']")
    assert reason_of(error) == "No space left on device"
    assert reason_of(RuntimeError("closed\nat last")) == "closed"
    assert reason_of(KeyError()) == "KeyError"
    assert newest_whole(tmp_path) == "there is none before it"
    (tmp_path / "step_00000007").mkdir()
    assert newest_whole(tmp_path).startswith("that of step 7 is whole, go on from it")
