"""Where the tests run: eight CPU devices, no implicit rank promotion.

Warnings are errors by `pyproject.toml`. float64 is off by default, as for users; a
test that needs it says `with x64():`.
"""

import gc
import os
import tempfile

import hypothesis
import jax
import numpy as np
import pytest
from float64 import double_precision

# Programs run once here, so that what XLA spends on them is most of the time: half of
# it with less of LLVM, and the emitters of old where there still is a choice; a quarter
# less in one piece each, where workers have a core each. The pass on the floor versions
# has its own flags, and runs as users do.
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
FAST += " --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    FAST += " --xla_cpu_use_fusion_emitters=false"
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST}".strip()

# A garbage collection looks at all of JAX: a tenth of the time by default.
gc.set_threshold(100_000, 50, 100)

# Processes that tests start compile the same programs again and again.
PROGRAMS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def pytest_configure(config):
    """Gives processes a folder of compiled programs, one for all workers of xdist."""
    if hasattr(config, "workerinput"):
        return
    folder = tempfile.TemporaryDirectory(prefix="jaxbn-programs-")
    config.add_cleanup(folder.cleanup)
    os.environ.update(PROGRAMS, JAX_COMPILATION_CACHE_DIR=folder.name)


FIRST = (
    "test_processes.py",
    "test_train_script.py",
    "test_notebooks.py",
    "test_injections.py",
    "test_properties.py",
)
"""Files that take minutes, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items):
    """Begins with the longest files."""
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives a worker whole files, and of the laws whole rows of the catalog.

    What their tests share (a run, a compiled norm) is then made by one worker.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.partition("::")[0]
            row = nodeid.rpartition("-")[2] if path.endswith("test_laws.py") else ""
            return path + row

    config.option.loadscopereorder = False
    return Sharing(config, log)


def pytest_terminal_summary(terminalreporter):
    """Says what the properties ran, in whichever worker they did."""
    from tests.properties._tally import in_a_line, tally

    stats = terminalreporter.stats
    laws = tally([*stats.get("passed", ()), *stats.get("failed", ())])
    if laws:
        terminalreporter.write_line(in_a_line(laws))


# Before the first operation: both are refused once the backend has started. With
# JAX_NUM_CPU_DEVICES=1 the tests run as on a machine with one accelerator.
jax.config.update("jax_num_cpu_devices", int(os.environ.get("JAX_NUM_CPU_DEVICES", 8)))
if not jax.config.jax_platforms:
    jax.config.update("jax_platforms", "cpu")
if jax.config.jax_platforms != "cpu":
    # GPUs round the factors of float32 products to TF32, eleven bits, unless asked.
    jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples every time.
hypothesis.settings.register_profile(
    "fixed", deadline=None, derandomize=True, database=None, max_examples=6
)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(scope="module", autouse=True)
def forget():
    """Drops the programs of a file once its tests are done: gigabytes, in the end."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def x64():
    """`with x64():` for float64. Of session scope, so that hypothesis accepts it."""
    return double_precision


@pytest.fixture(scope="session")
def eight_devices():
    """The devices, eight of them, or a test that is skipped."""
    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip(f"needs 8 devices, {len(devices)} here; leave JAX_PLATFORMS unset")
    return devices[:8]


@pytest.fixture(scope="session")
def mesh(eight_devices):
    """Eight devices along one axis named 'devices'."""
    return jax.sharding.Mesh(np.array(eight_devices), ("devices",))
