"""``python -m ops.bench``: all figures as one table, and in ``build/bench.json``; names in the call choose parts.

Parts that were not chosen keep their figures in the file.
"""

import importlib
import json
import sys
from pathlib import Path

PARTS = (
    "engine",
    "constrained",
    "transport",
    "order",
    "overload",
    "batches",
    "peers",
    "whole",
    "schemas",
    "tools",
    "attacks",
    "samples",
)
OUT = Path("build") / "bench.json"


def main() -> None:
    """Measure, print, write."""
    figures: dict[str, float] = {}
    for part in sys.argv[1:] or PARTS:
        print(f"# {part}", file=sys.stderr, flush=True)
        figures |= importlib.import_module(f"ops.bench.{part}").measure()
    for name, figure in figures.items():
        print(f"{name:44} {figure:12.3f}")
    OUT.parent.mkdir(exist_ok=True)
    before = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.write_text(json.dumps(before | figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
