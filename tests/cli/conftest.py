import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import sample
from tests.cli.program import Project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A directory with the sample app; what is started there ends with the test."""
    shutil.copy(sample.__file__, tmp_path / "sample.py")
    project = Project(tmp_path, sample.app)
    yield project
    for program in project.programs:
        program.end()
