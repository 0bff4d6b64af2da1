"""`make fuzz`: mutants of .cvl files through reader and verification, until the time or the count is up."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from container.fuzzing import fuzz
from container.seeds import coders, seeds

BATCH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--count", type=int, help="mutants in all, whatever the time")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    began, done, outcomes = time.monotonic(), 0, Counter[str]()
    print(f"seed {options.seed}")
    while done < options.count if options.count else time.monotonic() - began < options.minutes * 60:
        outcomes += fuzz(seeds(), coders(), BATCH, options.seed + done)
        done += BATCH
    rate = done / (time.monotonic() - began)
    print(f"{done} mutants, {rate:.0f} per second: {dict(outcomes.most_common())}")


if __name__ == "__main__":
    main()
