"""Prepared TFDS sets: real ones by value, small ones made here, and every refusal."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxbn import data
from jaxbn.data import _folders, _prepare
from tests.pictures import make_set

SHARED = Path(__file__).parents[2].parent / "shared" / "tensorflow_datasets"


def prepared(name):
    if not (SHARED / name).is_dir():
        pytest.skip(
            f"no prepared data set {name} in a folder shared/ by the repository"
        )
    return name


def png(value, shape=(4, 5, 3)):
    file = io.BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8).squeeze()).save(file, "png")
    return io.BytesIO(file.getvalue())


def examples(num, start=0, **extra):
    return [{"pic": png(i), "kind": i % 3, **extra} for i in range(start, start + num)]


FEATURES = {
    "pic": tfds.features.Image(shape=(None, None, 3)),
    "kind": tfds.features.ClassLabel(num_classes=3),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data_dir of small sets whose features have unusual names."""
    root = tmp_path_factory.mktemp("tfds")
    make_set(root, "plain", {"train": examples(10), "test": examples(4, 10)}, FEATURES)
    make_set(root, "held", {"train": examples(6), "validation": examples(3)}, FEATURES)
    make_set(root, "alone", {"train": examples(6), "extra": examples(6)}, FEATURES)
    uneven = [*examples(3), {"pic": png(9, (4, 6, 3)), "kind": 0}]
    make_set(root, "uneven", {"train": uneven, "test": examples(2)}, FEATURES)
    hidden = [{"pic": png(1), "kind": -1}]
    make_set(root, "hidden", {"train": examples(2), "test": hidden}, FEATURES)
    more = FEATURES | {"family": tfds.features.ClassLabel(num_classes=2)}
    for name, keys in (("twice", None), ("keyed", ("pic", "family"))):
        both = {"train": examples(4, family=1), "test": examples(2, family=0)}
        make_set(root, name, both, more, keys)
    return root


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(_prepare, "network_reachable", lambda: False)


@pytest.fixture(scope="module")
def mnist():
    return data.load(prepared("mnist"), data_dir=SHARED)


def test_mnist_by_value(mnist):
    assert mnist.train.inputs.shape == (60000, 28, 28, 1)
    assert mnist.test.inputs.shape == (10000, 28, 28, 1)
    assert mnist.train.inputs.dtype == np.uint8
    assert mnist.train.labels.dtype == np.int32
    expected = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(mnist.test.labels).tolist() == expected
    assert np.bincount(mnist.train.labels)[[0, 1, 9]].tolist() == [5923, 6742, 5949]
    assert (mnist.num_classes, mnist.task) == (10, "classification")


def test_mnist_comes_in_the_order_of_tfds(mnist):
    assert mnist.train.labels[:5].tolist() == [4, 1, 0, 7, 8]
    assert mnist.test.labels[:3].tolist() == [2, 0, 4]


def test_mnist_statistics(mnist):
    assert mnist.mean == pytest.approx(0.1307, abs=5e-5)
    assert mnist.std == pytest.approx(0.3081, abs=5e-5)


