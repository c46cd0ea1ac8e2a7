"""Phrases: what a report asserts of an opacity, as places that a region can agree with.

A phrase is one finding of a report. Its place is a set of the six PLACES of the two lungs: 'right lower lobe' is one cell,
'left lung' three, 'at both bases' two phrases of one cell each, an opacity without a place all six.
"""

import re
from dataclasses import dataclass

import numpy as np

from pnloc.model import PLACES
from pnloc.reports.findings import Finding, findings
from pnloc.reports.sentences import Splitter

# Zones beside the three thirds: where they lie among these.
_ZONES = {
    "upper": ("upper",),
    "middle": ("middle",),
    "lower": ("lower",),
    "lingula": ("middle", "lower"),
    "perihilar": ("middle",),
    "retrocardiac": ("lower",),
}
MOST = 4  # phrases kept per report
ASSERTED = ("affirmed", "hedged")
_NOUN = re.compile(
    r"\s+(?:lobes?|lungs?|zones?|bases?|fields?|regions?|area|aspect|hemithorax)\b", re.I
)


@dataclass(frozen=True)
class Phrase:
    """A finding: its words, assertion, and the cells [6] (0 or 1) that its place allows; see PLACES."""

    text: str
    assertion: str
    cells: tuple[float, ...]

    @property
    def asserted(self) -> bool:
        """Whether the report asserts it, hedged or not."""
        return self.assertion in ASSERTED


def _cells(sides: set[str], zones: set[str]) -> tuple[float, ...]:
    return tuple(float(side in sides and zone in zones) for side, zone in PLACES)


def places(attributes: frozenset[str] | set[str]) -> list[tuple[float, ...]]:
    """Places of one finding from its attributes ('side:right', 'zone:lower', ...): one, or one per side if it names both."""
    said = {
        group: {a.split(":")[1] for a in attributes if a.startswith(group)}
        for group in ("side", "zone")
    }
    if said["zone"] & {"lingula", "retrocardiac"} and not said["side"]:
        said["side"] = {"left"}  # the lingula is; most of the lung behind the heart is
    zones = {z for name in said["zone"] for z in _ZONES[name]} or {"upper", "middle", "lower"}
    sides = {"right", "left"} if "bilateral" in said["side"] else said["side"]
    return [_cells({side}, zones) for side in ("right", "left") if side in sides] or [
        _cells({"right", "left"}, zones)
    ]


def _words(text: str, finding: Finding) -> str:
    """The words of a report from the first to the last that name a finding or describe it, with the noun of the place."""
    spans = [finding.span, *((start, end) for start, end, _ in finding.marks)]
    start, end = min(s for s, _ in spans), max(e for _, e in spans)
    noun = _NOUN.match(text, end)
    return " ".join(text[start : noun.end() if noun else end].split())


def phrases(text: str, splitter: Splitter | None = None) -> list[Phrase]:
    """Every finding of a report with its places, in order; a finding on both sides gives two phrases."""
    return [
        Phrase(_words(text, found), found.assertion, cells)
        for found in findings(text, splitter)
        for cells in places(found.attributes)
    ]


def asserted_places(text: str, splitter: Splitter | None = None, most: int = MOST) -> np.ndarray:
    """Distinct places [n, 6] float32 of the opacities that a report asserts (hedged ones included), n at most `most`.

    A place that contains another one is dropped: 'pneumonia' in the impression repeats 'right lower lobe opacity'. A report that
    asserts nothing gives [0, 6].
    """
    found = {p.cells for p in phrases(text, splitter) if p.assertion in ASSERTED}
    kept = [
        p
        for p in found
        if not any(q != p and all(a >= b for a, b in zip(p, q, strict=True)) for q in found)
    ]
    return np.array(sorted(kept, reverse=True)[:most], dtype=np.float32).reshape(-1, len(PLACES))


def padded(lists: list[np.ndarray]) -> np.ndarray:
    """Places of N reports as one array [N, P, 6], padded with places that allow no cell."""
    width = max((len(p) for p in lists), default=0)
    array = np.zeros((len(lists), width, len(PLACES)), dtype=np.float32)
    for row, found in enumerate(lists):
        array[row, : len(found)] = found
    return array
