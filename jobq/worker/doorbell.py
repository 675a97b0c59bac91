"""How a worker tells its neighbours on the same machine that it is there, without a round trip to the broker.

A hint, and it may get lost: where there are no such sockets, or the neighbour is in another network namespace, it
learns of the new worker from its next sweep.
"""

import contextlib
import socket
import sys
from collections.abc import Iterable
from typing import Final

__all__ = ["Doorbell"]

_MOST: Final = 64
"""Rings that are heard in one go: a neighbour that does not stop ringing must not keep us at the door."""


class Doorbell:
    """One worker's bell. Anybody on the machine may ring it, so to be rung means no more than: look who is there."""

    def __init__(self, worker: str) -> None:
        self._socket = _listen(_address(worker))

    def heard(self) -> bool:
        """Whether it was rung since the last time; never waits."""
        rings = 0
        while rings < _MOST and self._rung():
            rings += 1
        return rings > 0

    def ring(self, workers: Iterable[str]) -> None:
        """Ring at those that have a bell."""
        if self._socket is None:
            return
        for worker in workers:
            with contextlib.suppress(OSError):  # nobody is there any more, or there are rings enough
                self._socket.sendto(b"", _address(worker))

    def close(self) -> None:
        """Take it down."""
        if self._socket is not None:
            self._socket.close()

    def _rung(self) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.recv(1)
        except OSError:
            return False
        return True


def _address(worker: str) -> bytes:
    """In Linux's abstract namespace, which needs no file: the name is free again when its process is gone."""
    return b"\0jobq-" + worker.encode("utf-8", "replace")


def _listen(address: bytes) -> socket.socket | None:
    if not sys.platform.startswith("linux"):
        return None
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        bell.bind(address)
    except OSError:  # e.g. a name of the user's own that is too long
        bell.close()
        return None
    return bell
