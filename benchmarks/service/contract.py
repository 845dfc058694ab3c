"""Ask a real server what its OpenAPI document says can be asked, and compare the answers with the document.

    python -m benchmarks.service.contract [--examples 200] [--seed 0] [--only PATH-PATTERN]

Requests are made by schemathesis from the document's schemas, good ones and broken ones. Fails when an answer is a
5xx, or a status, a media type or a body that the document does not know.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from graftwork.testing.contract import check, served


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=200, help="requests an operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a pattern of METHOD PATH")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url:
        answers = check(url, examples=given.examples, seed=given.seed, only=given.only)
    print(f"{sum(answers.statuses.values()):,} requests; {dict(sorted(answers.statuses.items()))}")
    for what, how in answers.wrong.items():
        print(f"{what}\n  {how}", file=sys.stderr)
    return 1 if answers.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
