"""The experiment: what reports say in its controls, what is drawn, what a report is worth."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

from experiments import tables, worth
from experiments.plan import BOXES, LABELS, PLANS, TEXT
from pnloc.cli import main
from pnloc.config import preset
from pnloc.detector_training import Described
from pnloc.files import read_json
from pnloc.localizer import Choice
from pnloc.regions import Regions
from pnloc.reports.phrases import asserted_places, padded
from pnloc.run import evidence
from pnloc.run.run import Run


def described(opacity: list[float]) -> Described:
    """Images whose phrases carry the image's own number."""
    n = len(opacity)
    phrases = np.ones((n, 1, 6)) * np.arange(1, n + 1)[:, None, None]
    return Described(np.zeros((n, 4, 4)), np.zeros((n, 4, 4)), phrases, np.array(opacity))


# What reports say in the controls -----------------------------------------------------------------


def test_shuffled_reports_are_those_of_other_images_with_an_opacity():
    before = described([1, 0, 1, 0, 1, 1, np.nan])
    after = worth.shuffled(before, np.random.default_rng(0))
    source, told = after.phrases[:, 0, 0] - 1, before.opacity > 0.5
    assert sorted(source) == list(range(7)) and (source == np.arange(7))[~told].all()
    assert (source != np.arange(7))[told].all() and told[source[told].astype(int)].all()
    assert (before.phrases[:, 0, 0] == np.arange(1, 8)).all(), "the reports themselves stay"


def test_swapped_sides_are_those_of_a_report_about_the_other_side():
    texts = ["Right lower lobe opacity. LUL consolidation.", "Bilateral opacities at the bases."]
    others = ["Left lower lobe opacity. RUL consolidation.", texts[1]]
    own, other = (padded([asserted_places(t) for t in both]) for both in (texts, others))
    swapped = worth.swapped(Described(*np.zeros((2, 2, 4, 4)), own, np.ones(2))).phrases
    for one, two in zip(swapped, other, strict=True):
        assert sorted(map(tuple, one)) == sorted(map(tuple, two))


# Read-outs and choices ----------------------------------------------------------------------------


def test_zones_become_boxes_of_their_cells_in_the_order_of_their_evidence():
    zones = np.zeros((1, 8, 8), dtype=np.uint8)
    zones[0, 0:4, 0:4], zones[0, 4:8, 5:8] = 1, 6
    maps = np.full((1, 64, 64), 0.1, dtype=np.float32)
    maps[0, 40:, 44:] = 0.9
    ((boxes, scores),) = worth.zone_boxes(maps, zones, 0.3)
    assert boxes.tolist() == [[40, 32, 64, 64], [0, 0, 32, 32]]
    assert scores == pytest.approx([0.9, 0.1])


def test_the_best_choice_is_that_of_trying_them_all():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (6, 8, 2))
    corners = np.concatenate([corners, corners + rng.uniform(10, 50, (6, 8, 2))], axis=2)
    boxes, ones = torch.from_numpy(corners).float(), torch.ones(6, 8)
    empty = (torch.zeros(6, 8, 20), torch.zeros(6, 4, 4), torch.zeros(6))
    regions = Regions(boxes, ones, ones > 0, *empty)
    truth, scores = [b[:2].numpy().astype(float) for b in boxes], rng.uniform(size=(6, 8))
    detections = [(b[: n + 1], -np.sort(-rng.random(8))[: n + 1]) for n, b in enumerate(corners)]
    ranking = evidence.Ranking(regions, scores, np.ones(6), True, scores)
    for seen in (ranking, replace(ranking, grouped=False), evidence.Detections(detections)):
        pairs, grouped = product(evidence.SHARES, evidence.MOST), getattr(seen, "grouped", True)
        tried = [Choice(*pair, grouped=grouped) for pair in pairs]
        values = [evidence.unions(seen.predictions(c), truth).mean() for c in tried]
        choice, value = seen.choose(truth)
        assert choice == tried[int(np.argmax(values))]
        assert value == pytest.approx(max(values)) and value > 0


# What a report is worth ---------------------------------------------------------------------------


