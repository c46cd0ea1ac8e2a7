"""Readers: small trees in the official layouts, every quirk of theirs, and the public data."""

import gzip
import json
import tomllib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trees
from trees import COVID, THREE, make_covid, make_mimic, make_nih, make_rsna, study, table, write

from pnloc.data import chestxray8, covid19, mimic_cxr, openi, readers, rsna
from pnloc.data.records import BOX_COLUMNS, FATES, IMAGE_COLUMNS, Records, assign_splits
from pnloc.errors import PnlocError
from pnloc.images import load
from pnloc.reports.layout import parts

TABLES = tomllib.loads(Path(__file__).with_name("datasets.toml").read_text(encoding="utf-8"))


def counts(records: Records, kind: str = "images") -> list[int]:
    """Rows and fates of a kind of rows, after checking that they are what the tables say."""
    images = records.images
    assert list(images) == IMAGE_COLUMNS and list(records.boxes) == BOX_COLUMNS
    assert records.counts["used"] == len(images) == images["image"].nunique()
    assert records.counts["quarantined"] <= len(records.quarantine)
    assert set(records.boxes["image"]) | set(records.scores["image"]) <= set(images["image"])
    kinds = {"images": records.counts, **records.tally}
    for tally in kinds.values():
        assert tally["rows"] == sum(tally[fate] for fate in FATES) and min(tally.values()) >= 0
    return [kinds[kind][name] for name in ("rows", *FATES)]


def quarantined(records: Records) -> dict[str, list[int]]:
    """The lines of each file that are in quarantine; 0 stands for a file as a whole."""
    lines = records.quarantine.groupby(records.quarantine["file"].map(lambda f: Path(f).name))
    return lines["row"].apply(sorted).to_dict()


def by_image(records: Records, column: str) -> dict:
    return records.images.set_index("image")[column].to_dict()


def boxes_of(records: Records, image: str) -> list[list[float]]:
    boxes = records.boxes[records.boxes["image"] == image]
    return boxes[["x1", "y1", "x2", "y2"]].to_numpy(float).tolist()


def refused(read, *where) -> str:
    with pytest.raises(PnlocError) as error:
        read(*where)
    assert "\n" not in str(error.value)
    return str(error.value)


# RSNA -------------------------------------------------------------------------------------------

BOXES_OF_A = ["a,264,152,213,379,1", "a,562,152,256,453,1", "b,,,,,0"]


def test_rsna_boxes_are_scaled_from_1024_to_conversions_but_not_to_dicom(tmp_path):
    rows = [*BOXES_OF_A, "c,10,20,30,40,1"]
    records = rsna.read(make_rsna(tmp_path, rows, ["a.jpg", "b.png", "c.dcm"], side=128))
    assert counts(records) == [3, 3, 0, 0, 0] and counts(records, "boxes") == [3, 3, 0, 0, 0]
    assert by_image(records, "label") == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert boxes_of(records, "a") == [[33, 19, 59.625, 66.375], [70.25, 19, 102.25, 75.625]]
    assert boxes_of(records, "c") == [[10, 20, 40, 60]]
    assert set(records.boxes["label"]) == {"Lung Opacity"}
    assert (records.images[["width", "height"]] == 128).all(axis=None)
    assert records.name == "rsna" and records.access == "open"


def test_rsna_splits_go_by_nih_patient_not_by_patient_id(tmp_path):
    names = [f"i{n}" for n in range(60)]
    nih = [f"{name},{n % 6 + 1:08d}_{n:03d}.png" for n, name in enumerate(names)]
    files = [f"{n}.png" for n in names]
    records = rsna.read(make_rsna(tmp_path, [f"{n},,,,,0" for n in names], files, 8, nih))
    patients = by_image(records, "patient")
    assert patients["i0"] == patients["i6"] == "nih:1" and patients["i5"] == "nih:6"
    splits = records.images.groupby("patient")["split"]
    expected = assign_splits(pd.Series([f"nih:{n}" for n in range(1, 7)]), "rsna")
    assert splits.nunique().tolist() == [1] * 6 and expected.nunique() == 2
    assert splits.first().tolist() == expected.tolist()
    assert not records.notes