def test_usps_and_cifar10_30k_have_no_class_in_tfds():
    usps = data.load(prepared("usps"), data_dir=SHARED)
    assert usps.train.inputs.shape == (7291, 16, 16, 1)
    expected = [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    assert np.bincount(usps.test.labels).tolist() == expected
    cifar = data.load(
        prepared("cifar10_30k"), data_dir=SHARED, train_limit=500, test_limit=64
    )
    assert cifar.train.inputs.shape == (500, 32, 32, 3)
    assert cifar.test.inputs.shape == (64, 32, 32, 3)
    assert cifar.mean.shape == (3,)
    np.testing.assert_allclose(cifar.mean, [0.4914, 0.4822, 0.4465], atol=0.02)


def test_a_limit_reads_the_first_of_the_whole(mnist):
    few = data.load("mnist", data_dir=str(SHARED), train_limit=7, test_limit=3)
    np.testing.assert_array_equal(few.train.inputs, mnist.train.inputs[:7])
    np.testing.assert_array_equal(few.test.labels, mnist.test.labels[:3])


def test_features_are_found_by_type(made):
    plain = data.load("plain", data_dir=made)
    value = plain.train.inputs[:, 0, 0, 0]
    assert sorted(value) == list(range(10))
    np.testing.assert_array_equal(plain.train.labels, value % 3)
    expected = np.broadcast_to(value[:, None, None, None], (10, 4, 5, 3))
    np.testing.assert_array_equal(plain.train.inputs, expected)
    assert sorted(plain.test.inputs[:, 3, 4, 2]) == [10, 11, 12, 13]
    assert plain.num_classes == 3 and plain.name == "plain"


def test_tfds_prints_nothing(made, capfd, caplog):
    data.load("plain", data_dir=made)
    with pytest.raises(ValueError, match="no data set"):
        data.load("nonesuch", data_dir=made)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_validation_stands_in_for_a_missing_test_split(made):
    assert len(data.load("held", data_dir=made).test.labels) == 3


def test_beyond_the_memory_limit_a_split_is_lazy(made):
    whole = data.load("plain", data_dir=made)
    lazy = data.load("plain", data_dir=made, memory_limit=4 * 60)
    assert isinstance(lazy.train.inputs, data.Column)
    assert isinstance(lazy.test.inputs, np.ndarray)
    assert lazy.train.inputs.shape == (10, 4, 5, 3)
    np.testing.assert_array_equal(lazy.train.inputs[[7, 2]], whole.train.inputs[[7, 2]])
    np.testing.assert_allclose(lazy.mean, whole.mean, rtol=1e-6)
    indices = data.epoch_indices(0, 10, 5, 0)
    got = [batch.labels for batch in data.stream(lazy.train, indices)]
    np.testing.assert_array_equal(got, whole.train.labels[indices])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alone", "'alone' has the splits train, extra; expected 'train', and 'test'"),
        ("uneven", r"pics in .*uneven.* unequal size: \(4, 6, 3\) beside \(4, 5, 3\)"),
        ("hidden", r"the test split of 'hidden' has no labels \(they are -1\)"),
        ("twice", "'twice' is not one image and one class label.*family: ClassLabel"),
    ],
)
def test_sets_that_do_not_fit(made, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.load(name, data_dir=made)
    assert "\n" not in str(caught.value)


def test_supervised_keys_decide_between_labels(made):
    keyed = data.load("keyed", data_dir=made)
    assert keyed.num_classes == 2 and set(keyed.train.labels) == {1}


def test_the_newest_version_is_taken_unless_one_is_named(made, tmp_path):
    shutil.copytree(made / "plain" / "1.0.0", tmp_path / "plain" / "1.0.0")
    for version in ("1.9.0", "1.10.0"):
        target = tmp_path / "plain" / version
        shutil.copytree(made / "held" / "1.0.0", target)
    (tmp_path / "plain" / "2.0.0.incompleteXYZ").mkdir()
    find = _folders.find_folder
    parse = _folders.parse_name
    assert find(tmp_path, parse("plain")).name == "1.10.0"
    assert find(tmp_path, parse("plain/1.9.0")).name == "1.9.0"
    assert find(tmp_path, parse("plain:7.0.0")) is None
    assert len(data.load("plain:1.0.0", data_dir=tmp_path).train.labels) == 10


def test_configurations_are_named(made, tmp_path):
    for config in ("big", "small"):
        shutil.copytree(made / "plain", tmp_path / "family" / config)
    assert len(data.load("family/small", data_dir=tmp_path).train.labels) == 10
    with pytest.raises(ValueError, match=r"configurations \(big, small\); name one"):
        data.load("family", data_dir=tmp_path)
    assert _folders.prepared_names(tmp_path) == ["family/big", "family/small"]


def test_the_default_data_dir_is_that_of_tfds(made, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(made))
    assert len(data.load("plain").train.labels) == 10
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", os.path.join("/", "home", "ann"))
    assert _folders.data_root(None).parts[-3:] == ("home", "ann", "tensorflow_datasets")


@pytest.mark.usefixtures("offline")
def test_an_unprepared_set_names_itself_the_folder_and_the_fix(tmp_path):
    with pytest.raises(data.DatasetUnavailable) as caught:
        data.load("mnist", data_dir=tmp_path)
    message = str(caught.value)
    assert f"data set 'mnist' is not prepared in {tmp_path} and" in message
    assert "no answer from storage.googleapis.com" in message
    assert "pass a data_dir (--data_dir=DIR) that holds mnist/3." in message
    assert "run `tfds build mnist --file_format=array_record` on a machine" in message
    assert "\n" not in message
    with pytest.raises(data.DatasetUnavailable, match=r"\(no such folder\)"):
        data.load("mnist", data_dir=tmp_path / "nowhere")


@pytest.mark.usefixtures("offline")
def test_an_unprepared_set_with_configurations(tmp_path):
    with pytest.raises(ValueError, match=r"name one, as in 'cifar10_corrupted/"):
        data.load("cifar10_corrupted", data_dir=tmp_path)


def test_with_a_network_the_set_is_prepared_where_it_was_looked_for(
    monkeypatch, made, tmp_path
):
    def prepare(self, *, file_format):
        assert file_format == "array_record"
        print("Downloading and preparing dataset")
        shutil.copytree(made / "plain" / "1.0.0", self.data_path)

    monkeypatch.setattr(_prepare, "network_reachable", lambda: True)
    cls = tfds.core.DatasetBuilder
    monkeypatch.setattr(cls, "download_and_prepare", prepare)
    loaded = data.load("mnist", data_dir=tmp_path)
    assert len(loaded.train.labels) == 10
    assert (tmp_path / "mnist").is_dir()


def test_a_failing_download_is_one_line(monkeypatch, tmp_path):
    def fail(self, *, file_format):
        raise ModuleNotFoundError("No module named 'tensorflow'\nand much more")

    monkeypatch.setattr(_prepare, "network_reachable", lambda: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    message = (
        r"preparing it failed \(ModuleNotFoundError: No module named 'tensorflow'\)"
    )
    with pytest.raises(data.DatasetUnavailable, match=message) as caught:
        data.load("mnist", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_network_preflight_is_quick_either_way(monkeypatch):
    def fail(address, timeout):
        raise OSError("Name or service not known")

    def hang(address, timeout):
        release.wait(5)
        raise OSError

    import threading

    release = threading.Event()
    monkeypatch.setattr(_prepare.socket, "create_connection", fail)
    assert not _prepare.network_reachable()
    monkeypatch.setattr(_prepare.socket, "create_connection", hang)
    assert not _prepare.network_reachable(timeout=0.05)
    release.set()
    asked = []

    def answer(address, timeout):
        asked.append(address)
        return io.BytesIO()

    monkeypatch.setattr(_prepare.socket, "create_connection", answer)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert _prepare.network_reachable()
    for proxy in ("http://proxy.local:3128", "proxy.local:3128"):
        monkeypatch.setenv("https_proxy", proxy)
        assert _prepare.network_reachable()
    assert asked[0] == ("storage.googleapis.com", 443)
    assert asked[1:] == [("proxy.local", 3128)] * 2


@pytest.mark.parametrize(
    ("name", "near"),
    [("plian", "plain"), ("digts", "digits"), ("Fashion-MNIST", "fashion_mnist")],
)
def test_near_misses_are_suggested(made, name, near):
    with pytest.raises(ValueError, match=f"'{name}'; did you mean .*'{near}'") as error:
        data.load(name, data_dir=made)
    assert "At hand: digits, regression, alone, held," in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "..", "a b", "qqqqqq"])
def test_names_nothing_comes_near(made, name):
    with pytest.raises(ValueError, match=f"no data set is called '{name}'. At hand:"):
        data.load(name, data_dir=made)


def break_shard(folder):
    shard = next(folder.glob("*-train.array_record*"))
    os.truncate(shard, shard.stat().st_size - 100)


def lose_shard(folder):
    next(folder.glob("*-train.array_record*")).unlink()


def lose_info(folder):
    (folder / "dataset_info.json").unlink()


def break_info(folder):
    (folder / "dataset_info.json").write_text("{")


def lose_features(folder):
    (folder / "features.json").unlink()


@pytest.mark.parametrize(
    "harm", [break_shard, lose_shard, lose_info, break_info, lose_features]
)
def test_a_damaged_folder_is_one_line(made, tmp_path, harm):
    shutil.copytree(made / "plain", tmp_path / "plain")
    harm(tmp_path / "plain" / "1.0.0")
    with pytest.raises(data.DatasetUnavailable, match=r"cannot be read \(\w+") as error:
        data.load("plain", data_dir=tmp_path)
    assert str(error.value).startswith(str(tmp_path / "plain" / "1.0.0"))
    assert "delete that folder and prepare the set again" in str(error.value)
    assert "\n" not in str(error.value)


def test_packages_that_do_not_fit_are_not_called_damage(made, monkeypatch):
    def fail(folder):
        raise AttributeError("'FieldDescriptor' object has no attribute 'label'")

    monkeypatch.setattr(tfds, "builder_from_directory", fail)
    message = r"AttributeError: .*packages do not fit: upgrade tensorflow-datasets"
    with pytest.raises(data.DatasetUnavailable, match=message) as error:
        data.load("plain", data_dir=made)
    assert "delete" not in str(error.value)


def test_tfrecord_files_are_named_as_such(made, tmp_path):
    shutil.copytree(made / "plain", tmp_path / "plain")
    info = tmp_path / "plain" / "1.0.0" / "dataset_info.json"
    content = json.loads(info.read_text()) | {"fileFormat": "tfrecord"}
    info.write_text(json.dumps(content))
    with pytest.raises(data.DatasetUnavailable, match="holds tfrecord files, which"):
        data.load("plain", data_dir=tmp_path)


def test_a_name_that_climbs_is_no_name_of_a_set(tmp_path):
    for name in ("../plain", "plain/..", "plain/..:1.0.0", "plain/.", "/plain"):
        assert _folders.parse_name(name) is None
        with pytest.raises(ValueError, match="no data set"):
            data.load(name, data_dir=tmp_path)


@pytest.mark.parametrize("form", ["new", "snake", "legacy", "nested"])
def test_a_set_imports_no_module_that_its_files_name(made, tmp_path, monkeypatch, form):
    folder = tmp_path / "plain" / "1.0.0"
    shutil.copytree(made / "plain" / "1.0.0", folder)
    path = folder / "features.json"
    content = json.loads(path.read_text())
    features = content["featuresDict"]["features"]
    foreign = {
        "new": {"pythonClassName": "imported_by_data.Feature"},
        "snake": {"python_class_name": "imported_by_data.Feature"},
        "legacy": {"type": "imported_by_data.Feature", "content": {}},
    }
    foreign["nested"] = {"content": json.dumps(foreign["legacy"])}
    features["kind"] |= foreign[form]
    if "python_class_name" in features["kind"]:
        del features["kind"]["pythonClassName"]
    path.write_text(json.dumps(content))
    (tmp_path / "imported_by_data.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    words = "names the class 'imported_by_data.Feature', whose module TFDS would import"
    with pytest.raises(data.DatasetUnavailable, match=words):
        data.load("plain", data_dir=tmp_path)
    assert "imported_by_data" not in sys.modules
