"""Generated data (in progress)."""
from dataclasses import dataclass


@dataclass(frozen=True)
class DemoSize:
    variants: int
    rsna: int
    mimic: int
    chestxray8: int
    covid: int
    side: int = 256
