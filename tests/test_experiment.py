"""The experiment: cohorts, what ablations do to reports, pooling over seeds and variants, and the whole of it on a small plan."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import arms, pooling
from experiments import text_gain as experiment
from experiments.arms import Arm, Pairs
from experiments.plans import ABLATIONS, PLANS
from experiments.pooling import COLUMNS
from pnloc import localizer as choices
from pnloc.cli import main
from pnloc.errors import PnlocError
from pnloc.files import read_json
from pnloc.localizer import Choice, boxes_of
from pnloc.regions import Regions
from pnloc.reports.phrases import PLACES, asserted_places
from pnloc.reports.words import WordVectors
from pnloc.run import evidence


def some_pairs(labels: list[float]) -> Pairs:
    """Studies whose words, phrases and attribute all carry the study's own number."""
    n = len(labels)
    numbers = np.arange(n, dtype=float)
    phrases = np.ones((n, 1, 6), dtype=np.float32) * (numbers + 1)[:, None, None]
    table = np.stack([np.array(labels), numbers], axis=1)
    return Pairs(np.arange(n), np.arange(n)[:, None], phrases, table, np.ones_like(table))


# Cohorts and reports --------------------------------------------------------------------------------------


def test_cohorts_have_one_size_and_the_prevalence_asked_for():
    positive = np.array([True] * 70 + [False] * 30)
    size = arms.cohort_size(positive, (0.93, 0.5))
    assert size == 60, "30 negatives are half of 60, and 70 positives would be enough for 75"
    for prevalence, count in ((0.93, 56), (0.5, 30)):
        chosen = arms.cohort(positive, prevalence, size, np.random.default_rng(0))
        assert len(set(chosen)) == size and positive[chosen].sum() == count
    with pytest.raises(PnlocError, match="needs more studies"):
        arms.cohort(positive, 0.93, 90, np.random.default_rng(0))


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_a_derangement_is_a_permutation_that_leaves_nothing_in_its_place(count):
    found = arms.derangement(count, np.random.default_rng(count))
    assert sorted(found) == list(range(count)) and (found != np.arange(count)).all()


def test_one_or_nothing_cannot_be_deranged_and_stays():
    assert arms.derangement(1, np.random.default_rng(0)).tolist() == [0]
    assert arms.derangement(0, np.random.default_rng(0)).tolist() == []


def test_shuffled_reports_all_belong_to_another_study_of_the_same_label():
    before = some_pairs([1, 0, 1, 0, 1, 1, 0])
    after = arms.shuffled(before, np.random.default_rng(0))
    source = after.words[:, 0]
    assert (source != np.arange(7)).all() and sorted(source) == list(range(7))
    assert (before.labels[source, 0] == after.labels[:, 0]).all() and (
        after.labels[:, 0] == before.labels[:, 0]
    ).all()
    assert (after.labels[:, 1] == source).all() and (after.phrases[:, 0, 0] == source + 1).all(), (
        "a report moves whole"
    )


def test_a_lost_report_leaves_the_image_label():
    before = some_pairs([1.0] * 8 + [0.0] * 2)
    after = arms.fewer_reports(before, 0.5, np.random.default_rng(0))
    lost = after.words[:, 0] < 0
    assert lost.sum() == 5
    assert (after.labels[:, 0] == before.labels[:, 0]).all() and (after.weights[:, 0] == 1).all()
    assert (after.phrases[lost] == 0).all() and (
        after.phrases[~lost] == before.phrases[~lost]
    ).all()
    assert (after.weights[lost & (before.labels[:, 0] == 1), 1] == 0).all(), (
        "what a silent study's pneumonia is like is not known"
    )
    assert (before.words >= 0).all(), "the pairs themselves are not changed"


def test_swapped_sides_are_the_other_sides_and_nothing_else():
    text = "Right lower lobe opacity. LLL consolidation. No effusion on the left. Brightly lit."
    assert (
        arms.swap_sides(text)
        == "Left lower lobe opacity. RLL consolidation. No effusion on the right. Brightly lit."
    )
    assert arms.swap_sides(arms.swap_sides(text)) == text


