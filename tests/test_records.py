"""Records: splits by patient, what is dropped, and the counts that a user is shown."""

import pandas as pd
import pytest

from pnloc.data.records import (
    BOX_COLUMNS,
    FATES,
    IMAGE_COLUMNS,
    REPORT_COLUMNS,
    Records,
    assign_splits,
    check,
    drop_broken,
    drop_patients,
    ledger,
    patient_share,
    split_digest,
)
from pnloc.errors import PnlocError


def make_records(*rows: str, boxes=(), reports=(), **options) -> Records:
    """Records of images, each 'image patient split' and its own study; 'positive-...' are so."""
    images = pd.DataFrame([row.split() for row in rows], columns=["image", "patient", "split"])
    images = images.assign(path=images["image"], study=images["image"], view="PA", sex="", age=9.0)
    images["label"] = images["image"].str.startswith("positive").astype(float)
    return Records(
        "made",
        "generated",
        images.assign(width=10, height=10)[IMAGE_COLUMNS],
        pd.DataFrame([(i, 0, 0, 1, 1, "Pneumonia", "") for i in boxes], columns=BOX_COLUMNS),
        pd.DataFrame(reports, columns=REPORT_COLUMNS),
        pd.DataFrame(columns=["file", "row", "reason"]),
        options.pop("counts", {}),
        **options,
    )


def test_splits_follow_the_share_of_a_patient_which_is_the_head_of_a_sha256():
    # sha256sum of 'rsna|nih:1' begins with c0923783066af8a4, of 'rsna|nih:3' with 15e49bbe15cd900c.
    assert patient_share("nih:1", "rsna") == 0xC0923783066AF8A4 / 2**64
    assert patient_share("nih:3", "rsna") == 0x15E49BBE15CD900C / 2**64
    # Shares .0855, .7522, .7892, .9189: train ends at .7, validate at .8.
    patients = pd.Series(["nih:3", "nih:1", "nih:2", "nih:8"], index=[7, 3, 5, 1])
    splits = assign_splits(patients, "rsna")
    assert splits.to_dict() == {7: "train", 3: "validate", 5: "validate", 1: "test"}
    splits = assign_splits(patients, "rsna", (0.76, 0.0, 0.24))
    assert splits.tolist() == ["train", "train", "test", "test"]
    assert assign_splits(patients, "rsna", (0.0, 1.0, 0.0)).tolist() == ["validate"] * 4


def test_fractions_are_about_right():
    patients = pd.Series([f"covid:{i}" for i in range(5000)])
    splits = assign_splits(patients, "covid19", (0.7, 0.1, 0.2))
    alone = assign_splits(pd.Series(["covid:7", "covid:2", "covid:7"]), "covid19")
    assert alone.tolist() == splits[[7, 2, 7]].tolist()  # whatever stands around
    shares = splits.value_counts(normalize=True)[["train", "validate", "test"]]
    assert shares.tolist() == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.1), (1.2, -0.4, 0.2)])
def test_fractions_that_do_not_add_up_are_refused(fractions):
    with pytest.raises(PnlocError, match="add up to 1"):
        assign_splits(pd.Series(["a"]), "seed", fractions)


def test_an_unknown_split_is_refused_and_the_known_ones_are_listed():
    records = make_records("a p1 train")
    with pytest.raises(PnlocError, match="'validation'; use one of train, validate, test"):
        records.split("validation")
    assert records.split("train")["image"].tolist() == ["a"] and records.split("test").empty


@pytest.fixture
def records() -> Records:
    fates = dict.fromkeys(FATES, 0) | {"used": 4, "rows": 4}
    return make_records(
        *("a p1 train", "b p2 validate", "c p3 test", "d p4 train", "e p4 train"),
        boxes=["a", "a", "c", "d"],
        scores=pd.DataFrame({"image": ["a", "b"], "opacity": [1.0, 2.0]}),
        counts={"rows": 5, "used": 5, "quarantined": 0},
        tally={"boxes": fates, "splits": dict(fates)},
    )


def test_dropping_patients_takes_boxes_and_scores_along_and_leaves_the_original(records):
    dropped = drop_patients(records, {"p1", "p2"})
    assert dropped.images["image"].to_dict() == {0: "c", 1: "d", 2: "e"}
    assert dropped.boxes["image"].tolist() == ["c", "d"] and dropped.scores.empty
    dropped.counts["used"] = 3
    assert len(records.images) == records.counts["used"] == 5 and len(records.boxes) == 4
    dropped = drop_patients(records, {"p3", "p4"}, keep_split="test")
    assert dropped.images["image"].tolist() == ["a", "b", "c"]
    assert dropped.boxes["image"].tolist() == ["a", "a", "c"]


def test_images_that_cannot_be_decoded_are_quarantined_with_their_boxes(records):
    assert drop_broken(records, {}) is records
    clean = drop_broken(records, {"a": "cut short"})
    assert clean.images["image"].tolist() == ["b", "c", "d", "e"]
    assert clean.quarantine.to_numpy().tolist() == [["a", 0, "cut short"]]
    assert clean.counts == {"rows": 5, "used": 4, "quarantined": 1}
    assert (clean.tally["boxes"]["used"], clean.tally["boxes"]["quarantined"]) == (2, 2)
    assert clean.tally["splits"] == records.tally["splits"]
    assert records.tally["boxes"]["used"] == 4
    rows = {"images": 5, "boxes": 4, "splits": 4}
    expected = [["made", kind, count, count, 0, 0, 0] for kind, count in rows.items()]
    assert ledger(records).to_numpy().tolist() == expected


COUNTED = ["used", "patients", "positive", "with report", "with boxes", "boxes"]


def test_check_counts_by_split():
    rows = ["positive-1 p1 train", "positive-2 p1 train", "b p2 train", "positive-3 p3 test"]
    boxes = ["positive-1", "positive-1", "positive-3", "elsewhere"]
    reports = [("positive-1", "opacity"), ("b", " \n"), ("positive-3", "clear"), ("else", "clear")]
    made = make_records(*rows, boxes=boxes, reports=reports)
    made.images.loc[4] = made.images.loc[2].replace({"b": "c", "p2": "p4", "train": ""})
    table = check(made).set_index("split")
    assert set(table["set"]) == {"made"}
    assert {split: row.tolist() for split, row in table[COUNTED].iterrows()} == {
        "all": [5, 4, 3, 2, 2, 3],
        "train": [3, 2, 2, 1, 1, 2],
        "validate": [0, 0, 0, 0, 0, 0],
        "test": [1, 1, 1, 1, 1, 1],
    }
    assert check(make_records())[COUNTED].to_numpy().sum() == 0


def test_studies_with_a_report_are_counted_once_however_many_images_they_have():
    made = make_records("a p1 train", "b p1 train", reports=[("s", "opacity")])
    made.images["study"] = "s"
    row = check(made).set_index("split").loc["train"]
    assert (row["with report"], row["studies with report"]) == (2, 1)


def test_the_digest_of_splits_depends_on_images_and_splits_alone():
    rows = ["a p1 train", "b p2 test"]
    # printf 'a\ttrain\nb\ttest' | sha256sum
    assert split_digest(make_records(*rows)) == "b58c6f546f224498"
    assert split_digest(make_records(*rows[::-1])) == "b58c6f546f224498"
    assert split_digest(make_records("a p1 train", "b p2 train")) != "b58c6f546f224498"
