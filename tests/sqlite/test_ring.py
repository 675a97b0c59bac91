"""How a process that stores a job wakes those that wait for one."""

import errno
import fcntl
import os
import select
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from jobq_sqlite._ring import Ear, ring

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere files cannot be watched")


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[tuple[str, int]]:
    path = str(tmp_path / "bell")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    yield path, fd
    os.close(fd)


def hears(ear: Ear) -> bool:
    assert ear.heard is not None
    readable, _, _ = select.select([ear.heard], [], [], 0)
    ear.heard.clear()
    return bool(readable)


def test_everybody_who_listens_hears_a_ring(bell: tuple[str, int]) -> None:
    path, fd = bell
    with closing(Ear(path)) as one, closing(Ear(path)) as other:
        one.listen(on=True)
        other.listen(on=True)
        ring(path, fd)
        assert hears(one)
        assert hears(other)
        one.listen(on=False)
        ring(path, fd)
        assert hears(other)


def test_nobody_rings_while_nobody_listens(bell: tuple[str, int]) -> None:
    path, fd = bell
    with closing(Ear(path)) as ear:
        ring(path, fd)
        assert not hears(ear)
        ear.listen(on=True)
        ear.listen(on=False)
        ring(path, fd)
        assert not hears(ear)


def test_who_listened_and_is_gone_is_not_rung_at(bell: tuple[str, int]) -> None:
    path, fd = bell
    with closing(Ear(path)) as ear:
        with closing(Ear(path)) as gone:
            gone.listen(on=True)
        hears(ear)  # it has closed the file
        ring(path, fd)
        assert not hears(ear)


def test_a_ring_leaves_the_file_alone(bell: tuple[str, int]) -> None:
    path, fd = bell
    before = os.fstat(fd)
    with closing(Ear(path)) as ear:
        ear.listen(on=True)
        ring(path, fd)
    after = os.fstat(fd)
    assert (after.st_size, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_where_there_are_no_such_locks_everybody_rings_always(
    bell: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    path, fd = bell
    with closing(Ear(path)) as ear:
        ear.listen(on=True)
        ring(path, fd)
        assert hears(ear)
