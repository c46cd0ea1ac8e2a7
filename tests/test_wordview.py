"""The word-to-region view as values and HTML: the package's boxes, and nothing hidden gets in."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from explorer import wordview
from explorer.studies import SOURCES, Item, Study
from pnloc.baselines.heatmaps import HeatChoice, boxes_of
from pnloc.boxes import fuse, group, select
from pnloc.errors import PnlocError
from pnloc.run.sets import NAMES

STARTS = {source: (0.5, 2) for source in SOURCES}
TEXT = "FINDINGS: Right lower opacity.\nA < B & C </script>"


def study(regions: int = 6, seed: int = 0, **more: object) -> Study:
    """A generated study with two words, a phrase and a heat map."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 150, (regions, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 42, (regions, 2))], axis=1)
    mass = iter(rng.dirichlet(np.ones(max(regions, 1)), 3 + len(NAMES))[:, :regions])
    fields = {
        "report": TEXT,
        "words": [Item("right", next(mass), 10, 15), Item("opacity", next(mass), 22, 29)],
        "phrases": [Item("Right lower opacity", next(mass))],
        "truth": np.array([[20.0, 90, 60, 150]]),
        "credit": "a, generated",
        "shown": True,
    }
    chances = np.linspace(0, 1, len(NAMES))
    attributes = [Item(*pair, probability=p) for *pair, p in zip(NAMES, mass, chances, strict=True)]
    image = rng.integers(0, 255, (256, 256), dtype=np.uint8)
    heat, scores = np.clip(rng.normal(0.4, 0.3, (192, 192)), 0, 1), rng.random(regions)
    return Study("a", image, 192, boxes, scores, attributes, heat, **(fields | more))


def embedded(html: str) -> dict:
    pattern = r'<script type="application/json"[^>]*>(.*?)</script>'
    return json.loads(re.search(pattern, html, re.S)[1])


@pytest.mark.parametrize("seed", range(5))
def test_what_reaches_a_threshold_is_what_the_package_selects(seed):
    one = study(20, seed)
    mass = one.attributes[3].mass
    ranked = wordview.ranked(one.boxes, mass, one.scores)
    grouped = group(one.boxes, mass, one.scores)
    for share in wordview.SHARES:
        chosen = fuse(one.boxes, grouped, select(one.boxes, grouped, share, wordview.MOST))
        shown = [box for score, *box in ranked if score >= share - 1e-6][: wordview.MOST]
        assert shown == chosen.round(1).tolist()


def test_regions_without_a_score_are_all_shown():
    boxes, none = np.array([[0.0, 0, 5, 5], [20, 20, 30, 30]]), np.zeros(2)
    assert wordview.ranked(boxes, none, none) == [[1.0, 0, 0, 5, 5], [1.0, 20, 20, 30, 30]]
    assert list(select(boxes, none, 1.0, 5)) == [0, 1]


def test_heat_boxes_are_there_for_every_step_of_the_threshold():
    heat = study().heat
    boxes = wordview.cam_boxes(heat)
    half = boxes_of(heat, HeatChoice("", 0.5, wordview.MOST))[0]
    assert len(boxes) == 20 and boxes[9] == half.tolist()
    assert wordview.cam_boxes(np.zeros((8, 8))) == [[]] * 20, "a flat map has no box"


def test_the_html_needs_nothing_from_elsewhere_and_holds_the_report_as_it_is():
    html = wordview.html([study()], STARTS)
    assert set(re.findall(r"https?://[^\s\"'`]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(|@import|url\(", html)
    data = embedded(html)
    assert data["studies"][0]["report"] == TEXT
    word = data["studies"][0]["words"][1]
    assert TEXT[word["start"] : word["end"]] == word["label"] == "opacity"
    assert html.count("</script>") == 2, "no text of a report ends a script"


def test_studies_without_regions_or_report_are_drawn_as_well():
    bare = study(0, report="", words=[], phrases=[], truth=np.zeros((0, 4)))
    values = embedded(wordview.html([bare], STARTS))["studies"][0]
    assert values["boxes"] == values["words"] == values["phrases"] == values["truth"] == []
    assert [one["mass"] for one in values["attributes"]] == [[]] * len(NAMES)


def test_what_is_left_out_is_no_number_but_a_reason_and_a_warning_stands_with_its_study():
    one = study()
    one.attributes[1] = replace(one.attributes[1], probability=None, reason="never seen")
    told = replace(one, warning="unlike", reading={"grade": None})
    values = embedded(wordview.html([told], STARTS))["studies"][0]
    assert values["attributes"][1]["probability"] is None
    assert values["attributes"][1]["reason"] == "never seen"
    assert values["warning"] == "unlike" and values["reading"]["grade"] is None
    assert list(told.likely(30))[-1] == NAMES[1], "it has no number, and comes last"


def test_a_study_that_no_page_may_show_never_becomes_html():
    with pytest.raises(PnlocError, match="^a: no page may show this study"):
        wordview.html([study(), study(shown=False)], STARTS)