@pytest.mark.parametrize("official", [True, False])
def test_rsna_patients_and_splits_come_from_a_mapping_and_its_faulty_lines_are_quarantined(
    tmp_path, official
):
    nih = ["a,00000042_007.png", "a,00000043_000.png", "b,?.png"]
    folder = make_rsna(tmp_path, ["a,,,,,0", "b,,,,,0"], nih=nih)
    name, first = "nih-of-rsna.csv", 2
    if official:
        (folder / name).unlink()
        name, first, keys = rsna.MAPPING, 1, ("subset_img_id", "img_id")
        entries = [dict(zip(keys, line.split(","), strict=True)) for line in nih]
        write(folder / name, json.dumps(entries))
    records = rsna.read(folder)
    assert by_image(records, "patient") == {"a": "nih:42", "b": "rsna:b"}
    assert quarantined(records) == {name: [first + 1, first + 2]}
    assert records.notes[0].startswith("1 of 2 images have no known NIH patient")
    rows = ["a,00000003_000.png,test", "b,00000003_001.png,"]
    table(folder / "nih-of-rsna.csv", "patientId,nih_image,split", rows)
    # By its hash, patient 3 is in train.
    assert by_image(rsna.read(folder), "split") == {"a": "test", "b": "train"}


def test_rsna_counts_missing_unreadable_and_contradictory_images(tmp_path):
    rows = ["a,,,,,0", "gone,,,,,0", "empty,1,1,5,5,1", "odd,,,,,2", "b,1,1,50,50,1", ",1,1,5,5,1"]
    rows += ["c,1,1,50,50,1", "c,,,,,0", "d,1,1,50,50,0"]
    folder = make_rsna(tmp_path, rows, [f"{n}.png" for n in ("a", "b", "c", "d", "odd")])
    write(folder / "stage_2_train_images" / "empty.png", "")
    records = rsna.read(folder)
    assert counts(records) == [9, 2, 1, 0, 6]  # the row of c with Target 0 counts on its own
    assert counts(records, "boxes") == [5, 1, 0, 0, 4]
    lines = quarantined(records)
    assert lines["empty.png"] == [0] and set(lines[trees.RSNA_LABELS]) == {4, 5, 7, 8, 9, 10}


@pytest.mark.parametrize(("box", "reason"), TABLES["boxes"])
def test_rsna_an_image_with_a_malformed_box_is_quarantined_and_not_called_healthy(
    tmp_path, box, reason
):
    records = rsna.read(make_rsna(tmp_path, ["a,100,100,50,50,1", f"a,{box},1", "b,,,,,0"]))
    assert counts(records) == [2, 1, 0, 0, 1] and counts(records, "boxes") == [2, 0, 0, 0, 2]
    assert quarantined(records) == {trees.RSNA_LABELS: [2, 2, 3]}
    assert f"box of a: {reason}" in set(records.quarantine["reason"])


def test_rsna_a_repeated_box_is_dropped_and_one_just_outside_is_clipped(tmp_path):
    rows = ["a,-5,1000,100,30,1", "a,-5,1000,100,30,1", "a,9,9,50,50,1", "b,,,,,0"]
    records = rsna.read(make_rsna(tmp_path, rows, side=1024))
    assert counts(records) == [2, 2, 0, 0, 0] and counts(records, "boxes") == [3, 2, 0, 0, 1]
    assert quarantined(records) == {trees.RSNA_LABELS: [3]}
    assert boxes_of(records, "a")[0] == [0, 1000, 95, 1024]


def test_a_generated_tree_is_known_by_its_rates(tmp_path):
    write(tmp_path / "rates.json", "{}")
    assert rsna.read(make_rsna(tmp_path / trees.RSNA, ["a,,,,,0"])).access == "generated"


# ChestX-ray8 ------------------------------------------------------------------------------------


def test_nih_boxes_are_read_despite_their_split_header_and_scaled_from_1024(tmp_path):
    boxes = ["00000001_000.png,Pneumonia,200.5,100,300,400", "00000002_000.png,Infiltrate,8,8,8,8"]
    records = chestxray8.read(make_nih(tmp_path, THREE, [*boxes, "far.png,Mass,1,2,3,4"], side=256))
    assert counts(records) == [3, 3, 0, 0, 0] and counts(records, "boxes") == [3, 2, 1, 0, 0]
    assert records.notes == ["1 boxes belong to images that are not in this folder"]
    assert boxes_of(records, "00000001_000.png") == [[50.125, 25, 125.125, 125]]
    assert records.boxes["label"].tolist() == ["Pneumonia", "Infiltrate"]
    # Neither Infiltrate nor Infiltration is pneumonia.
    assert list(by_image(records, "label").values()) == [1.0, 0.0, 0.0]
    assert by_image(records, "patient")["00000001_001.png"] == "nih:1"
    for column, value in (("age", 50.0), ("view", "PA"), ("sex", "F")):
        assert set(records.images[column]) == {value}


