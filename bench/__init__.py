"""Speed, as ratios within one run on one machine: `make bench`, or `python -m bench NAME...`.

Each module here has `run() -> pandas.DataFrame` with the columns of `COLUMNS`, one row per
comparison. Nothing here is asserted in a test: a machine under load would fail it.
"""

COLUMNS = ["what", "ours", "other", "unit", "ratio", "bar", "met"]
