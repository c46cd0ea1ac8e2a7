"""Phrases: the places that a report names, as cells of the two lungs."""

import json
from pathlib import Path

import numpy as np
import pytest

from pnloc.reports.phrases import MOST, PLACES, asserted_places, padded, phrases

CELLS = json.loads(Path(__file__).with_name("texts.json").read_text())["places"]


def named(cells) -> set[str]:
    return {f"{side} {zone}" for (side, zone), here in zip(PLACES, cells, strict=True) if here}


@pytest.mark.parametrize(("text", "expected"), CELLS.items())
def test_a_place_is_a_set_of_cells(text, expected):
    assert [named(place) for place in asserted_places(text)] == list(map(set, expected))


def test_every_finding_has_a_phrase_with_any_assertion():
    text = "No consolidation on the left. Patchy opacity in both lower lobes."
    found = [(p.text, p.assertion, named(p.cells)) for p in phrases(text)]
    both = "Patchy opacity in both lower lobes"
    left = {"left upper", "left middle", "left lower"}
    assert found[0] == ("consolidation on the left", "negated", left)
    assert found[1:] == [(both, "affirmed", {place}) for place in ("right lower", "left lower")]


def test_a_report_keeps_no_more_than_a_few_phrases():
    text = " ".join(f"Opacity in the {s} {z} lung." for s, z in PLACES)
    assert len(asserted_places(text)) == MOST


def test_padding_allows_no_place():
    array = padded([np.ones((2, 6), np.float32), np.zeros((0, 6), np.float32)])
    assert array.shape == (2, 2, 6) and array[0].all() and not array[1].any()
    assert padded([]).shape == (0, 0, 6)
