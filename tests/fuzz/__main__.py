"""`python -m tests.fuzz --minutes 10 --seed 0`: new failures are written as small files into a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .runner import run


def main() -> int:
    from .cases import KINDS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    done, failures = run(options.kinds, options.seed, 10**9, 60 * options.minutes, options.out)
    for kind in options.kinds:
        found = sum(failure.kind == kind for failure in failures)
        print(f"{kind}: {done[kind]:,} cases, {found} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
