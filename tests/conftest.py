"""Without a GPU, Triton interprets its kernels; it reads the choice when it is first imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
