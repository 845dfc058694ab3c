"""Triton's interpreter: it must be chosen before Triton is first imported."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