def test_swapped_sides_are_read_as_the_other_sides():
    text = "Patchy opacity in the right lower lobe. Focal consolidation in the left upper zone."
    found = {tuple(p) for p in asserted_places(arms.swap_sides(text))}
    mirrored = {tuple(np.roll(p, len(PLACES) // 2)) for p in asserted_places(text)}
    assert found == mirrored and found != {tuple(p) for p in asserted_places(text)}


def test_random_vectors_keep_the_words_and_the_unknown_one():
    vectors = WordVectors(
        ["<unknown>", "a", "b"], np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32)
    )
    other = arms.random_vectors(vectors, 0)
    assert other.words == vectors.words and (other.vectors[0] == 0).all()
    assert np.linalg.norm(other.vectors[1:], axis=1).mean() == pytest.approx(1)
    assert (other.vectors == arms.random_vectors(vectors, 0).vectors).all()


def test_no_two_arms_share_a_name():
    made = [
        Arm(text, p, options)
        for text in (True, False)
        for p in (0.93, 0.5)
        for options in PLANS["full"].grid
    ]
    made += [Arm(True, 0.93, **change) for change in ABLATIONS.values()]
    assert len({arm.name for arm in made}) == len(made)
    assert all(re.fullmatch(r"[\w-]+", arm.name) for arm in made)


# Pooling --------------------------------------------------------------------------------------------------


def values(method: str, seed: int, numbers: dict[tuple[str, str], float]) -> pd.DataFrame:
    table = pd.DataFrame(
        [(v, i, value) for (v, i), value in numbers.items()], columns=["variant", "image", "miou"]
    )
    return table.assign(
        method=method, seed=seed, boxes=1, **{c: 0.0 for c in COLUMNS if c != "miou"}
    )


def test_seeds_are_averaged_per_image_before_anything_else():
    table = pd.concat([values("m", 0, {("1/a", "x"): 0.2}), values("m", 1, {("1/a", "x"): 0.6})])
    mean = pooling.over_seeds(table, "m")
    assert len(mean) == 1 and mean["miou"].item() == pytest.approx(0.4), (
        "a second seed is no second image"
    )


def test_whole_variants_are_drawn():
    """Ten images of each of two variants: their interval is that of two variants, not of twenty images."""
    table = values("m", 0, {(f"1/{v}", f"{v}{i}"): float(v) for v in (0, 1) for i in range(10)})
    mean = pooling.over_seeds(table, "m")
    row = pooling.pooled(mean, mean["boxes"], 500).iloc[0]
    assert (row["value"], row["low"], row["high"], row["n"]) == (0.5, 0.0, 1.0, 20)


def test_differences_are_paired():
    """Values that vary widely, but always by .1 between the methods: an interval of no width."""
    numbers = {(f"1/{i}", f"{i}"): i / 10 for i in range(8)}
    one, other = (
        values("one", 0, {k: v + 0.1 for k, v in numbers.items()}),
        values("other", 0, numbers),
    )
    first, second = pooling.over_seeds(one, "one"), pooling.over_seeds(other, "other")
    row = pooling.minus(first, second, 200).iloc[0]
    assert [row["value"], row["low"], row["high"]] == pytest.approx([0.1] * 3)
    with pytest.raises(PnlocError, match="not measured on the same images"):
        pooling.minus(first, second.iloc[1:], 200)


# Choices and words ----------------------------------------------------------------------------------------


def test_the_best_choice_is_that_of_trying_them_all():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (6, 8, 2))
    boxes = torch.from_numpy(
        np.concatenate([corners, corners + rng.uniform(10, 50, (6, 8, 2))], axis=2)
    ).float()
    zeros = torch.zeros(6, 8)
    regions = Regions(
        boxes, zeros + 1, zeros == 0, torch.zeros(6, 8, 20), torch.zeros(6, 4, 4), torch.zeros(6)
    )
    truth, ranking = [b[:2].numpy().astype(float) for b in boxes], rng.uniform(size=(6, 8))
    for grouped in (True, False):
        choice, value = choices.best_choice(regions, ranking, truth, grouped)
        tried = [Choice(share, most, grouped) for share in choices.SHARES for most in choices.MOST]
        values = [evidence.mean_union(boxes_of(regions, ranking, c), truth) for c in tried]
        assert (choice, value) == (tried[int(np.argmax(values))], pytest.approx(max(values)))


def test_the_best_choice_among_detections_is_that_of_trying_them_all():
    rng = np.random.default_rng(4)
    corners = [rng.uniform(0, 50, (n, 2)) for n in (0, 1, 3, 9, 20)]
    found = [(np.concatenate([c, c + 40], axis=1), -np.sort(-rng.random(len(c)))) for c in corners]
    truth = [np.array([[10.0, 10.0, 60.0, 60.0]])] * len(found)
    choice, value = choices.best_of(found, truth)
    tried = [Choice(share, most) for share in choices.SHARES for most in choices.MOST]
    values = [evidence.mean_union(evidence.Detections(found).predictions(c), truth) for c in tried]
    assert (
        choice == tried[int(np.argmax(values))]
        and value == pytest.approx(max(values))
        and value > 0
    )


# The whole ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The small plan, worked off by the command line."""
    folder = tmp_path_factory.mktemp("experiment")
    assert (
        main(
            [
                "experiment",
                "--plan",
                "smoke",
                "--artifacts",
                str(folder),
                "--out",
                str(folder / "out"),
            ]
        )
        == 0
    )
    return folder


def test_the_tables_have_the_columns_of_a_run(made):
    tables = {
        name: pd.read_csv(made / "out" / f"{name}.csv")
        for name in ("localization", "differences", "ablations")
    }
    assert list(tables["localization"]) == [
        "dataset",
        "method",
        "metric",
        "threshold",
        "value",
        "low",
        "high",
        "n",
        "seed",
    ]
    assert list(tables["differences"]) == [
        "dataset",
        "method",
        "against",
        "metric",
        "value",
        "low",
        "high",
        "n",
    ]
    for table in tables.values():
        assert (table["low"] <= table["value"] + 1e-9).all() and (
            table["value"] <= table["high"] + 1e-9
        ).all()
    main_rows = tables["localization"].query("metric == 'miou'")
    assert set(main_rows["dataset"]) == {"demo-mimic-93", "demo-mimic-50"}
    for _, rows in main_rows.groupby("dataset"):
        assert {
            "fixed-boxes",
            "heat-map",
            "detector",
            "grad-cam",
            "best-proposal",
            "detector-raw",
            "text-attention-raw",
        } <= set(rows["method"])
        assert rows["n"].nunique() == 1, "every method is measured on the same images"


def test_a_difference_is_that_of_the_two_lines(made):
    lines = (
        pd.read_csv(made / "out" / "localization.csv")
        .query("metric == 'miou'")
        .set_index(["dataset", "method"])["value"]
    )
    for row in pd.read_csv(made / "out" / "differences.csv").query("metric == 'miou'").itertuples():
        if "/" not in row.dataset:
            assert row.value == pytest.approx(
                lines[row.dataset, row.method] - lines[row.dataset, row.against]
            )


def test_what_made_the_tables_stands_beside_them(made):
    facts = read_json(made / "out" / "experiment.json")
    assert {
        "plan",
        "commits",
        "date",
        "environment",
        "seconds",
        "test_images_with_pneumonia",
    } <= set(facts)
    assert facts["plan"]["replicates"] == [1, 2] and "arm" in facts["seconds"]


def test_test_images_are_of_variants_that_no_other_image_is_of(made):
    for seed in PLANS["smoke"].replicates:
        run = experiment.Replicate(PLANS["smoke"], seed, made / "experiment-smoke").run
        truth = pd.read_csv(run.sets.folder / "truth.csv")
        seen = {pool: set(rows["variant"]) for pool, rows in truth.groupby("pool")}
        assert not seen["test"] & (seen["train"] | seen["validate"])


def test_a_second_call_makes_no_stage_and_the_same_tables(made):
    before = {p.name: p.read_bytes() for p in (made / "out").glob("*.csv")}
    times = {p: p.stat().st_mtime_ns for p in made.rglob("done.json")}
    replicate = experiment.Replicate(PLANS["smoke"], 1, made / "experiment-smoke")
    replicate.all()
    assert replicate.run.cache.ran == []
    assert (
        main(
            ["experiment", "--plan", "smoke", "--artifacts", str(made), "--out", str(made / "out")]
        )
        == 0
    )
    assert {p.name: p.read_bytes() for p in (made / "out").glob("*.csv")} == before
    assert {p: p.stat().st_mtime_ns for p in made.rglob("done.json")} == times


def test_the_sides_of_a_replicate_are_really_swapped(made):
    replicate = experiment.Replicate(PLANS["smoke"], 1, made / "experiment-smoke")
    plain, swapped = (replicate.arms.pairs(0.93, reports) for reports in ("", "swapped"))
    assert (plain.rows == swapped.rows).all(), "an ablation changes reports, not studies"
    right, left = (plain.phrases[..., part].sum() for part in (slice(0, 3), slice(3, 6)))
    assert (swapped.phrases[..., :3].sum(), swapped.phrases[..., 3:].sum()) == (left, right)


def test_an_unknown_plan_is_one_line(capsys):
    assert main(["experiment", "--plan", "huge"]) == 2
    assert capsys.readouterr().err == "pnloc: unknown plan 'huge'; use one of full, smoke\n"
