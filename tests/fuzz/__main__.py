"""The longer run: ``python -m tests.fuzz --examples N``."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

from tests.fuzz.campaigns import CAMPAIGNS, run
from tests.fuzz.oracle import PLAYED


def main(arguments: Sequence[str]) -> None:
    """Run campaigns; exits with 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz a whole server, in one process.")
    parser.add_argument("campaigns", nargs="*", metavar="CAMPAIGN", help=f"of {', '.join(CAMPAIGNS)}; by default all")
    parser.add_argument("--examples", type=int, default=1000, metavar="N", help="of each campaign")
    parser.add_argument("--seed", type=int, metavar="N", help="tries the same examples again")
    parser.add_argument("--as-found", action="store_true", help="do not look for a simpler example of what is wrong")
    options = parser.parse_args(arguments)
    unknown = set(options.campaigns) - CAMPAIGNS.keys()
    if unknown:
        parser.error(f"there is no campaign {', '.join(sorted(unknown))}")
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    for name in options.campaigns or CAMPAIGNS:
        began = time.monotonic()
        print(f"{name}: {options.examples} examples, --seed {seed}", flush=True)
        try:
            run(CAMPAIGNS[name], options.examples, seed, simplify=not options.as_found)
        except Exception:
            print(f"again by: python -m tests.fuzz {name} --examples {options.examples} --seed {seed}", file=sys.stderr)
            raise
        print(f"   nothing wrong in {time.monotonic() - began:.0f} s", flush=True)
    for (what, status), count in sorted(PLAYED.items()):
        print(f"{count:6d} {status} {what}")


if __name__ == "__main__":
    main(sys.argv[1:])
