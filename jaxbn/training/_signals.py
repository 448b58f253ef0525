"""Signals: SIGINT and SIGTERM ask for an end; a second one does not wait for it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):
    """A run that was asked to end and has saved what it had."""


class StopRequest:
    """Whether an end was asked for; true from the first signal on."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal; the second ends the process at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Gives a `StopRequest` that SIGINT and SIGTERM set while the context lasts.

    Outside of the main thread, where Python takes no handlers, nothing sets it.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, request.handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
