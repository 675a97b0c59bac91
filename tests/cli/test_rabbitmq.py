"""The demo on RabbitMQ."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from tests.cli.program import Project
from tests.rmq.tidy import Namespace


@pytest.fixture
def namespace(rabbitmq_url: str) -> Iterator[Namespace]:
    namespace = Namespace(rabbitmq_url, f"demo-{os.getpid()}", "quorum")
    yield namespace
    asyncio.run(namespace.delete())


@pytest.mark.parametrize(("options", "last"), [((), ""), (("--kill",), ", though a worker was killed")])
def test_the_demo_finds_every_file_done(
    project: Project, namespace: Namespace, options: tuple[str, ...], last: str
) -> None:
    for number in range(120):
        project.write(f"files/{number}.txt", "three little words\n" * number)
    program = project.start("-m", "jobq", "demo", "files", "--broker", namespace.url, *options)
    assert program.wait() == 0, program.err
    assert program.out[-1] == f"every file has its result{last}"
    assert any(line.split()[:5] == ["files", "done", "120", "of", "120,"] for line in program.out)
