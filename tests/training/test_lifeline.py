"""A lost process is named to all others, a goodbye is no loss, strangers stay out."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxbn.training._lifeline import Invitation, listen

FILE = Path(__file__).parents[2] / "jaxbn" / "training" / "_lifeline.py"
PEER = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("lifeline", {str(FILE)!r})
lifeline = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lifeline)
def lost(process):
    print("lost", process, flush=True)
index = int(sys.argv[1])
if index == 0:
    line, invitation = lifeline.listen(3, lost)
    print(invitation.pack().hex(), flush=True)
else:
    invitation = lifeline.Invitation.unpack(bytes.fromhex(sys.argv[2]))
    line = lifeline.join(invitation, index, lost)
    print("joined", flush=True)
sys.stdin.readline()
line.close()
print("closed", flush=True)
time.sleep(0.5)
lifeline.leave(7)
"""


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PEER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def three():
    """Yields three tied processes and the invitation."""
    processes = [start("0")]
    try:
        packed = processes[0].stdout.readline().strip()
        processes += [start(str(i), packed) for i in (1, 2)]
        for process in processes[1:]:
            assert process.stdout.readline() == "joined\n"
        time.sleep(0.2)
        yield processes, Invitation.unpack(bytes.fromhex(packed))
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_the_others_learn_who_was_killed(lost):
    with three() as (processes, _):
        processes[lost].send_signal(signal.SIGKILL)
        began = time.monotonic()
        for i, process in enumerate(processes):
            if i != lost:
                assert process.stdout.readline() == f"lost {lost}\n"
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_goodbye_is_no_loss(order):
    with three() as (processes, _):
        for i in order:
            processes[i].stdin.write("\n")
            processes[i].stdin.flush()
            time.sleep(0.05)
        for process in processes:
            assert process.stdout.readline() == "closed\n"
            assert process.stdout.readline() == ""
            assert process.wait(5) == 7


def test_strangers_stay_out():
    with three() as (processes, invitation):
        wrong = bytes(16) + (1).to_bytes(4, "big")
        with socket.create_connection((invitation.host, invitation.port)) as stranger:
            stranger.sendall(wrong)
        processes[2].send_signal(signal.SIGKILL)
        assert processes[0].stdout.readline() == "lost 2\n"


def test_an_invitation_is_64_bytes():
    for host in ("127.0.0.1", "2001:db8:85a3:8d3:1319:8a2e:370:7348"):
        invitation = Invitation(host, 65535, bytes(range(16)))
        assert len(invitation.pack()) == 64
        assert Invitation.unpack(invitation.pack()) == invitation
    words = "expected an address of at most 46 bytes; pass the number, not the name"
    with pytest.raises(ValueError, match=re.escape(words)):
        Invitation("a" * 47, 1, bytes(16)).pack()


def test_closing_twice_and_alone():
    line, _ = listen(1, pytest.fail)
    line.close()
    line.close()