def test_nih_the_older_table_numbered_folders_and_rgba_images_are_read_too(tmp_path):
    folder = make_nih(tmp_path, images=[], header=trees.NIH_HEADER.replace("Gender", "Sex"))
    (folder / trees.NIH_ENTRIES).rename(folder / "Data_Entry_2017.csv")
    (folder / "images").rmdir()
    trees.draw(folder / "images_001" / "images" / "00000001_000.png", mode="RGBA")
    path = trees.draw(folder / "images_012" / "images" / "00000002_000.png")
    records = chestxray8.read(folder)
    assert counts(records) == [3, 2, 1, 0, 0] and set(records.images["sex"]) == {"F"}
    assert Path(by_image(records, "path")["00000002_000.png"]) == path
    assert load(by_image(records, "path")["00000001_000.png"], 16)[0].any()


def test_nih_missing_repeated_malformed_and_unreadable_rows_are_counted(tmp_path):
    names = [("gone.png", 7, 50), ("00000001_000.png", 1, "old"), ("00000001_000.png", 1, 50)]
    names += [("00000002_000.png", "two", 50), ("", 3, 50), ("empty.png", 4, 50)]
    folder = make_nih(tmp_path, [trees.entry(name, "Mass", *more) for name, *more in names])
    write(folder / "images" / "empty.png", "")
    records = chestxray8.read(folder)
    assert counts(records) == [6, 1, 1, 0, 4]
    assert quarantined(records) == {trees.NIH_ENTRIES: [4, 5, 6], "empty.png": [0]}
    assert np.isnan(records.images["age"]).tolist() == [True]


def test_nih_patients_with_a_boxed_or_listed_image_are_test_patients(tmp_path):
    names = [f"{n:08d}_{k:03d}.png" for n in range(1, 31) for k in range(2)]
    entries = [trees.entry(name, "No Finding", int(name[:8])) for name in names]
    boxes = [f"{n:08d}_000.png,Mass,1,1,5,5" for n in (3, 5, 6, 7)]
    folder = make_nih(tmp_path, entries, boxes, names, side=8)
    records = chestxray8.read(folder)
    hashed = assign_splits(records.images["patient"], "chestxray8")
    boxed = records.images["patient"].isin([f"nih:{n}" for n in (3, 5, 6, 7)])
    assert boxed.sum() == 8 and set(hashed[boxed]) != {"test"}  # else this would show nothing
    assert (records.images["split"] == hashed.where(~boxed, "test")).all()
    write(folder / "test_list.txt", "00000004_000.png\n00000011_000.png\n")
    records = chestxray8.read(folder)
    tested = records.split("test")["patient"].unique().tolist()
    assert tested == [f"nih:{n}" for n in (3, 4, 5, 6, 7, 11)]
    assert set(records.images["split"]) == {"train", "validate", "test"}


AGES = TABLES["ages"]


def test_ages_in_any_unit_become_years_and_impossible_ones_are_unknown(tmp_path):
    names = [f"{n:08d}_000.png" for n in range(len(AGES))]
    entries = [trees.entry(names[n], "Mass", n, age) for n, age in enumerate(AGES)]
    ages = chestxray8.read(make_nih(tmp_path, entries, images=names, side=8)).images["age"]
    assert ages.tolist() == pytest.approx(list(AGES.values()), abs=0.01, nan_ok=True)


# COVID-19 ---------------------------------------------------------------------------------------


def test_covid_is_read_with_new_and_old_column_names_in_any_encoding(tmp_path):
    rows = [study("a.png"), study("b.jpg", 2, "No Finding", "AP", notes=""), study("c.jpeg", 2)]
    rows[2] = rows[2].replace("Pneumonia/Viral/COVID-19", "todo")
    records = covid19.read(make_covid(tmp_path / "new", rows))
    assert counts(records) == [3, 3, 0, 0, 0] and len(records.boxes) == 0
    assert list(by_image(records, "patient").values()) == ["covid:1", "covid:2", "covid:2"]
    assert list(by_image(records, "study").values()) == ["a.png", "", "c.jpeg"]
    notes = [[name, "Left basilar opacity."] for name in ("a.png", "c.jpeg")]
    assert records.reports.to_numpy().tolist() == notes
    labels = list(by_image(records, "label").values())
    assert labels == pytest.approx([1, 0, np.nan], nan_ok=True)
    assert set(records.images["sex"]) == {"M"} and set(records.images["age"]) == {65.0}
    assert (records.images[["width", "height"]] == [40, 30]).all(axis=None)
    header = trees.COVID_HEADER.replace("patientid", "Patientid").replace(",url", ", url")
    header = header.replace("clinical_notes", "clinical notes")
    old = covid19.read(make_covid(tmp_path / "old", rows, header=header))
    assert old.reports.equals(records.reports)
    assert old.images.drop(columns="path").equals(records.images.drop(columns="path"))
    rows = [study("a.png", notes="Röntgen")]  # not UTF-8
    path = table(tmp_path / "old" / "metadata.csv", trees.COVID_HEADER, rows, encoding="cp1252")
    assert covid19.read(path.parent).reports["text"].tolist() == ["R\ufffdntgen"]


