"""Records: splits by patient, leaks between sets, and the counts that a reader is shown."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnloc.data.records import (
    BOX_COLUMNS,
    FATES,
    IMAGE_COLUMNS,
    QUARANTINE_COLUMNS,
    REPORT_COLUMNS,
    Records,
    assign_splits,
    check,
    drop_patients,
    ledger,
    patient_share,
    split_digest,
)
from pnloc.errors import PnlocError


def make_records(*rows: tuple[str, str, str], boxes=(), reports=(), **options) -> Records:
    """Records of images (image, patient, split); each image is its own study, and 'positive-...' ones are positive."""
    images = pd.DataFrame(rows, columns=["image", "patient", "split"])
    images = images.assign(
        path="", study=images["image"], view="PA", sex="", age=np.nan, width=10, height=10
    )
    images["label"] = images["image"].str.startswith("positive").astype(float)
    return Records(
        "made",
        "generated",
        images[IMAGE_COLUMNS],
        pd.DataFrame([(i, 0, 0, 1, 1, "Pneumonia", "") for i in boxes], columns=BOX_COLUMNS),
        pd.DataFrame(reports, columns=REPORT_COLUMNS),
        pd.DataFrame(columns=QUARANTINE_COLUMNS),
        options.pop("counts", {}),
        **options,
    )


def test_the_share_of_a_patient_is_the_head_of_a_sha256():
    # sha256sum of 'rsna|nih:1' begins with c0923783066af8a4, of 'rsna|nih:3' with 15e49bbe15cd900c.
    assert (
        patient_share("nih:1", "rsna")
        == 0xC0923783066AF8A4 / 2**64
        == pytest.approx(0.752231, abs=1e-6)
    )
    assert (
        patient_share("nih:3", "rsna")
        == 0x15E49BBE15CD900C / 2**64
        == pytest.approx(0.085520, abs=1e-6)
    )


def test_splits_follow_the_share():
    # Shares .0855, .7522, .7892, .9189: train ends at .7, validate at .8.
    patients = pd.Series(["nih:3", "nih:1", "nih:2", "nih:8"])
    assert assign_splits(patients, "rsna").tolist() == ["train", "validate", "validate", "test"]
    assert assign_splits(patients, "rsna", (0.76, 0.0, 0.24)).tolist() == [
        "train",
        "train",
        "test",
        "test",
    ]
    assert assign_splits(patients, "rsna", (0.0, 1.0, 0.0)).tolist() == ["validate"] * 4


def test_another_seed_gives_other_splits():
    patients = pd.Series([f"nih:{i}" for i in range(200)])
    changed = (assign_splits(patients, "rsna") != assign_splits(patients, "other")).mean()
    assert 0.3 < changed < 0.6  # 1 - (.7 ** 2 + .1 ** 2 + .2 ** 2) = .46


@given(st.lists(st.sampled_from([f"p{i}" for i in range(12)]), max_size=40))
def test_a_patient_has_one_split_whatever_stands_around(patients):
    found = assign_splits(pd.Series(patients, dtype=object), "seed")
    alone = [assign_splits(pd.Series([patient]), "seed")[0] for patient in patients]
    assert found.tolist() == alone


def test_fractions_are_about_right():
    splits = assign_splits(
        pd.Series([f"covid:{i}" for i in range(5000)]), "covid19", (0.7, 0.1, 0.2)
    )
    shares = splits.value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.7, abs=0.02)
    assert shares["validate"] == pytest.approx(0.1, abs=0.015)
    assert shares["test"] == pytest.approx(0.2, abs=0.02)


def test_splits_keep_the_index_of_the_patients():
    found = assign_splits(pd.Series(["nih:3", "nih:8"], index=[7, 3]), "rsna")
    assert found.to_dict() == {7: "train", 3: "test"}


@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.1), (1.2, -0.4, 0.2)])
def test_fractions_that_do_not_add_up_are_refused(fractions):
    with pytest.raises(PnlocError, match="add up to 1"):
        assign_splits(pd.Series(["a"]), "seed", fractions)


def test_an_unknown_split_is_refused_and_the_known_ones_are_listed():
    records = make_records(("a", "p1", "train"))
    with pytest.raises(
        PnlocError, match="unknown split 'validation'; use one of train, validate, test"
    ):
        records.split("validation")
    assert records.split("train")["image"].tolist() == ["a"]
    assert len(records.split("test")) == 0


TRAINING = make_records(
    ("a", "p1", "train"),
    ("b", "p2", "validate"),
    ("c", "p3", "test"),
    ("d", "p4", "train"),
    ("e", "p4", "train"),
    boxes=["a", "a", "c", "d"],
    scores=pd.DataFrame({"image": ["a", "b"], "opacity": [1.0, 2.0]}),
    counts={"rows": 5, "used": 5},
)


def test_dropping_patients_takes_boxes_and_scores_along():
    dropped = drop_patients(TRAINING, {"p1", "p2"})
    assert dropped.images["image"].tolist() == ["c", "d", "e"]
    assert dropped.images.index.tolist() == [0, 1, 2]
    assert dropped.boxes["image"].tolist() == ["c", "d"]
    assert dropped.scores["image"].tolist() == []
    assert len(TRAINING.images) == 5 and len(TRAINING.boxes) == 4


def test_images_of_the_split_to_keep_stay():
    dropped = drop_patients(TRAINING, {"p3", "p4"}, keep_split="test")
    assert dropped.images["image"].tolist() == ["a", "b", "c"]
    assert dropped.boxes["image"].tolist() == ["a", "a", "c"]


def test_counts_of_what_was_dropped_do_not_reach_the_original():
    dropped = drop_patients(TRAINING, {"p1"})
    dropped.counts["used"] = 4
    assert TRAINING.counts == {"rows": 5, "used": 5}


def test_check_counts_by_split():
    records = make_records(
        ("positive-1", "p1", "train"),
        ("positive-2", "p1", "train"),
        ("b", "p2", "train"),
        ("positive-3", "p3", "test"),
        ("c", "p4", ""),
        boxes=["positive-1", "positive-1", "positive-3", "elsewhere"],
        reports=[
            ("positive-1", "opacity"),
            ("b", " \n"),
            ("positive-3", "clear"),
            ("elsewhere", "clear"),
        ],
    )
    table = check(records).set_index("split")
    assert table.index.tolist() == ["all", "train", "validate", "test"]
    assert set(table["set"]) == {"made"}
    counted = ["used", "patients", "positive", "with report", "with boxes", "boxes"]
    assert table.loc["all", counted].tolist() == [5, 4, 3, 2, 2, 3]
    assert table.loc["train", counted].tolist() == [3, 2, 2, 1, 1, 2]
    assert table.loc["validate", counted].tolist() == [0, 0, 0, 0, 0, 0]
    assert table.loc["test", counted].tolist() == [1, 1, 1, 1, 1, 1]


def test_check_of_an_empty_set_is_all_zero():
    table = check(make_records())
    assert (
        table[["used", "patients", "positive", "with report", "with boxes", "boxes"]]
        .to_numpy()
        .sum()
        == 0
    )


def test_the_ledger_has_a_row_for_each_kind_of_rows():
    counts = {
        "rows": 5,
        "used": 2,
        "missing": 1,
        "excluded": 1,
        "quarantined": 1,
        "dropped_for_leak": 1,
    }
    boxes = {"rows": 3, "used": 3, "missing": 0, "excluded": 0, "quarantined": 0}
    table = ledger(make_records(("a", "p1", "train"), counts=counts, tally={"boxes": boxes}))
    assert table.to_numpy().tolist() == [
        ["made", "images", 5, 2, 1, 1, 1],
        ["made", "boxes", 3, 3, 0, 0, 0],
    ]
    assert (table["rows"] == table[list(FATES)].sum(axis=1)).all()


def test_studies_with_a_report_are_counted_once_however_many_images_they_have():
    records = make_records(("a", "p1", "train"), ("b", "p1", "train"), reports=[("s", "opacity")])
    records.images["study"] = "s"
    row = check(records).set_index("split").loc["train"]
    assert (row["with report"], row["studies with report"]) == (2, 1)


def test_the_digest_of_splits_depends_on_images_and_splits_alone():
    rows = [("a", "p1", "train"), ("b", "p2", "test")]
    # printf 'a\ttrain\nb\ttest' | sha256sum
    assert split_digest(make_records(*rows)) == "b58c6f546f224498"
    assert split_digest(make_records(*rows[::-1])) == split_digest(make_records(*rows))
    assert split_digest(make_records(("a", "p1", "train"), ("b", "p2", "train"))) != split_digest(
        make_records(*rows)
    )
