"""Lifelines: how processes that train together notice at once that one is gone.

JAX leaves the survivors of a killed process hanging in a collective, or for 94 s in
its barrier at exit, and does not say who was lost. Here every process holds a TCP
connection to process 0. The kernel closes it when a process ends, however it ends, and
what ends without a goodbye is lost: process 0 tells the others who it was.

A machine that vanishes without closing anything (power, network) is left to JAX's own
heartbeat, which ends the others after some 100 s.
"""

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

GOODBYE = b"bye!"
_LOST = b"lost"
_WORD = 8
"""Bytes of a message: four letters and a process id."""
_PACKED = 64


class Invitation(NamedTuple):
    """What a process needs to join.

    Attributes:
        host: the address of process 0.
        port: where it listens.
        token: that a process must show.
    """

    host: str
    port: int
    token: bytes

    def pack(self) -> bytes:
        """Returns 64 bytes, whatever the host.

        Raises:
            ValueError: if the address of the host has more than 46 bytes.
        """
        host = self.host.encode()
        room = _PACKED - 18
        if len(host) > room:
            raise ValueError(
                f"host is {self.host!r}, expected an address of at most {room} bytes; "
                "pass the number, not the name"
            )
        return self.token + self.port.to_bytes(2, "big") + host.ljust(room, b"\0")

    @classmethod
    def unpack(cls, packed: bytes) -> "Invitation":
        """Returns what `pack` packed."""
        host = packed[18:].rstrip(b"\0").decode()
        return cls(host, int.from_bytes(packed[16:18], "big"), packed[:16])


class Lifeline:
    """Connections to other processes, each watched by a thread.

    Args:
        on_loss: called once, with the process that was lost, from such a thread.
    """

    def __init__(self, on_loss: Callable[[int], None]):
        self._on_loss = on_loss
        self._lock = threading.Lock()
        self._ended = False
        self._peers: dict[int, socket.socket] = {}
        self._gone: set[int] = set()
        self._door: socket.socket | None = None

    def close(self) -> None:
        """Says goodbye, so that no other process takes the end of this one for a loss.

        On process 0 the others have two seconds to say theirs.
        """
        with self._lock:
            self._ended = True
            peers = dict(self._peers)
        for peer in peers.values():
            _send(peer, GOODBYE, 0)
        deadline = time.monotonic() + 2
        while self._door and set(peers) - self._gone and time.monotonic() < deadline:
            time.sleep(0.01)
        for connection in (self._door, *peers.values()):
            if connection is not None:
                _shut(connection)

    def hold(self, process: int, peer: socket.socket) -> None:
        """Watches `peer`, which is process `process`, until it goes."""
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with self._lock:
            self._peers[process] = peer
        threading.Thread(target=self._watch, args=(process, peer), daemon=True).start()

    def _watch(self, process: int, peer: socket.socket) -> None:
        message = _receive(peer, _WORD)
        self._gone.add(process)
        if message[:4] == GOODBYE:
            return
        lost = int.from_bytes(message[4:], "big") if message[:4] == _LOST else process
        with self._lock:
            if self._ended:
                return
            self._ended = True
            others = [p for number, p in self._peers.items() if number != process]
        for other in others:
            _send(other, _LOST, lost)
        self._on_loss(lost)


def listen(
    num_processes: int, on_loss: Callable[[int], None], *, host: str = "127.0.0.1"
) -> tuple[Lifeline, Invitation]:
    """Returns the lifeline of process 0, and what the others join by; at once.

    Args:
        num_processes: that train together, this one included.
        on_loss: called once, with the process that was lost.
        host: the address, a number, at which the others reach this process.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.create_server((host, 0), family=family, backlog=num_processes)
    invitation = Invitation(host, door.getsockname()[1], secrets.token_bytes(16))
    lifeline = Lifeline(on_loss)
    lifeline._door = door
    arguments = (lifeline, door, invitation.token, num_processes)
    threading.Thread(target=_welcome, args=arguments, daemon=True).start()
    return lifeline, invitation


def join(
    invitation: Invitation,
    process_id: int,
    on_loss: Callable[[int], None],
    timeout: float = 60.0,
) -> Lifeline:
    """Returns the lifeline of another process.

    Args:
        invitation: of process 0.
        process_id: of this one.
        on_loss: called once, with the process that was lost.
        timeout: seconds to wait for process 0.
    """
    where = (invitation.host, invitation.port)
    peer = socket.create_connection(where, timeout=timeout)
    peer.sendall(invitation.token + process_id.to_bytes(4, "big"))
    lifeline = Lifeline(on_loss)
    lifeline.hold(0, peer)
    return lifeline


def leave(code: int) -> NoReturn:
    """Ends the process at once, after what was printed is out.

    The usual way waits 94 s for processes that will not come, in JAX's barrier.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _welcome(
    lifeline: Lifeline, door: socket.socket, token: bytes, num_processes: int
) -> None:
    """Takes in the other processes, and nobody else."""
    missing = set(range(1, num_processes))
    while missing:
        try:
            peer, _ = door.accept()
        except OSError:
            return
        peer.settimeout(5)
        said = _receive(peer, len(token) + 4)
        process = int.from_bytes(said[len(token) :], "big")
        if not secrets.compare_digest(said[: len(token)], token):
            process = -1
        if process not in missing:
            _shut(peer)
            continue
        missing.discard(process)
        lifeline.hold(process, peer)


def _receive(peer: socket.socket, size: int) -> bytes:
    """Returns `size` bytes, or fewer if the other end is gone."""
    data = b""
    with contextlib.suppress(OSError):
        while len(data) < size and (more := peer.recv(size - len(data))):
            data += more
    return data


def _send(peer: socket.socket, word: bytes, process: int) -> None:
    with contextlib.suppress(OSError):  # It may be gone too.
        peer.sendall(word + process.to_bytes(_WORD - len(word), "big"))


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
