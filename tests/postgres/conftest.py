"""A schema for each test on the shared server."""

import itertools
import os

import pytest

_numbers = itertools.count()


@pytest.fixture
def schema() -> str:
    return f"test_{os.getpid()}_{next(_numbers)}"


@pytest.fixture
def url(postgres_url: str, schema: str) -> str:
    return f"{postgres_url}?schema={schema}"
