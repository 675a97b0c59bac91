"""URLs, and files that are not as they should be."""

import logging
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from jobq.errors import BrokerRefused, BrokerUnavailable, ConfigError
from jobq_sqlite import SqliteBroker
from jobq_sqlite import _mounts as mounts
from jobq_sqlite._open import APPLICATION_ID, SCHEMA_VERSION, connect
from jobq_sqlite._url import Place, parse
from tests.sqlite.tools import fetch, put, raw, url_of


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite:///jobs.db", Place(Path("jobs.db"))),
        ("sqlite:////var/lib/jobs.db", Place(Path("/var/lib/jobs.db"))),
        ("sqlite:///some/where/a%20b%3F.db", Place(Path("some/where/a b?.db"))),
        ("sqlite:///jobs.db?synchronous=NORMAL&timeout=0.5", Place(Path("jobs.db"), "normal", 0.5)),
    ],
)
def test_a_url_names_a_file_and_options(url: str, place: Place) -> None:
    assert parse(url) == place
    assert SqliteBroker(url).url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite://jobs.db", "sqlite:///relative"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///jobs.db/", "not the name of a file"),
        ("sqlite:///jobs%00.db", "not the name of a file"),
        ("redis:///jobs.db", "not a SQLite URL"),
        ("sqlite:///jobs.db#x", "not a SQLite URL"),
        ("sqlite:///jobs.db?synchronous=maybe", "synchronous is one of"),
        ("sqlite:///jobs.db?timeout=0", "timeout is a number"),
        ("sqlite:///jobs.db?timeout=nan", "timeout is a number"),
        ("sqlite:///jobs.db?timeout=soon", "timeout is a number"),
        ("sqlite:///jobs.db?sync=full", "unknown option 'sync'"),
        ("sqlite:///jobs.db?what", "name=value"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        SqliteBroker(url)


async def test_the_files_are_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    umask = os.umask(0)
    try:
        async with SqliteBroker(url_of(path)) as broker:
            await put(broker, "a")
            modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(umask)
    assert modes == {0o600}


async def test_a_file_that_everybody_can_read_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)):
        pass
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        async with SqliteBroker(url_of(path)):
            pass
    assert "chmod 600" in caplog.text


async def refused(url: str, why: str) -> None:
    with pytest.raises(BrokerRefused, match=why):
        await SqliteBroker(url).__aenter__()


async def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    await refused(url_of(tmp_path / "no" / "jobs.db"), "directory must exist")


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    await refused(url_of(tmp_path), "must be writable")


async def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(b"Dear diary, " * 1000)
    await refused(url_of(path), "not a database")
    assert path.read_bytes() == b"Dear diary, " * 1000


async def test_the_database_of_another_application_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with raw(path) as db:
        db.execute("CREATE TABLE orders (id INTEGER)")
    before = path.read_bytes()
    await refused(url_of(path), "another application")
    assert path.read_bytes() == before


class Interruption:
    """Another opens the file, and makes its schema if it is allowed to, in front of the n-th statement of the first."""

    def __init__(self, place: Place, statement: int) -> None:
        self._place = place
        self._left = statement
        self._connect = sqlite3.connect
        self._first = True
        self.done = False

    def connect(self, *given: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = self._connect(*given, **options)
        if self._first:
            self._first = False
            db.set_trace_callback(self._count)
        return db

    def _count(self, _: str) -> None:
        self._left -= 1
        if self._left == 0:
            self.done = True
            with suppress(BrokerUnavailable):  # the first has a lock
                connect(self._place).close()


def test_whenever_another_opens_a_new_file_both_can_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number, done = 0, True
    while done:
        number += 1
        place = Place(tmp_path / f"{number}.db", timeout=0.02)
        other = Interruption(place, number)
        with monkeypatch.context() as patched:
            patched.setattr("sqlite3.connect", other.connect)
            with closing(connect(place)) as db:
                assert db.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
        connect(place).close()
        done = other.done
    assert number > 10


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)):
        pass
    with raw(path) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    await refused(url_of(path), "newer jobq")


