"""What a reader sees: figures, tables and overlays, with one colour for each method."""

from pathlib import Path

import pandas as pd

LOOKS = pd.read_csv(Path(__file__).with_name("looks.csv"), index_col="method")
OURS = LOOKS.at["text-attention", "colour"]
