"""A run as a command: every end has a code, and every failure one line."""

import sys

from jaxbn.data import DatasetUnavailable
from jaxbn.training._config import ConfigError, TrainConfig
from jaxbn.training._loop import fit
from jaxbn.training._signals import Interrupted

DONE, FAILED, BAD_FLAGS, INTERRUPTED = 0, 1, 2, 130


def run(config: TrainConfig) -> int:
    """Trains as `config` says and returns the exit code of the process.

    0 done; 1 a failure that one line on standard error explains; 2 flags that cannot
    be run; 130 interrupted, after saving.
    """
    try:
        fit(config)
    except ConfigError as error:
        return _say(error, BAD_FLAGS)
    except Interrupted as error:
        return _say(error, INTERRUPTED)
    except KeyboardInterrupt:
        return _say("interrupted at once; the last checkpoint is whole", INTERRUPTED)
    except (DatasetUnavailable, OSError, ValueError) as error:
        return _say(error, FAILED)
    return DONE


def _say(error: object, code: int) -> int:
    first = str(error).strip().splitlines() or [type(error).__name__]
    print(f"train.py: {first[0]}", file=sys.stderr, flush=True)
    return code
