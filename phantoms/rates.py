"""Every rate of the generator, from rates.toml; written beside the data as rates.json.

`table` also reads what is no rate: the words, the shapes of findings, and the layouts.

Size and density of the opacities were set so that boxes are about as large as those of real RSNA
images (median 6.7% of the picture), and not brighter against the mirrored place. No rate was set
by looking at what a model makes of it, and none is touched once methods are compared.

The sets differ as the real ones do: the RSNA-like set is mixed AP and PA with about half of its
images positive (RSNA was enriched), the MIMIC-like set is mostly portable AP, its reports about
pneumonia more often than not; the NIH-like one is measured only.
"""

import tomllib
from pathlib import Path


def table(name: str) -> dict:
    """The content of one of the generator's TOML files."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


RATES = table("rates")