def test_covid_ct_and_lateral_views_are_excluded_and_faulty_rows_counted(tmp_path):
    rows = [study("a.png", view="AP Supine"), study("b.jpg", view="L"), study("gone.png")]
    rows += [study("c.jpeg", modality="CT"), study("e.png", view=""), study("a.png", 2)]
    rows += [study("empty.png"), study("")]
    folder = make_covid(tmp_path, rows, ["a.png", "b.jpg", "c.jpeg", "e.png"])
    write(folder / "images" / "empty.png", "")
    records = covid19.read(folder)
    assert counts(records) == [8, 1, 1, 3, 3]
    assert by_image(records, "view") == {"a.png": "AP Supine"}
    assert by_image(records, "patient") == {"a.png": "covid:1"}
    assert quarantined(records) == {"metadata.csv": [7, 9], "empty.png": [0]}


def test_covid_scores_are_read_past_comments_and_byte_order_mark_and_join_on_the_image(tmp_path):
    rows = [study(name, patient) for patient, name in enumerate(["a.png", "b.jpg", "c.jpeg"])]
    severity = ["a.png,3.6667,2", "b.jpg,0,0", "elsewhere.png,1,1"]
    brixia = ["b.jpg,3,2,1,0,1,2,9,0,1,0,1,3,0,5", "c.jpeg,0,0,0,0,0,1,2,0,0,0,0,0,0,0"]
    records = covid19.read(make_covid(tmp_path / COVID, rows, severity=severity, brixia=brixia))
    assert counts(records, "severity scores") == [3, 2, 1, 0, 0]
    assert counts(records, "brixia scores") == [2, 2, 0, 0, 0]
    zones = [f"{reader}_{zone}" for reader in ("brixia", "brixia_junior") for zone in "ABCDEF"]
    columns = ["geographic_extent", "opacity", "brixia", "brixia_junior", *zones]
    assert list(records.scores) == ["image", *columns]
    assert records.scores["image"].tolist() == ["a.png", "b.jpg", "c.jpeg"]
    assert records.scores[columns].fillna(-1).to_numpy().tolist() == [
        [3.6667, 2, *[-1] * 14],
        [0, 0, 9, 5, 3, 2, 1, 0, 1, 2, 0, 1, 0, 1, 3, 0],
        [-1, -1, 2, 0, 0, 0, 0, 0, 0, 1, *[0] * 6],
    ]
    assert records.notes == ["1 global scores of brixia are not the sum of their zones"]


def test_opacity_from_0_to_8_as_in_ralo_is_scaled_to_0_to_6(tmp_path):
    folder = make_covid(tmp_path, [study("a.png"), study("b.jpg")])
    comment = "## opacity_mean: The degree of opacity. The total ranged from 0 to 8.\n"
    header = trees.SEVERITY_HEADER.replace(trees.COMMENTS, trees.COMMENTS + comment)
    table(folder / trees.SEVERITY, header, ["a.png,3,8", "b.jpg,3,9"])
    records = covid19.read(folder)
    assert records.scores.to_numpy().tolist() == [["a.png", 3.0, 6.0]]
    assert quarantined(records) == {"covid-severity-scores.csv": [9]}
    assert "opacity is given from 0 to 8 and scaled to 0 to 6" in records.notes


def test_scores_out_of_range_or_repeated_are_quarantined_with_their_line(tmp_path):
    rows = [study("a.png"), study("b.jpg"), study("c.jpeg")]
    severity = ["a.png,8.1,3", "b.jpg,4,high", "c.jpeg,4,3", "c.jpeg,5,3", ",1,1"]
    brixia = ["a.png,4,0,0,0,0,0,4,0,0,0,0,0,0,0"]
    records = covid19.read(make_covid(tmp_path / COVID, rows, severity=severity, brixia=brixia))
    assert counts(records, "severity scores") == [5, 1, 0, 0, 4]
    assert counts(records, "brixia scores") == [1, 0, 0, 0, 1]
    assert records.scores.iloc[:, :3].to_numpy().tolist() == [["c.jpeg", 4, 3]]
    lines = {"covid-severity-scores.csv": [7, 8, 10, 11], "public-annotations.csv": [2]}
    assert quarantined(records) == lines


