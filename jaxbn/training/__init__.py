"""Training: a configuration, pure steps, and a loop that can be killed.

    from jaxbn.training import TrainConfig, fit
    summary = fit(TrainConfig(dataset='digits', num_epochs=5))

`_config` says what can be chosen, `_state` and `_step` what happens on a device,
`_parallel` how several share it, `_processes` how several processes do, `_loop` in
which order, `_run` from the flags to the exit code, the others what is kept.
"""

from jaxbn.training._checkpoint import check_checkpoints as check_checkpoints
from jaxbn.training._config import ConfigError as ConfigError
from jaxbn.training._config import TrainConfig as TrainConfig
from jaxbn.training._divergence import Diverged as Diverged
from jaxbn.training._run import fit as fit
from jaxbn.training._run import run as run
from jaxbn.training._serve import export_trained as export_trained
from jaxbn.training._serve import fold_trained as fold_trained
from jaxbn.training._signals import Interrupted as Interrupted
from jaxbn.training._state import TrainState as TrainState
from jaxbn.training._trained import Trained as Trained
from jaxbn.training._trained import load_trained as load_trained
