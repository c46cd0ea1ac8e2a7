"""Phrases: what a report asserts of an opacity, as places that a region can agree with.

A phrase is one finding of a report. Its place is a set of the six PLACES of the two lungs: 'right
lower lobe' is one cell, 'left lung' three, 'at both bases' two phrases of one cell each, and an
opacity without a place all six.
"""

import re
from dataclasses import dataclass

import numpy as np

from pnloc.model import PLACES
from pnloc.reports.findings import Finding, findings
from pnloc.reports.sentences import Splitter

# Zones that are not one of the three thirds: where they lie among these.
_ZONES = {"lingula": {"middle", "lower"}, "perihilar": {"middle"}, "retrocardiac": {"lower"}}
MOST = 4  # phrases kept per report
_NOUN = re.compile(
    r"\s+(?:lobes?|lungs?|zones?|bases?|fields?|regions?|area|aspect|hemithorax)\b", re.I
)


@dataclass(frozen=True)
class Phrase:
    """A finding: its words, its assertion, and the PLACES [6] (0 or 1) that its place allows."""

    text: str
    assertion: str
    cells: tuple[float, ...]

    @property
    def asserted(self) -> bool:
        """Whether the report asserts it, hedged or not."""
        return self.assertion in ("affirmed", "hedged")


def places(attributes: frozenset[str] | set[str]) -> list[tuple[float, ...]]:
    """Places of one finding from its attributes ('side:right', 'zone:lower', ...).

    One place, or one per side if it names both.
    """
    named = [attribute.partition(":")[::2] for attribute in attributes]
    sides = {value for group, value in named if group == "side"}
    zones = {value for group, value in named if group == "zone"}
    if zones & {"lingula", "retrocardiac"} and not sides:
        sides = {"left"}  # as is the lingula, and most of the lung behind the heart
    if "bilateral" in sides:
        sides = {"right", "left"}
    zones = set().union(*(_ZONES.get(zone, {zone}) for zone in zones))
    groups = [{side} for side in ("right", "left") if side in sides] or [{"right", "left"}]
    return [
        tuple(float(side in group and (not zones or zone in zones)) for side, zone in PLACES)
        for group in groups
    ]


def _words(text: str, finding: Finding) -> str:
    """The words that name and describe a finding, with the noun of its place."""
    spans = [finding.span, *((start, end) for start, end, _ in finding.marks)]
    start, end = min(s for s, _ in spans), max(e for _, e in spans)
    noun = _NOUN.match(text, end)
    return " ".join(text[start : noun.end() if noun else end].split())


def phrases(text: str, splitter: Splitter | None = None) -> list[Phrase]:
    """Every finding of a report, in order, with its place; one on both sides gives two phrases."""
    return [
        Phrase(_words(text, finding), finding.assertion, cells)
        for finding in findings(text, splitter)
        for cells in places(finding.attributes)
    ]


def asserted_places(text: str, splitter: Splitter | None = None, most: int = MOST) -> np.ndarray:
    """Distinct places [n, 6] float32 of the opacities that a report asserts, hedged ones included.

    n is at most `most`, and 0 where the report asserts nothing. A place that contains another one
    is dropped: 'pneumonia' in the impression repeats 'right lower lobe opacity'.
    """
    cells = {p.cells for p in phrases(text, splitter) if p.asserted}
    array = np.array(sorted(cells, reverse=True), dtype=np.float32).reshape(-1, len(PLACES))
    contains = (array[:, None] >= array).all(2) & ~np.eye(len(array), dtype=bool)
    return array[~contains.any(1)][:most]


def padded(lists: list[np.ndarray]) -> np.ndarray:
    """Places of N reports as one array [N, P, 6], padded with places that allow no cell."""
    array = np.zeros((len(lists), max(map(len, lists), default=0), len(PLACES)), dtype=np.float32)
    for row, places in enumerate(lists):
        array[row, : len(places)] = places
    return array