def test_covid_patients_who_share_a_file_are_one_and_those_with_a_score_are_tested(tmp_path):
    names = [f"i{n}.png" for n in range(40)]
    rows = [study(name, n // 2) for n, name in enumerate(names)] + [study("i2.png", 0)]
    zeros = ",".join("0" * 14)
    scores = {"severity": ["i0.png,3,2"], "brixia": [f"i7.png,{zeros}"]}
    records = covid19.read(make_covid(tmp_path / COVID, rows, names, **scores))
    tested = ["i0.png", "i1.png", "i2.png", "i3.png", "i6.png", "i7.png"]
    assert records.split("test")["image"].tolist() == tested
    assert set(records.images["split"]) == {"train", "validate", "test"}
    assert records.images.groupby("patient")["split"].nunique().max() == 1
    note = "1 patients share an image file with another and count as the same: 0 = 1"
    assert records.notes == [note]


SOURCES = "patientid,finding,view,modality,date,filename,doi,url,license"


def origins(folder: Path, *rows: str, header: str = SOURCES) -> pd.DataFrame:
    table(folder / "metadata.csv", header, rows)
    return covid19.sources(folder).set_index("image")


def test_only_plainly_free_licences_let_an_image_be_drawn(tmp_path):
    free, other = TABLES["free"], TABLES["not_free"]
    rows = [f"1,x,PA,X-ray,,{n}.png,,http://x,{text}" for n, text in enumerate(free + other)]
    shown = origins(tmp_path, *rows)["shown"]
    assert shown.tolist() == [True] * len(free) + [False] * len(other)


def test_the_credit_names_file_page_and_licence_and_years_come_from_any_date(tmp_path):
    rows = ["2020,a.png,10.1/x,https://www.sirm.org/a,CC BY", "2019-11-03,c.png,,,"]
    rows += ['"January 22, 2020",b.png,10.1/x,,CC BY', "unknown,d.png,,,"]
    credits = origins(tmp_path, *(f"1,x,PA,X-ray,{row}" for row in rows))
    assert credits.loc["a.png", "credit"] == "a.png, https://www.sirm.org/a, CC BY"
    assert credits.loc["b.png", "credit"] == "b.png, https://doi.org/10.1/x, CC BY"
    assert credits["credit"].str.contains("not named").tolist() == [False, True, False, True]
    assert credits["source"].tolist() == ["sirm.org", *["unknown"] * 3]
    assert credits["year"].fillna(0).tolist() == [2020, 2019, 2020, 0]
    header = "patientid,finding,view,modality,filename"
    bare = origins(tmp_path, "1,x,PA,X-ray,a.png", header=header).loc["a.png"]
    assert bare["source"] == "unknown" and not bare["shown"] and np.isnan(bare["year"])


def coco(*boxes) -> dict:
    names = enumerate(("Right Lung", "Left Lung", "Heart"), 1)
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 200, "height": 100}],
        "categories": [{"id": n, "name": name} for n, name in names],
        "annotations": [{"image_id": 7, "category_id": c, "bbox": b} for c, b in boxes],
    }


def test_lung_boxes_are_relative_and_one_per_lung(tmp_path):
    assert covid19.lung_boxes(tmp_path).empty
    boxes = [(1, [20, 10, 40, 50]), (2, [120, 10, 40, 50]), (1, [10, 40, 20, 40])]
    write(tmp_path / "annotations/lung-boxes.json", json.dumps(coco(*boxes, (3, [0, 0, 9, 9]))))
    assert covid19.lung_boxes(tmp_path).to_numpy().tolist() == [
        ["a.png", "left", 0.6, 0.1, 0.8, 0.6],
        ["a.png", "right", 0.05, 0.1, 0.3, 0.8],
    ]


BROKEN = [(9, [1] * 4), (1, [1] * 3), (1, "ab"), (1, 0)]


@pytest.mark.parametrize("broken", [[], {}, {"images": 1}, *map(coco, BROKEN)])
def test_broken_lung_boxes_name_the_file(tmp_path, broken):
    write(tmp_path / "annotations/lung-boxes.json", json.dumps(broken))
    text = refused(covid19.lung_boxes, tmp_path)
    assert "lung-boxes.json: not a COCO file of lung boxes" in text


# MIMIC-CXR --------------------------------------------------------------------------------------


