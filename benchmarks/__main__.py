"""`python -m benchmarks`: every benchmark in turn, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "benchmarks.kernels",
    "benchmarks.merge",
    "benchmarks.merge.kills",
    "benchmarks.merge.memory",
    "benchmarks.serving.embeddings",
    "benchmarks.serving",
    "benchmarks.serving.throughput",
)


def main() -> int:
    """Run them all; 1 when one of them fails."""
    failed = []
    for module in BENCHMARKS:
        print(f"\n{module}", flush=True)
        if subprocess.run([sys.executable, "-m", module], check=False).returncode != 0:
            failed.append(module)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