async def test_an_empty_file_is_welcome(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.touch(mode=0o600)
    async with SqliteBroker(url_of(path)) as broker:
        await put(broker, "a")
        assert len(await fetch(broker)) == 1


async def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    await refused(url_of(tmp_path / "jobs.db"), "needs 3.35.0")


READ_ONLY = """
import asyncio, sys
from jobq_sqlite import SqliteBroker
try:
    asyncio.run(SqliteBroker(sys.argv[1]).__aenter__())
except Exception as exc:
    print(type(exc).__name__, exc)
"""


@pytest.mark.parametrize("exists", [True, False])
async def test_a_read_only_directory_is_refused(tmp_path: Path, *, exists: bool) -> None:
    path = tmp_path / "jobs.db"
    if exists:
        async with SqliteBroker(url_of(path)):
            pass
    command = [sys.executable, "-c", READ_ONLY, url_of(path)]
    if os.geteuid() == 0:  # root may write anywhere, except where nobody may
        mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
        command = ["unshare", "--mount", "sh", "-c", f'{mount} || exit 77; exec "$@"', "sh", *command]
    else:
        tmp_path.chmod(0o500)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    tmp_path.chmod(0o700)
    if result.returncode in {1, 77} and not result.stdout:
        pytest.skip(f"no mounts here: {result.stderr}")
    assert "BrokerRefused" in result.stdout
    assert "writable" in result.stdout


MOUNTINFO = r"""
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:20 / /proc rw,nosuid - proc proc rw
30 21 0:30 / /srv/share rw,relatime shared:9 master:2 - nfs4 host:/export rw,vers=4.2
31 30 0:31 / /srv/share/local rw - ext4 /dev/vdb rw
32 21 0:32 / /mnt/my\040disk rw - cifs //host/share rw
33 21 0:33 / /mnt/twice rw - nfs host:/a rw
34 21 0:34 / /mnt/twice rw - tmpfs tmpfs rw
35 21 0:35 / /home/me/remote rw - fuse.sshfs me@host:/ rw
36 broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/jobs.db", "ext4"),
        ("/srv/share/jobs.db", "nfs4"),
        ("/srv/shared/jobs.db", "ext4"),
        ("/srv/share/local/jobs.db", "ext4"),
        ("/mnt/my disk/jobs.db", "cifs"),
        ("/mnt/twice/jobs.db", "tmpfs"),
        ("/home/me/remote/jobs.db", "fuse.sshfs"),
    ],
)
def test_the_mount_of_a_path_is_found(path: str, kind: str) -> None:
    assert mounts.kind_of(Path(path), MOUNTINFO) == kind


async def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "mountinfo"
    info.write_text(f"30 21 0:30 / {tmp_path} rw - nfs4 host:/export rw\n")
    monkeypatch.setattr(mounts, "_MOUNTINFO", info)
    await refused(url_of(tmp_path / "jobs.db"), r"network file system \(nfs4\).*redis://")
    assert not (tmp_path / "jobs.db").exists()


def test_without_mountinfo_every_file_system_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_MOUNTINFO", tmp_path / "missing")
    assert mounts.network_kind(tmp_path) is None


async def test_a_broker_works_only_while_it_is_entered(tmp_path: Path) -> None:
    broker = SqliteBroker(url_of(tmp_path / "jobs.db"))
    with pytest.raises(BrokerUnavailable, match="async with"):
        await put(broker, "a")
    async with broker:
        await put(broker, "a")
    with pytest.raises(BrokerUnavailable, match="async with"):
        await broker.wait(["default"], 1)
    async with broker:
        assert len(await fetch(broker)) == 1


async def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with SqliteBroker("sqlite:///jobs.db") as broker:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        async with broker.twin() as twin:
            await put(twin, "a")
        assert len(await fetch(broker)) == 1
    assert not list((tmp_path / "elsewhere").iterdir())
