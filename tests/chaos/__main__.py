"""``make chaos N=1000``: faults drawn from a seed against the whole house; ``build/chaos.json`` and a table.

``SEED=…`` repeats a run. ``M=demo`` serves the bundled model instead of the one that counts. ``MINUTES=30`` holds 500
slow streams open so long, with a fault each minute, and tells how much the processes that nothing hit have grown.
``ROWS=5000`` kills a process every second or so while a batch of so many rows runs. Exit status 1 when anything was
lost, doubled, left out, repeated or changed.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

from common.settings import REPOSITORY
from tests.chaos import batch
from tests.chaos.faults import HEAVY, KINDS, STEADY
from tests.chaos.history import fixed
from tests.chaos.house import DEMO, SLOW, Size
from tests.chaos.run import Order, by_asking, by_counting, run

OUT = REPOSITORY / "build" / "chaos.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--minutes", type=int, default=0)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--model", choices=("counting", "demo"), default="counting")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="these kinds of faults")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--keep", type=Path, help="where the processes' logs stay")
    told = parser.parse_args()
    order = Order(told.seed, told.faults, clients=told.clients, kinds=tuple(told.only))
    answers = by_counting
    if told.model == "demo":
        kinds = tuple(kind for kind in told.only if not kind.startswith("step"))  # it obeys nobody
        order = replace(order, size=Size(workers=2), kinds=kinds, toml=DEMO, questions=fixed)
        answers = by_asking
    if told.minutes:
        kinds = tuple(kind for kind in told.only if kind in STEADY)
        order = replace(order, faults=told.minutes - 1, every_s=60.0, spared=1, clients=500, kinds=kinds, toml=SLOW)
        order = replace(order, deadline_s=900.0)  # their answers take minutes
        order = replace(order, first=HEAVY)  # so that what is spared has had its full load before it is watched
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())  # then what was found so far is told
    with tempfile.TemporaryDirectory() as folder:
        place = told.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        if told.rows:
            outcome = batch.killed(place, told.rows, told.seed, stop, _say)
            _say(json.dumps(outcome.told()))
            return 0 if outcome.is_good() else 1
        report = run(order, place, _say, answers, stop)
    report.write(told.out)
    _say(report.table())
    return 0 if report.is_good() else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
