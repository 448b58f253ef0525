"""Silence for what TFDS and its dependencies print, log and warn about."""

import contextlib
import io
import logging
import warnings
from collections.abc import Generator

LOUD_LOGGERS = ("absl", "urllib3.connectionpool", "tensorflow")


@contextlib.contextmanager
def quiet() -> Generator[None, None, None]:
    """Hides prints, progress bars, log records and warnings of TFDS while it runs.

    What matters of them reaches the caller as the message of an exception.

    Example:
        >>> with quiet():
        ...     print('Failed to import TensorFlow.')
    """
    loggers = [logging.getLogger(name) for name in LOUD_LOGGERS]
    for logger in loggers:
        logger.addFilter(_drop)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False
