"""Without a GPU, Triton interprets its kernels; it reads the choice when it is first imported."""

import os

import pytest
import torch

# no setting of Graftwork's: taken away before anything reads the environment
VLLM_PYTHON = os.environ.pop("GRAFTWORK_VLLM_PYTHON", "")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--vllm-python", default=VLLM_PYTHON, help="an interpreter that has vLLM, for the tests against a real server"
    )
