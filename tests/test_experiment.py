"""The experiment: cohorts, ablations of reports, pooling over seeds and variants, a small plan."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

from experiments import arms
from experiments.arms import Pairs
from pnloc.cli import main
from pnloc.errors import PnlocError
from pnloc.files import read_json
from pnloc.localizer import Choice
from pnloc.regions import Regions
from pnloc.reports.phrases import PLACES, asserted_places
from pnloc.run import evidence

ROOT = Path(__file__).parents[1]


def some_pairs(labels: list[float]) -> Pairs:
    """Studies whose words, phrases and attribute all carry the study's own number."""
    n = len(labels)
    numbers = np.arange(n, dtype=float)
    phrases = np.ones((n, 1, 6), dtype=np.float32) * (numbers + 1)[:, None, None]
    table = np.stack([np.array(labels), numbers], axis=1)
    return Pairs(np.arange(n), np.arange(n)[:, None], phrases, table, np.ones_like(table))


# Cohorts and reports -----------------------------------------------------------------------------


def test_cohorts_have_one_size_and_the_prevalence_asked_for():
    positive = np.array([True] * 70 + [False] * 30)
    size = arms.cohort_size(positive, (0.93, 0.5))
    assert size == 60, "30 negatives are half of 60, and 70 positives would be enough for 75"
    for prevalence, count in ((0.93, 56), (0.5, 30)):
        chosen = arms.cohort(positive, prevalence, size, np.random.default_rng(0))
        assert len(set(chosen)) == size and positive[chosen].sum() == count
    with pytest.raises(PnlocError, match="needs more studies"):
        arms.cohort(positive, 0.93, 90, np.random.default_rng(0))


def test_shuffled_reports_all_belong_to_another_study_of_the_same_label():
    before = some_pairs([1, 0, 1, 0, 1, 1, 0])
    after = arms.shuffled(before, np.random.default_rng(0))
    source = after.words[:, 0]
    assert (source != np.arange(7)).all() and sorted(source) == list(range(7))
    assert (before.labels[source, 0] == before.labels[:, 0]).all()
    assert (after.labels[:, 0] == before.labels[:, 0]).all()
    assert (after.labels[:, 1] == source).all(), "a report moves whole"
    assert (after.phrases[:, 0, 0] == source + 1).all()


def test_swapped_sides_are_the_other_sides_and_nothing_else():
    text = "Right lower lobe opacity. LUL consolidation. Not on the left. Brightly lit."
    other = "Left lower lobe opacity. RUL consolidation. Not on the right. Brightly lit."
    assert arms.swap_sides(text) == other and arms.swap_sides(other) == text
    places, mirrored = asserted_places(text), asserted_places(other)
    assert sorted(map(tuple, np.roll(places, len(PLACES) // 2, 1))) == sorted(map(tuple, mirrored))
    assert set(map(tuple, places)) != set(map(tuple, mirrored))


# Choices ------------------------------------------------------------------------------------------


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


# The whole ----------------------------------------------------------------------------------------


def run(folder) -> int:
    given = ["--plan", "smoke", "--artifacts", str(folder), "--out", str(folder / "out")]
    return main(["experiment", *given])


@pytest.fixture(scope="module")
def finished(shared):
    """The small plan, run by the command line, once for all workers."""
    folder = shared / "experiment"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "out" / "experiment.json").exists():
            assert run(folder) == 0
    return folder


def test_the_tables_and_their_provenance_have_the_form_of_the_published_results(finished):
    for path in (finished / "out").glob("*.csv"):
        table, kept = pd.read_csv(path), pd.read_csv(ROOT / "book" / "results" / path.name)
        assert list(table) == list(kept), path.name
        if "low" in table:
            assert (table["low"] <= table["value"] + 1e-9).all()
            assert (table["value"] <= table["high"] + 1e-9).all()
    table = pd.read_csv(finished / "out" / "localization.csv").query("metric == 'miou'")
    assert set(table["dataset"]) == {"demo-mimic-93", "demo-mimic-50"}
    methods = {"fixed-boxes", "heat-map", "detector", "grad-cam", "best-proposal", "detector-raw"}
    for _, rows in table.groupby("dataset"):
        assert methods | {"text-attention-raw"} <= set(rows["method"])
        assert rows["n"].nunique() == 1, "every method is measured on the same images"
    facts = read_json(finished / "out" / "experiment.json")
    assert set(facts) == set(read_json(ROOT / "book" / "results" / "experiment.json"))
    assert facts["plan"]["replicates"] == [1, 2] and "arm" in facts["seconds"]


def test_a_second_call_makes_no_stage_and_the_same_tables(finished):
    before = {p.name: p.read_bytes() for p in (finished / "out").glob("*.csv")}
    times = {p: p.stat().st_mtime_ns for p in finished.rglob("done.json")}
    assert run(finished) == 0
    assert {p.name: p.read_bytes() for p in (finished / "out").glob("*.csv")} == before
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("done.json")} == times
