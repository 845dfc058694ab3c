"""Feed everything that reads what others send with inputs that are nearly valid.

    python -m benchmarks.service.fuzz [--minutes 60] [--cases N] [--seed 0] [--targets recipes multipart]

Each target starts from valid inputs and changes them knowing what they are made of. Whatever comes out other than a
GraftworkError is a failure, and so are a case of over 5 seconds, a file left behind, an open descriptor. The same seed
gives the same cases. Prints a line a target, and each failure with the case that made it; fails if there is one.
"""

from __future__ import annotations

import argparse
import logging
import sys

from benchmarks.service.fuzz.targets import targets
from benchmarks.service.fuzz.watch import fuzz

DEFAULT_MINUTES = 60.0
SHARES = {"plans": 0.5}
"""Of the time of one target, for those that are slow and would find little more in the rest of it."""


def main() -> int:
    """Run it once."""
    known = {target.name: target for target in targets()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=DEFAULT_MINUTES, help="in all")
    parser.add_argument("--cases", type=int, default=10**9, help="at most so many of each target")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", choices=sorted(known), default=sorted(known))
    given = parser.parse_args()
    logging.disable()  # of what the parsers say about each body that they refuse
    seconds = given.minutes * 60 / len(given.targets)
    total, failed = 0, 0
    for name in given.targets:
        share = seconds * SHARES.get(name, 1.0)
        tally = fuzz(known[name], seed=given.seed, cases=given.cases, seconds=share, first=given.first)
        print(tally, flush=True)
        for what, how in tally.failures.items():
            print(f"  {what}\n    {how.replace(chr(10), chr(10) + '    ')}", file=sys.stderr, flush=True)
        total += tally.cases
        failed += len(tally.failures)
    print(f"{total:,} cases, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
