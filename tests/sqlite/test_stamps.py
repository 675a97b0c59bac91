"""Stamps are remembered by the process, for each file."""

from pathlib import Path

import pytest

from jobq.model import Stamp
from jobq_sqlite import SqliteBroker, _stamps
from jobq_sqlite._stamps import Stamps
from tests.sqlite.tools import fetch, job, url_of


async def test_a_repeat_is_known_to_every_broker_on_the_file(tmp_path: Path) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        await broker.enqueue([job("a")], Stamp("c", 1))
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker, SqliteBroker(url_of(tmp_path / "b.db")) as other:
        assert len(await fetch(broker)) == 1
        assert [answer.fate for answer in await broker.enqueue([job("a")], Stamp("c", 1))] == ["stored"]
        assert [answer.fate for answer in await other.enqueue([job("a")], Stamp("c", 1))] == ["stored"]
        assert len(await fetch(broker)) == 1
        assert len(await fetch(other)) == 1


def test_clients_that_have_been_quiet_for_long_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stamps, "_MOST", 3)
    stamps = Stamps()
    for client in ("a", "b", "c"):
        stamps.remember(Stamp(client, 1), frozenset())
    stamps.remember(Stamp("a", 2), frozenset({0}))
    stamps.remember(Stamp("d", 1), frozenset())
    assert stamps.known(Stamp("a", 2)) == frozenset({0})
    assert stamps.known(Stamp("a", 1)) == frozenset()
    assert stamps.known(Stamp("b", 1)) is None
    assert stamps.known(Stamp("c", 1)) == frozenset()