def test_mimic_joins_metadata_labels_splits_and_reports(tmp_path):
    folder = make_mimic(tmp_path)
    for path in list(folder.glob("*split.csv.gz")):  # tables may be unzipped
        write(path.with_suffix(""), gzip.decompress(path.read_bytes()).decode())
        path.unlink()
    records = mimic_cxr.read(folder)
    assert counts(records) == [3, 2, 0, 1, 0]
    assert records.images.drop(columns=["path", "sex", "age"]).to_numpy().tolist() == [
        ["d1", "mimic:10000001", "s50000001", "AP", 40, 48, 1.0, "train"],
        ["d3", "mimic:10000002", "s50000002", "PA", 40, 48, 0.0, "test"],
    ]
    assert Path(by_image(records, "path")["d1"]) == folder / trees.D1
    text = "FINDINGS: Opacity of 50000001.\n\nIMPRESSION: ___\n"
    assert records.reports.to_numpy().tolist()[0] == ["s50000001", text]
    assert records.access == "credentialed"
    (note,) = records.notes
    assert note.startswith("no boxes: ms-cxr/ holds none of")


LABELS = TABLES["labels"]


def test_mimic_labels_have_three_values_and_malformed_or_repeated_ones_are_quarantined(tmp_path):
    ids = [(10000001 + n, 50000001 + n) for n in range(len(LABELS) + 2)]
    metadata = [trees.photograph(f"d{n:02d}", *pair, "AP") for n, pair in enumerate(ids)]
    splits = [f"d{n:02d},{study},{subject},train" for n, (subject, study) in enumerate(ids)]
    chexpert = [f"{s},{t},{row}" for (s, t), row in zip(ids, [*LABELS, ",,yes,"], strict=False)]
    records = mimic_cxr.read(make_mimic(tmp_path, metadata, splits, [*chexpert, chexpert[0]]))
    expected = [*LABELS.values(), np.nan, np.nan]  # the last study has no row
    assert records.images["label"].tolist() == pytest.approx(expected, nan_ok=True)
    assert counts(records, "labels") == [10, 8, 0, 0, 2]


def test_mimic_missing_repeated_and_malformed_rows_are_counted(tmp_path):
    rows = ["d1,AP,48,40", "gone,AP,48,40", "d1,AP,48,40", "d4,AP,0,40", "d5,PA,48,wide"]
    rows += ["d6,LL,48,40", "d7,,48,40", "d8,AP,48,40", "d9,AP,48,40"]
    rows = [row.split(",") for row in rows]
    metadata = [trees.photograph(name, 10000001, 50000001, *more) for name, *more in rows]
    splits = ["d1,50000001,10000001,validate", "d1,50000001,10000001,train", "d8,5,1,tset"]
    records = mimic_cxr.read(make_mimic(tmp_path, metadata, splits, absent=["gone"]))
    assert counts(records) == [9, 1, 1, 2, 5] and counts(records, "splits") == [3, 1, 0, 0, 2]
    assert by_image(records, "split") == {"d1": "validate"}
    name, split = (f"mimic-cxr-2.0.0-{table}.csv.gz" for table in ("metadata", "split"))
    assert quarantined(records) == {split: [3, 4], name: [4, 5, 6, 9, 10]}


def test_mimic_reports_are_read_whole_beside_the_set_inside_it_or_from_a_given_folder(tmp_path):
    folder = make_mimic(tmp_path)
    (tmp_path / "mimic-cxr").rename(tmp_path / "texts")
    none = mimic_cxr.read(folder)
    assert len(none.reports) == 0 and set(none.images["study"]) == {""}
    assert none.notes[-1].startswith("2 studies have no report file")
    assert len(mimic_cxr.read(folder, reports=tmp_path / "texts").reports) == 2
    text = "ADDENDUM: None.\n______________\nFINDINGS:\n\nIMPRESSION: Pneumonia of ___.\n"
    write(trees.place(folder, 10000001, 50000001).with_suffix(".txt"), text)
    write(trees.place(folder, 10000002, 50000002).with_suffix(".txt"), "Röntgen", "latin-1")
    records = mimic_cxr.read(folder)
    assert records.reports.to_numpy().tolist() == [["s50000001", text]]  # whole
    assert {part.name for part in parts(text)} == {"ADDENDUM", "IMPRESSION"}
    assert by_image(records, "study") == {"d1": "s50000001", "d3": ""}
    assert quarantined(records) == {"s50000002.txt": [0]}


