"""The word-to-region view as values and HTML: what is kept is what the package keeps, and nothing hidden gets in."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pnloc.baselines.heatmaps import heat_boxes
from pnloc.boxes import fuse, group, select
from pnloc.errors import PnlocError
from pnloc.run.sets import NAMES
from pnloc.view.explorer import wordview
from pnloc.view.explorer.studies import SOURCES, Study

STARTS = {source: (0.5, 2) for source in SOURCES}
TEXT = "FINDINGS: Right lower opacity.\nA < B & C </script>"


def study(regions: int = 6, seed: int = 0, **more) -> Study:
    """A generated study with two words, a phrase and a heat map."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 150, (regions, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 42, (regions, 2))], axis=1)
    mass = rng.dirichlet(np.ones(max(regions, 1)), 3 + len(NAMES))[:, :regions]
    made = {
        "report": TEXT,
        "words": ["right", "opacity"],
        "spans": [(10, 15), (22, 29)],
        "alpha": mass[:2],
        "phrases": ["Right lower opacity"],
        "gamma": mass[2:3],
        "truth": np.array([[20.0, 90, 60, 150]]),
        "credit": "a, generated",
        "shown": True,
    }
    image = rng.integers(0, 255, (256, 256), dtype=np.uint8)
    chances = np.linspace(0, 1, len(NAMES))
    heat = np.clip(rng.normal(0.4, 0.3, (192, 192)), 0, 1)
    return Study(
        "a", image, 192, boxes, rng.random(regions), mass[3:], chances, heat, **(made | more)
    )


def embedded(html: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.S)[1]
    )


@pytest.mark.parametrize("seed", range(5))
def test_what_passes_a_threshold_is_what_the_package_selects(seed):
    one = study(20, seed)
    mass = one.mass("attribute", 3)
    ranked = wordview.ranked(one.boxes, mass, one.scores)
    for share in wordview.SHARES:
        for most in range(1, wordview.MOST + 1):
            grouped = group(one.boxes, mass, one.scores)
            kept = fuse(one.boxes, grouped, select(one.boxes, grouped, share, most))
            assert wordview.keep(ranked, share, most).tolist() == kept.round(1).tolist()


def test_regions_without_any_score_are_all_kept_as_the_package_keeps_them():
    boxes, none = np.array([[0.0, 0, 5, 5], [20, 20, 30, 30]]), np.zeros(2)
    assert wordview.ranked(boxes, none, none) == [[1.0, 0, 0, 5, 5], [1.0, 20, 20, 30, 30]]
    assert list(select(boxes, none, 1.0, 5)) == [0, 1]


def test_heat_boxes_are_there_for_every_step_of_the_threshold():
    one = study()
    found = wordview.cam_boxes(one.heat)
    assert len(found) == 20 and found[9] == heat_boxes(one.heat, 0.5, wordview.MOST)[0].tolist()
    assert wordview.cam_boxes(np.zeros((8, 8))) == [[]] * 20, "a flat map has no box"


def test_pictures_are_whole_and_lie_within_the_page():
    made = wordview.values(study())
    picture = Image.open(
        io.BytesIO(base64.b64decode(made["image"].removeprefix("data:image/jpeg;base64,")))
    )
    heat = Image.open(
        io.BytesIO(base64.b64decode(made["cam"]["image"].removeprefix("data:image/png;base64,")))
    )
    assert (picture.format, picture.size) == ("JPEG", (256, 256))
    assert (heat.format, heat.mode, heat.size) == ("PNG", "RGBA", (64, 64))


def test_the_html_needs_nothing_from_elsewhere_and_gives_the_report_as_it_is():
    html = wordview.html([study()], STARTS)
    assert set(re.findall(r"https?://[^\s\"'`]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(|@import|url\(", html)
    given = embedded(html)
    assert given["studies"][0]["report"] == TEXT and given["starts"] == {
        s: [0.5, 2] for s in SOURCES
    }
    word = given["studies"][0]["words"][1]
    assert TEXT[word["start"] : word["end"]] == word["label"] == "opacity"
    assert html.count("</script>") == 2, "no text of a report ends a script"


def test_six_studies_of_the_usual_size_stay_well_below_three_megabytes():
    long = [
        study(20, s, words=["word"] * 48, spans=[(-1, -1)] * 48, alpha=np.full((48, 20), 0.05))
        for s in range(6)
    ]
    assert len(wordview.html(long, STARTS)) < 1.5e6


def test_studies_without_regions_report_or_heat_are_drawn_as_well():
    bare = study(
        0,
        report="",
        words=[],
        spans=[],
        phrases=[],
        alpha=np.zeros((0, 0)),
        gamma=np.zeros((0, 0)),
        truth=np.zeros((0, 4)),
    )
    made = embedded(wordview.html([replace(bare, heat=None)], STARTS))["studies"][0]
    assert (
        made["boxes"] == made["words"] == made["phrases"] == made["truth"] == []
        and made["cam"] is None
    )
    assert [a["mass"] for a in made["attributes"]] == [[]] * len(NAMES)


def test_a_study_that_no_page_may_show_never_becomes_html():
    hidden = study(shown=False)
    with pytest.raises(PnlocError, match="^a: no page may show this study"):
        wordview.html([study(), hidden], STARTS)
