"""lm-evaluation-harness as an evaluator: `python -m graftwork.merge.evaluation.harness MODEL BASE [ARGUMENTS...]`.

Its command is run on the folder MODEL (on BASE with the adapter MODEL when BASE is not empty), and the numbers of its
results file are printed as JSON: `{"hellaswag": {"acc": 0.41, "acc_stderr": 0.02}}`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork.errors import OperationFailed


def main(model: str, base: str, *arguments: str) -> int:
    """Run it and print its numbers. Returns its exit code."""
    program = shutil.which("lm_eval")
    begin = [program] if program is not None else [sys.executable, "-m", "lm_eval"]
    loaded = f"pretrained={base},peft={model}" if base else f"pretrained={model}"
    with tempfile.TemporaryDirectory() as folder:
        command = [*begin, "--model", "hf", "--model_args", loaded, "--output_path", folder, *arguments]
        done = subprocess.run(command, check=False, stdout=sys.stderr)  # noqa: S603  what the operator configured
        if done.returncode:
            return done.returncode
        print(json.dumps(read_results(Path(folder))))
    return 0


def read_results(folder: Path) -> dict[str, dict[str, float]]:
    """The numbers by task and metric in the results file below `folder`. Raises OperationFailed without one."""
    files = sorted(folder.rglob("results*.json"))
    if not files:
        raise OperationFailed(what="lm-eval", reason="it wrote no results")
    tasks: Mapping[str, Mapping[str, Any]] = json.loads(files[-1].read_text(encoding="utf-8"))["results"]
    return {
        task: {
            metric.removesuffix(",none"): float(value)
            for metric, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for task, values in tasks.items()
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