@pytest.mark.parametrize("version", ["v1.0.0", "v1.1.0"])
def test_ms_cxr_has_one_row_per_box_scaled_to_the_size_of_the_metadata(tmp_path, version):
    rows = [f"d1,Pneumonia,left base,{trees.D1},10,20,20,12,40,48"]
    rows += [f"d1,Pneumonia,left base,{trees.D1},20,80,40,8,80,192"]
    rows += ["far,Pneumonia,o,x.jpg,1,1,5,5,40,48"]
    rows += [f"d1,Consolidation,'dense',{trees.D1},10,20,20,12,40,48"]
    folder, header = make_mimic(tmp_path), trees.MS_CXR_HEADER
    if version == "v1.1.0":
        rows, header = [f"{row},test" for row in rows], f"{header},split"
    table(tmp_path / trees.MS_CXR.replace("v1.1.0", version), header, rows)
    records = mimic_cxr.read(folder)
    assert boxes_of(records, "d1") == [[10, 20, 30, 32], [10, 20, 30, 22], [10, 20, 30, 32]]
    assert records.boxes["label"].tolist() == ["Pneumonia", "Pneumonia", "Consolidation"]
    phrases = records.boxes.groupby(["image", "text"]).size().to_dict()
    assert phrases == {("d1", "left base"): 2, ("d1", "'dense'"): 1}
    assert by_image(records, "split")["d1"] == "train"  # the split of MIMIC-CXR holds
    assert records.notes == []


def test_ms_cxr_malformed_boxes_are_quarantined(tmp_path):
    xywh = ["wide,2,3,4", *["38.2,2,2,4"] * 2, "30,2,15,4"]
    rows = [f"d1,Pneumonia,t,{trees.D1},{box},40,48" for box in xywh]
    rows += [f"d1,Pneumonia,t,{trees.D1.replace('d1', 'd3')},1,2,3,4,40,48"]
    rows += [f"d2,Pneumonia,lateral,{trees.D1.replace('d1', 'd2')},1,2,3,4,40,48"]
    records = mimic_cxr.read(make_mimic(tmp_path, ms_cxr=rows))
    assert boxes_of(records, "d1") == [pytest.approx([38.2, 2, 40, 6])]
    assert counts(records, "boxes") == [6, 1, 0, 1, 4]
    # Not a number, a box that stands twice, one that reaches out, the path of another image.
    assert quarantined(records) == {Path(trees.MS_CXR).name: [2, 4, 5, 6]}


def test_ms_cxr_replaces_the_annotations_of_tam_et_al(tmp_path):
    boxes = [(7, [10, 20, 20, 8]), (8, [1, 2, 3, 4]), (7, [1, 2, 0, 4]), (9, [1, 2, 3, 4])]
    tam = coco()
    tam["categories"] = [{"id": 3, "name": "pneumonia"}]
    report = "No effusion. Left basilar opacity."
    tam["images"] = [{"id": 7, "file_name": "d1.jpg", "report": report}]
    tam["images"].append({"id": 8, "file_name": "elsewhere.jpg"})
    tam["annotations"] = [{"image_id": i, "category_id": 3, "bbox": box} for i, box in boxes]
    tam["annotations"][0]["label_text"] = [{"start": 13, "end": 34}]
    folder = make_mimic(tmp_path, tam=tam)
    records = mimic_cxr.read(folder)
    only = ["d1", 10, 20, 30, 28, "Pneumonia", "Left basilar opacity."]
    assert records.boxes.to_numpy().tolist() == [only]
    assert counts(records, "boxes") == [4, 1, 1, 0, 2] and records.notes == []
    assert quarantined(records) == {"tam.json": [3, 4]}
    row = f"d1,Pneumonia,t,{trees.D1},1,2,3,4,40,48"
    table(tmp_path / trees.MS_CXR, trees.MS_CXR_HEADER, [row])
    records = mimic_cxr.read(folder)
    assert boxes_of(records, "d1") == [[1, 2, 4, 6]]
    assert counts(records, "boxes") == [5, 1, 1, 2, 1]


# OpenI ------------------------------------------------------------------------------------------


def test_openi_leaves_empty_sections_out(tmp_path):
    texts = [("XXXX opacity.", "Pneumonia."), ("", "Pneumonia."), (" \n", "")]
    for n, (findings, impression) in enumerate(texts, 1):
        content = trees.OPENI.format(findings=findings, impression=impression)
        write(tmp_path / "ecgen-radiology" / f"{n}.xml", content)
    records = openi.read(tmp_path)
    assert records.reports.to_numpy().tolist() == [
        ["1", "FINDINGS: XXXX opacity.\nIMPRESSION: Pneumonia.", "Opacity/lung/mild;normal", 1],
        ["2", "IMPRESSION: Pneumonia.", "Opacity/lung/mild;normal", 1],
        ["3", "", "Opacity/lung/mild;normal", 1],
    ]
    assert counts(records) == [0, 0, 0, 0, 0] and counts(records, "reports") == [3, 3, 0, 0, 0]


