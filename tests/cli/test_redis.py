"""Workers and clients by the URLs of Redis that name several servers, or a socket."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.cli.program import Project
from tests.cli.sample import ping
from tests.redis import cluster, sentinel
from tests.servers import Server


@contextmanager
def by_sentinel() -> Generator[str]:
    with sentinel.started() as watched:
        yield watched.url


@contextmanager
def by_cluster() -> Generator[str]:
    with cluster.started() as nodes:
        yield nodes.url


@contextmanager
def by_socket() -> Generator[str]:
    with Server(arguments=("--unixsocket", "redis.sock", "--unixsocketperm", "777")) as server:
        server.directory.chmod(0o755)
        yield f"unix://{server.directory}/redis.sock"


@pytest.mark.parametrize("place", [by_sentinel, by_cluster, by_socket], ids=lambda place: place.__name__)
def test_a_worker_runs_jobs_from_every_kind_of_redis(
    project: Project, place: Callable[[], AbstractContextManager[str]]
) -> None:
    with place() as url:
        project.enqueue(ping.call(1), url=url)
        worker = project.start("-m", "jobq.worker", "sample:app", "--broker", url, "--burst")
        assert worker.wait() == 0, worker.err
    assert project.notes == ["ping 1"]
    assert f"  broker       {url}" in worker.seen
