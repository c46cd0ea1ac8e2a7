"""`python -m bench [NAME...]`: run some or all benchmarks, print and keep their tables.

They are kept under artifacts/bench/.
"""

import sys
from importlib import import_module
from pathlib import Path

from bench import COLUMNS
from pnloc.files import write_table

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; an unknown name ends with exit status 2."""
    known = sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark '{unknown[0]}'; there are {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names or known:
        print(f"{name}: running", flush=True)
        table = import_module(f"bench.{name}").run()[COLUMNS]
        write_table(HERE.parent / "artifacts" / "bench" / f"{name}.csv", table)
        print(table.to_string(index=False, float_format=lambda v: f"{v:.3g}"), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
