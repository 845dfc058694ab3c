"""An environment of its own for mergekit, whose dependencies are not Graftwork's."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

FOLDER = Path.home() / ".cache" / "graftwork" / "mergekit-0.1.5"
WANTED = "mergekit==0.1.5"


def mergekit_python() -> Path:
    """The environment's Python; it is made on first use, with the torch that is installed here."""
    python = FOLDER / "bin" / "python"
    if not (FOLDER / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"torch=={version('torch')}", WANTED], check=True)
        (FOLDER / "complete").touch()
    return python