class Known(tables.Samples):
    """Samples of lines that are known."""

    def __init__(self, lines: dict[str, dict[int, float]], plan) -> None:
        spread = np.linspace(-0.01, 0.01, plan.resamples)
        self.experiment = type("Experiment", (), {"points": {p: p for p in lines[TEXT]}})
        self.count, self.n = plan.resamples, dict.fromkeys(tables.METRICS, 9)
        self.known = {
            (line, boxes, "union IoU"): [np.concatenate([[value], value + spread])] * 2
            for line, values in lines.items()
            for boxes, value in values.items()
        }


def test_reports_are_worth_the_boxes_that_boxes_alone_would_need():
    alone = {10: 0.1, 50: 0.3, 100: 0.4}
    text = {0: 0.05, 10: 0.2, 50: 0.35, 100: 0.6}
    samples = Known({BOXES: alone, TEXT: text, LABELS: alone}, PLANS["smoke"])
    table = tables.worth(samples).set_index(["line", "boxes"])
    assert table.loc[TEXT, "further"].tolist() == pytest.approx([10, 20, 25, 0])
    assert table.loc[LABELS, "further"].tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    first, last = table.loc[(TEXT, 0)], table.loc[(TEXT, 100)]
    assert first["further"] == first["least"] and last["further"] == last["most"]
    assert (table["low"] <= table["further"] + 1e-9).all()


# The whole ----------------------------------------------------------------------------------------


def run(folder) -> int:
    places = ["--artifacts", str(folder), "--out", str(folder / "out")]
    return main(["experiment", "--preset", "smoke", *places])


@pytest.fixture(scope="module")
def finished(shared):
    """The small plan, run by the command line, once for all workers."""
    folder = shared / "experiment"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "out" / "made.json").exists():
            assert run(folder) == 0
    return folder


def test_every_line_is_measured_at_every_point_on_the_same_images(finished):
    table, plan = pd.read_csv(finished / "out" / "curve.csv"), PLANS["smoke"]
    lines = table[table["line"].isin([BOXES, LABELS, TEXT])].groupby("line")["boxes"].nunique()
    assert lines.to_dict() == {BOXES: 1, LABELS: 2, TEXT: 2}, "no boxes, nothing from boxes"
    assert (table.groupby("metric")["n"].nunique() == 1).all()
    assert (table["replicates"] == plan.replicates).all() and table["value"].notna().all()
    assert (table["low"] <= table["value"] + 1e-9).all()
    assert {worth.FIXED, worth.HEAT, worth.LUNGS, worth.CAM, worth.CEILING} <= set(table["line"])
    assert (pd.read_csv(finished / "out" / "tuning.csv").groupby("line")["chosen"].sum() == 1).all()


def test_replicates_test_on_other_patients_and_learn_from_none_of_them(finished):
    own = Run(preset("smoke"), None, 0, finished / "smoke")
    replicates = worth.Experiment(own, PLANS["smoke"]).replicates
    tested = [set(r.patients[r.test]) for r in replicates]
    assert not tested[0] & tested[1]
    for replicate, patients in zip(replicates, tested, strict=True):
        held = patients | set(replicate.patients[replicate.held_out])
        few, many = (set(replicate.drawn(n)) for n in (4, replicate.available))
        assert few < many and sum(replicate.boxed[list(few)]) == 4
        assert not held & set(replicate.patients[list(many)])
        for name, told in zip(own.describing, replicate.told(TEXT), strict=True):
            used = own.sets.records(name).images["patient"][np.isfinite(told.opacity)]
            assert len(used) and not held & set(used)


def test_a_second_call_makes_no_stage_and_the_same_tables(finished):
    before = {p.name: p.read_bytes() for p in (finished / "out").glob("*.csv")}
    times = {p: p.stat().st_mtime_ns for p in finished.rglob("done.json")}
    assert run(finished) == 0
    assert {p.name: p.read_bytes() for p in (finished / "out").glob("*.csv")} == before
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("done.json")} == times
    assert read_json(finished / "out" / "made.json")["hours"] >= 0