def test_openi_comes_with_the_installed_package():
    reports = openi.read().reports
    texts = reports["text"]
    assert len(reports) == reports["study"].nunique() == 3955
    assert (~texts.str.contains("FINDINGS:")).sum() == 530
    assert (~texts.str.contains("IMPRESSION:")).sum() == 34
    assert (texts == "").sum() == 28 and texts.str.contains("XXXX").sum() == 1855
    assert (reports["mesh"] != "").all() and (reports["images"] == 0).sum() == 104


# All sets ---------------------------------------------------------------------------------------

MODULES = (rsna, chestxray8, covid19, mimic_cxr, openi)


@pytest.mark.parametrize("reader", MODULES, ids=lambda reader: reader.__name__)
def test_missing_files_and_columns_are_named(tmp_path, reader):
    home = tmp_path / "set"
    for message, name, content in TABLES["lacking"][reader.__name__.rpartition(".")[2]]:
        text = refused(reader.read, home)
        assert text.startswith(str(home)) and message in text
        if name:
            write(home / name, content)
        home.mkdir(exist_ok=True)


def test_counts_add_up_without_any_image_file_or_row(tmp_path):
    rows, boxes = [study("a.png"), study("b.jpg", view="L")], ["00000001_000.png,Mass,1,2,3,4"]
    absent = {"ms_cxr": ["d1,Pneumonia,t,p,1,2,3,4,40,48"], "absent": ["d1", "d2", "d3"]}
    sets = {
        rsna.read: (make_rsna, (["a,1,2,3,4,1", "b,,,,,0"], []), {}, [2, 0, 2, 0, 0]),
        chestxray8.read: (make_nih, (THREE, boxes, []), {}, [3, 0, 3, 0, 0]),
        covid19.read: (make_covid, (rows, [], ["a.png,3,2"]), {}, [2, 0, 1, 1, 0]),
        mimic_cxr.read: (make_mimic, (), absent, [3, 0, 2, 1, 0]),
    }
    for read, (make, tables, options, expected) in sets.items():
        home = tmp_path / make.__name__
        assert counts(read(make(home, *tables, **options))) == expected
        bare = ([], [], []) if make is make_mimic else ([],)
        assert counts(read(make(home / "bare", *bare))) == [0, 0, 0, 0, 0]


def test_sets_are_known_by_the_names_of_their_folders(tmp_path):
    make_rsna(tmp_path / trees.RSNA, ["a,,,,,0"])
    (tmp_path / "ChestX-ray8").write_text("not a folder")
    assert readers.find(tmp_path) == {"rsna": tmp_path / trees.RSNA}
    assert list(readers.read_all(tmp_path, ["rsna"])) == ["rsna"]
    text = refused(readers.read_all, tmp_path, ["rsna", "chestxray8", "covid19"])
    assert text.startswith(f"{tmp_path}: holds no ChestX-ray8, covid-chestxray-dataset")


# The public data --------------------------------------------------------------------------------


@lru_cache
def real(name: str) -> Records:
    if not (trees.DATA / readers.FOLDERS[name]).is_dir():
        pytest.skip(f"no {readers.FOLDERS[name]} in ../shared/data beside the repository")
    return readers.read_all(trees.DATA, [name])[name]


@pytest.mark.parametrize("name", TABLES["real"])
def test_the_downloaded_images(name):
    records, facts = real(name), TABLES["real"][name]
    images, positive = records.images, records.images["label"] == 1
    assert counts(records) == facts["counts"] and images["patient"].nunique() == facts["patients"]
    assert images.groupby("patient")["split"].nunique().max() == 1
    boxed = images["image"].isin(records.boxes["image"])
    assert [boxed.sum(), len(records.boxes)] == facts["boxes"]
    assert records.notes == facts["notes"]
    if name == "rsna":  # in pixels of 512: boxes of the official 1024 would reach past the edge
        assert (boxed == positive).all() and records.boxes[["x2", "y2"]].max().max() <= 512
        assert images["patient"].str.startswith("nih:").all() and records.quarantine.empty
    elif name == "chestxray8":
        assert (images.loc[boxed, "split"] == "test").all()


def test_the_scores_of_the_downloaded_covid_images():
    records = real("covid19")
    scored = records.scores.set_index("image")
    assert (scored["geographic_extent"].between(0, 8) & scored["opacity"].between(0, 6)).sum() == 94
    assert set(records.images.loc[records.images["image"].isin(scored.index), "split"]) == {"test"}
    assert set(records.images["view"]) == {"AP", "AP Supine", "PA"}
    if (trees.DATA / "brixia-cohen").is_dir():
        zones = scored[[f"brixia_{zone}" for zone in "ABCDEF"]].dropna()
        assert len(zones) == 125
        assert (zones.sum(axis=1) == scored["brixia"].dropna()).mean() > 0.95
