"""Readers: small trees in the official layouts, every quirk of theirs, and the public data where it is there."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from pnloc.data import chestxray8, covid19, mimic_cxr, openi, rsna
from pnloc.data import readers as datasets
from pnloc.data.records import BOX_COLUMNS, IMAGE_COLUMNS, Records, assign_splits
from pnloc.detector import FINDINGS
from pnloc.errors import PnlocError
from pnloc.images import load
from pnloc.reports.findings import sections

DATA = Path(__file__).parents[2] / "shared" / "data"


# Helpers


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def draw(path: Path, width: int = 64, height: int = 64, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), 100 if mode == "L" else (100, 100, 100, 255)).save(path)
    return path


def draw_dicom(path: Path, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", generate_uid()
    data.Rows = data.Columns = side
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = bytes(side * side)
    data.save_as(path, enforce_file_format=True)


def counts(records: Records) -> list[int]:
    """Rows, used, missing, excluded, quarantined: checked to add up and to be what the tables say."""
    numbers = [
        records.counts[name] for name in ("rows", "used", "missing", "excluded", "quarantined")
    ]
    assert numbers[0] == sum(numbers[1:])
    assert min(numbers) >= 0
    assert numbers[1] == len(records.images) == records.images["image"].nunique()
    assert numbers[4] <= len(records.quarantine)
    assert set(records.boxes["image"]) <= set(records.images["image"])
    assert set(records.scores["image"]) <= set(records.images["image"])
    assert list(records.images) == IMAGE_COLUMNS
    assert list(records.boxes) == BOX_COLUMNS
    for kind in records.tally:
        tally(records, kind)
    return numbers


def tally(records: Records, kind: str) -> list[int]:
    """Rows, used, missing, excluded, quarantined of one kind of rows: checked to add up."""
    numbers = [
        records.tally[kind][name] for name in ("rows", "used", "missing", "excluded", "quarantined")
    ]
    assert numbers[0] == sum(numbers[1:]) and min(numbers) >= 0
    return numbers


def quarantined(records: Records) -> list[tuple[str, int, str]]:
    """Name of the file, line, reason of each row in quarantine."""
    rows = records.quarantine[["file", "row", "reason"]].itertuples(index=False)
    return [(Path(file).name, row, reason) for file, row, reason in rows]


def by_image(records: Records, column: str) -> dict:
    return dict(zip(records.images["image"], records.images[column], strict=True))


def boxes_of(records: Records, image: str) -> list[list[float]]:
    return (
        records.boxes.loc[records.boxes["image"] == image, ["x1", "y1", "x2", "y2"]]
        .to_numpy(float)
        .tolist()
    )


def refused(read, *where) -> str:
    with pytest.raises(PnlocError) as error:
        read(*where)
    assert "\n" not in str(error.value)
    return str(error.value)


# RSNA

RSNA_LABELS = "stage_2_train_labels.csv"
NO_CLASSES = "no stage_2_detailed_class_info.csv: which images are normal is not known"


def make_rsna(
    folder: Path,
    rows: Sequence[str],
    images: Sequence[str] = ("a.png", "b.png"),
    side: int = 512,
    nih: str = "",
) -> Path:
    write(folder / RSNA_LABELS, "\n".join(["patientId,x,y,width,height,Target", *rows, ""]))
    (folder / "stage_2_train_images").mkdir()
    for name in images:
        draw(folder / "stage_2_train_images" / name, side, side)
    if nih:
        write(folder / "nih-of-rsna.csv", "patientId,nih_image\n" + nih)
    return folder


def test_rsna_has_one_row_per_box_and_one_image_per_id(tmp_path):
    folder = make_rsna(
        tmp_path, ["a,264,152,213,379,1", "a,562,152,256,453,1", "b,,,,,0"], side=1024
    )
    records = rsna.read(folder)
    assert counts(records) == [2, 2, 0, 0, 0]
    assert by_image(records, "label") == {"a": 1.0, "b": 0.0}
    assert boxes_of(records, "a") == [[264, 152, 477, 531], [562, 152, 818, 605]]
    assert set(records.boxes["label"]) == {"Lung Opacity"}
    assert (records.images[["width", "height"]] == 1024).all(axis=None)
    assert records.name == "rsna" and records.access == "open"


def test_rsna_boxes_are_scaled_from_1024_to_conversions_of_another_size(tmp_path):
    folder = make_rsna(
        tmp_path, ["a,264,152,213,379,1", "b,,,,,0"], images=["a.jpg", "b.png"], side=512
    )
    records = rsna.read(folder)
    assert boxes_of(records, "a") == [[132, 76, 238.5, 265.5]]
    assert by_image(records, "width") == {"a": 512, "b": 512}


def test_rsna_boxes_of_dicom_files_are_in_their_own_pixels(tmp_path):
    folder = make_rsna(tmp_path, ["a,10,20,30,40,1"], images=[])
    draw_dicom(folder / "stage_2_train_images" / "a.dcm", 128)
    records = rsna.read(folder)
    assert counts(records) == [1, 1, 0, 0, 0]
    assert boxes_of(records, "a") == [[10, 20, 40, 60]]


def test_rsna_splits_go_by_nih_patient_not_by_patient_id(tmp_path):
    names = [f"i{n}" for n in range(60)]
    nih = "".join(f"{name},{n % 6 + 1:08d}_{n:03d}.png\n" for n, name in enumerate(names))
    folder = make_rsna(
        tmp_path, [f"{n},,,,,0" for n in names], [f"{n}.png" for n in names], side=8, nih=nih
    )
    records = rsna.read(folder)
    patients = by_image(records, "patient")
    assert patients["i0"] == patients["i6"] == "nih:1"
    assert patients["i5"] == "nih:6"
    assert records.images.groupby("patient")["split"].nunique().tolist() == [1] * 6
    expected = assign_splits(pd.Series([f"nih:{n}" for n in range(1, 7)]), "rsna")
    assert records.images.groupby("patient")["split"].first().tolist() == expected.tolist()
    assert expected.nunique() == 2
    assert records.notes == [NO_CLASSES]


def test_rsna_patients_come_from_the_official_mapping_too(tmp_path):
    folder = make_rsna(tmp_path, ["a,,,,,0", "b,,,,,0"])
    mapping = [
        {"img_id": "00000042_007.png", "subset_img_id": "a", "orig_labels": []},
        {"img_id": "?.png", "subset_img_id": "b"},
    ]
    write(folder / rsna.MAPPING, json.dumps(mapping))
    records = rsna.read(folder)
    assert by_image(records, "patient") == {"a": "nih:42", "b": "rsna:b"}
    assert quarantined(records) == [(rsna.MAPPING, 2, "b: no NIH image or split in '?.png', ''")]


def test_rsna_without_mapping_counts_each_image_as_a_patient_and_says_so(tmp_path):
    records = rsna.read(make_rsna(tmp_path, ["a,,,,,0", "b,,,,,0"]))
    assert by_image(records, "patient") == {"a": "rsna:a", "b": "rsna:b"}
    assert records.notes[1:] == [NO_CLASSES]
    assert records.notes[0].startswith("2 of 2 images have no known NIH patient")
    assert records.notes[0].endswith("cannot be excluded")


def test_rsna_lines_of_the_mapping_that_name_no_image_are_quarantined(tmp_path):
    nih = "a,00000042_007.png\na,00000043_000.png\nb,unknown\n"
    records = rsna.read(make_rsna(tmp_path, ["a,,,,,0", "b,,,,,0"], nih=nih))
    assert by_image(records, "patient") == {"a": "nih:42", "b": "rsna:b"}
    assert quarantined(records) == [
        ("nih-of-rsna.csv", 3, "patientId 'a' stands twice"),
        ("nih-of-rsna.csv", 4, "b: no NIH image or split in 'unknown', ''"),
    ]
    assert records.notes[0].startswith("1 of 2 images")


def test_rsna_splits_that_are_given_are_kept(tmp_path):
    folder = make_rsna(tmp_path, ["a,,,,,0", "b,,,,,0"])
    write(
        folder / "nih-of-rsna.csv",
        "patientId,nih_image,split\na,00000003_000.png,test\nb,00000003_001.png,\n",
    )
    assert by_image(rsna.read(folder), "split") == {
        "a": "test",
        "b": "train",
    }  # by its hash, patient 3 is in train


def test_findings_are_rsnas_class_and_nihs_labels_of_the_same_image(tmp_path, monkeypatch):
    nih = "a,00000001_000.png\nb,00000002_000.png\nc,00000003_000.png\n"
    folder = make_rsna(tmp_path, ["a,,,,,0", "b,,,,,0"], nih=nih)
    classes = [
        "a,Normal",
        "b,Lung Opacity",
        "b,Lung Opacity",
        "c,Sick",
        "d,Normal",
        "d,Lung Opacity",
        ",Normal",
    ]
    write(folder / "stage_2_detailed_class_info.csv", "\n".join(["patientId,class", *classes, ""]))
    table = tmp_path / "mined.csv.gz"
    with gzip.open(table, "wt") as file:
        file.write(
            "Image Index,Finding Labels\n00000001_000.png,No Finding\n00000002_000.png,Effusion|Mass\n"
        )
    monkeypatch.setattr(rsna, "packaged", lambda *_: table)
    found = rsna.findings(folder, ["a", "b", "c", "d", "e"], FINDINGS)
    assert found.shape == (5, len(FINDINGS)) and FINDINGS[0] == "Normal"
    assert found[0].tolist() == [1.0, *[0.0] * 14]
    assert found[1, 0] == 0 and {n for n, v in zip(FINDINGS, found[1], strict=True) if v == 1} == {
        "Effusion",
        "Mass",
    }
    assert np.isnan(found[2:]).all(), (
        "no class that is known, two classes, or no row at all; not in NIH's table"
    )
    assert quarantined(rsna.read(folder)) == [
        ("stage_2_detailed_class_info.csv", 8, "no patientId"),
        ("stage_2_detailed_class_info.csv", 5, "c: no class 'Sick' is known"),
        ("stage_2_detailed_class_info.csv", 6, "patientId 'd' with several classes"),
        ("stage_2_detailed_class_info.csv", 7, "patientId 'd' with several classes"),
    ]


def test_findings_without_their_tables_are_unknown_and_the_set_says_so(tmp_path):
    folder = make_rsna(tmp_path, ["a,,,,,0", "b,,,,,0"])
    assert np.isnan(rsna.findings(folder, ["a", "b"], FINDINGS)).all()
    assert NO_CLASSES in rsna.read(folder).notes


def test_nihs_table_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("pnloc.data.tables.find_spec", lambda _: None)
    with pytest.raises(
        PnlocError, match=r"Data_Entry_2017_v2020.csv.gz is not there; install torchxrayvision"
    ):
        rsna.findings(make_rsna(tmp_path, ["a,,,,,0"]), ["a"], FINDINGS)


def test_rsna_counts_missing_unreadable_and_malformed_images(tmp_path):
    rows = [
        "a,,,,,0",
        "gone,,,,,0",
        "empty,1,1,5,5,1",
        "odd,,,,,2",
        "word,,,,,x",
        "b,1,1,50,50,1",
        ",1,1,5,5,1",
    ]
    folder = make_rsna(tmp_path, rows, images=["a.png", "b.png", "odd.png", "word.png"])
    write(folder / "stage_2_train_images" / "empty.png", "")
    records = rsna.read(folder)
    assert counts(records) == [7, 2, 1, 0, 4]
    assert tally(records, "boxes") == [3, 1, 0, 0, 2]
    assert quarantined(records) == [
        (RSNA_LABELS, 8, "no patientId"),
        (RSNA_LABELS, 5, "patientId 'odd' with a Target that is not 0 or 1"),
        (RSNA_LABELS, 6, "patientId 'word' with a Target that is not 0 or 1"),
        ("empty.png", 0, "not an image (PNG, JPEG or DICOM)"),
        (RSNA_LABELS, 8, "a box of no image"),
        (RSNA_LABELS, 4, "box of empty: its image is in quarantine"),
    ]


def test_rsna_an_image_with_target_0_and_1_or_with_a_box_and_target_0_is_quarantined(tmp_path):
    rows = ["a,1,1,50,50,1", "a,,,,,0", "b,1,1,50,50,0", "c,1,1,50,50,1"]
    records = rsna.read(make_rsna(tmp_path, rows, images=["a.png", "b.png", "c.png"]))
    assert counts(records) == [4, 1, 0, 0, 3]  # the row with Target 0 counts on its own
    assert tally(records, "boxes") == [3, 1, 0, 0, 2]
    assert records.boxes["image"].tolist() == ["c"]
    assert quarantined(records)[:2] == [
        (RSNA_LABELS, 3, "patientId 'a' stands twice"),
        (RSNA_LABELS, 2, "patientId 'a' with Target 0 and 1"),
    ]
    assert (RSNA_LABELS, 4, "box of b: its Target is not 1") in quarantined(records)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ("left,100,50,50", "coordinates are not numbers"),
        ("inf,100,50,50", "coordinates are not numbers"),
        (",100,50,50", "coordinates are not numbers"),
        (",,,", "coordinates are not numbers"),
        ("100,100,0,50", "no area"),
        ("100,100,50,-5", "no area"),
        ("2000,100,50,50", "outside of its image"),
        ("-100,100,50,50", "outside of its image"),
        ("-20,100,50,50", "reaches out of its image"),
        ("100,1000,50,50", "reaches out of its image"),
    ],
)
def test_rsna_a_malformed_box_is_quarantined_and_so_is_its_image_which_would_else_look_healthy(
    tmp_path, box, reason
):
    folder = make_rsna(tmp_path, ["a,100,100,50,50,1", f"a,{box},1", "b,,,,,0"], side=1024)
    records = rsna.read(folder)
    assert counts(records) == [2, 1, 0, 0, 1]
    assert tally(records, "boxes") == [2, 0, 0, 0, 2]
    assert quarantined(records) == [
        (RSNA_LABELS, 3, f"box of a: {reason}"),
        (RSNA_LABELS, 2, "image a: a box of it cannot be used"),
        (RSNA_LABELS, 2, "box of a: its image is in quarantine"),
    ]


def test_rsna_a_doubled_box_is_quarantined_and_its_image_stays(tmp_path):
    records = rsna.read(
        make_rsna(tmp_path, ["a,1,1,50,50,1", "a,1,1,50,50,1", "a,9,9,50,50,1", "b,,,,,0"])
    )
    assert counts(records) == [2, 2, 0, 0, 0]
    assert tally(records, "boxes") == [3, 2, 0, 0, 1]
    assert quarantined(records) == [(RSNA_LABELS, 3, "box of a: stands twice")]


def test_rsna_a_box_that_just_reaches_out_is_clipped(tmp_path):
    records = rsna.read(make_rsna(tmp_path, ["a,-5,1000,100,30,1"], side=1024))
    assert boxes_of(records, "a") == [[0, 1000, 95, 1024]]
    assert len(records.quarantine) == 0


def test_rsna_what_is_not_there_is_named(tmp_path):
    assert refused(rsna.read, tmp_path / "nowhere").startswith(
        f"{tmp_path / 'nowhere'}: no such folder; get the RSNA"
    )
    assert RSNA_LABELS in refused(rsna.read, tmp_path)
    write(tmp_path / RSNA_LABELS, "patientId,x,y,width,height\na,,,,\n")
    text = refused(rsna.read, tmp_path)
    assert text.startswith(f"{tmp_path / RSNA_LABELS}: lacks the column(s) Target")
    write(tmp_path / RSNA_LABELS, "patientId,x,y,width,height,Target\na,,,,,0\n")
    assert "stage_2_train_images" in refused(rsna.read, tmp_path)
    (tmp_path / "stage_2_train_images").mkdir()
    write(tmp_path / rsna.MAPPING, "[1, 2")
    assert refused(rsna.read, tmp_path).startswith(
        f"{tmp_path / rsna.MAPPING}: not readable as JSON"
    )
    write(tmp_path / rsna.MAPPING, '[{"img_id": "00000001_000.png"}]')
    assert refused(rsna.read, tmp_path).startswith(
        f"{tmp_path / rsna.MAPPING}: not the official mapping"
    )


def test_a_generated_tree_is_known_by_its_rates(tmp_path):
    folder = tmp_path / "rsna-pneumonia-detection-challenge"
    folder.mkdir()
    write(tmp_path / "rates.json", "{}")
    assert rsna.read(make_rsna(folder, ["a,,,,,0"])).access == "generated"


# ChestX-ray8

NIH_ENTRIES = "Data_Entry_2017_v2020.csv"
NIH_BOXES = "BBox_List_2017.csv"
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def entry(name: str, labels: str, patient: object, age: object = 50) -> str:
    return f"{name},{labels},0,{patient},{age},F,PA,2500,2048,0.168,0.168"


def make_nih(
    folder: Path,
    entries: Sequence[str],
    boxes: Sequence[str] = (),
    images: Sequence[str] = ("00000001_000.png", "00000001_001.png", "00000002_000.png"),
    side: int = 1024,
    header: str = NIH_HEADER,
) -> Path:
    write(folder / NIH_ENTRIES, "\n".join([header, *entries, ""]))
    write(
        folder / NIH_BOXES, "\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *boxes, ""])
    )
    (folder / "images").mkdir()
    for name in images:
        draw(folder / "images" / name, side, side)
    return folder


THREE = [
    entry("00000001_000.png", "Infiltration|Pneumonia", 1),
    entry("00000001_001.png", "No Finding", 1),
    entry("00000002_000.png", "Infiltration", 2),
]


def test_nih_boxes_under_the_header_that_falls_apart_at_its_commas(tmp_path):
    boxes = [
        "00000001_000.png,Pneumonia,200.5,100.25,300.0,400.5",
        "00000002_000.png,Infiltrate,10,20,30,40",
    ]
    records = chestxray8.read(make_nih(tmp_path, THREE, boxes))
    assert counts(records) == [3, 3, 0, 0, 0]
    assert boxes_of(records, "00000001_000.png") == [[200.5, 100.25, 500.5, 500.75]]
    assert boxes_of(records, "00000002_000.png") == [[10, 20, 40, 60]]
    assert records.notes == []


def test_nih_infiltrate_is_a_box_label_and_neither_it_nor_infiltration_is_pneumonia(tmp_path):
    records = chestxray8.read(
        make_nih(tmp_path, THREE, ["00000002_000.png,Infiltrate,10,20,30,40"])
    )
    assert records.boxes["label"].tolist() == ["Infiltrate"]
    assert by_image(records, "label") == {
        "00000001_000.png": 1.0,
        "00000001_001.png": 0.0,
        "00000002_000.png": 0.0,
    }


def test_nih_columns_after_the_split_header_are_read_by_name(tmp_path):
    records = chestxray8.read(make_nih(tmp_path, THREE))
    assert by_image(records, "patient")["00000001_001.png"] == "nih:1"
    assert set(records.images["age"]) == {50.0}
    assert set(records.images["view"]) == {"PA"}
    assert set(records.images["sex"]) == {"F"}


def test_nih_sex_and_the_older_table_are_read_under_their_other_names(tmp_path):
    folder = make_nih(tmp_path, THREE, header=NIH_HEADER.replace("Gender", "Sex"))
    (folder / NIH_ENTRIES).rename(folder / "Data_Entry_2017.csv")
    records = chestxray8.read(folder)
    assert counts(records) == [3, 3, 0, 0, 0]
    assert set(records.images["sex"]) == {"F"}


def test_nih_boxes_are_scaled_from_1024_when_the_files_are_of_another_size(tmp_path):
    folder = make_nih(tmp_path, THREE, ["00000001_000.png,Pneumonia,200.5,100,300,400"], side=256)
    assert boxes_of(chestxray8.read(folder), "00000001_000.png") == [[50.125, 25, 125.125, 125]]


def test_nih_images_lie_in_numbered_folders_too(tmp_path):
    folder = make_nih(tmp_path, THREE, images=[])
    (folder / "images").rmdir()
    draw(folder / "images_001" / "images" / "00000001_000.png")
    draw(folder / "images_012" / "images" / "00000002_000.png")
    records = chestxray8.read(folder)
    assert counts(records) == [3, 2, 1, 0, 0]
    assert (
        Path(by_image(records, "path")["00000002_000.png"])
        == folder / "images_012/images/00000002_000.png"
    )


def test_nih_pngs_that_are_rgba_are_used_like_the_others(tmp_path):
    folder = make_nih(tmp_path, THREE, images=["00000001_001.png", "00000002_000.png"])
    draw(folder / "images" / "00000001_000.png", 32, 32, "RGBA")
    records = chestxray8.read(folder)
    assert counts(records) == [3, 3, 0, 0, 0]
    assert (load(by_image(records, "path")["00000001_000.png"], 16)[0] == 100).all()


def test_nih_rows_are_missing_doubled_malformed_or_unreadable_and_counted_as_such(tmp_path):
    entries = [
        entry("gone.png", "Pneumonia", 7),
        entry("00000001_000.png", "Pneumonia", 1, age="old"),
        entry("00000001_000.png", "Pneumonia", 1),
        entry("00000002_000.png", "Pneumonia", "two"),
        entry("", "Pneumonia", 3),
        entry("empty.png", "Pneumonia", 4),
    ]
    folder = make_nih(tmp_path, entries)
    write(folder / "images" / "empty.png", "")
    records = chestxray8.read(folder)
    assert counts(records) == [6, 1, 1, 0, 4]
    assert quarantined(records) == [
        (NIH_ENTRIES, 6, "no Image Index"),
        (NIH_ENTRIES, 4, "Image Index '00000001_000.png' stands twice"),
        (NIH_ENTRIES, 5, "00000002_000.png: Patient ID is not a number"),
        ("empty.png", 0, "not an image (PNG, JPEG or DICOM)"),
    ]
    assert np.isnan(records.images["age"]).tolist() == [True]


def test_nih_malformed_boxes_are_quarantined_and_boxes_of_absent_images_noted(tmp_path):
    boxes = [
        "elsewhere.png,Pneumonia,1,2,3,4",
        "00000001_000.png,Pneumonia,1,y,3,4",
        "00000001_000.png,Pneumonia,1,2,0,4",
        "00000001_000.png,Pneumonia,1030,2,3,4",
        "00000001_000.png,Pneumonia,1000,2,30,4",
        "00000001_000.png,Pneumonia,1000,2,30,4",
        "00000001_000.png,Mass,1000,2,30,4",
        "00000001_000.png,Mass,900,2,200,4",
        ",Mass,900,2,20,4",
    ]
    records = chestxray8.read(make_nih(tmp_path, THREE, boxes))
    assert boxes_of(records, "00000001_000.png") == [[1000, 2, 1024, 6]] * 2
    assert records.boxes["label"].tolist() == ["Pneumonia", "Mass"]
    assert quarantined(records) == [
        (NIH_BOXES, 10, "a box of no image"),
        (NIH_BOXES, 3, "box of 00000001_000.png: coordinates are not numbers"),
        (NIH_BOXES, 4, "box of 00000001_000.png: no area"),
        (NIH_BOXES, 5, "box of 00000001_000.png: outside of its image"),
        (NIH_BOXES, 9, "box of 00000001_000.png: reaches out of its image"),
        (NIH_BOXES, 7, "box of 00000001_000.png: stands twice"),
    ]
    assert tally(records, "boxes") == [9, 2, 1, 0, 6]
    assert records.notes == ["1 boxes belong to images that are not in this folder"]
    assert counts(records) == [3, 3, 0, 0, 0]


def test_nih_whoever_has_a_boxed_image_is_a_test_patient(tmp_path):
    names = [f"{n:08d}_{k:03d}.png" for n in range(1, 21) for k in range(2)]
    entries = [entry(name, "No Finding", int(name[:8])) for name in names]
    boxes = [f"{n:08d}_000.png,Mass,1,1,5,5" for n in (3, 5, 6, 7)]
    records = chestxray8.read(make_nih(tmp_path, entries, boxes, names, side=8))
    hashed = assign_splits(records.images["patient"], "chestxray8")
    boxed = records.images["patient"].isin([f"nih:{n}" for n in (3, 5, 6, 7)])
    assert boxed.sum() == 8
    assert set(hashed[boxed]) != {"test"}  # else this would show nothing
    assert (records.images.loc[boxed, "split"] == "test").all()
    assert (records.images.loc[~boxed, "split"] == hashed[~boxed]).all()


def test_nih_the_official_list_makes_test_patients(tmp_path):
    names = [f"{n:08d}_000.png" for n in range(1, 31)]
    entries = [entry(name, "No Finding", int(name[:8])) for name in names]
    folder = make_nih(tmp_path, entries, ["00000009_000.png,Mass,1,1,5,5"], names, side=8)
    write(folder / "test_list.txt", "00000004_000.png\n00000011_000.png\n")
    records = chestxray8.read(folder)
    assert records.split("test")["patient"].tolist() == ["nih:4", "nih:9", "nih:11"]
    assert set(records.images["split"]) == {"train", "validate", "test"}


def test_nih_what_is_not_there_is_named(tmp_path):
    assert refused(chestxray8.read, tmp_path / "nowhere").startswith(
        f"{tmp_path / 'nowhere'}: no such folder; get Chest"
    )
    assert NIH_ENTRIES in refused(chestxray8.read, tmp_path)
    write(tmp_path / NIH_ENTRIES, "Image Index,Patient ID\n")
    text = refused(chestxray8.read, tmp_path)
    assert text.startswith(
        f"{tmp_path / NIH_ENTRIES}: lacks the column(s) Finding Labels; it has Image Index, Patient ID"
    )
    write(tmp_path / NIH_ENTRIES, "\n".join([NIH_HEADER, *THREE]))
    assert "holds no images" in refused(chestxray8.read, tmp_path)
    (tmp_path / "images").mkdir()
    assert NIH_BOXES in refused(chestxray8.read, tmp_path)
    write(tmp_path / NIH_BOXES, "Image Index,Finding Label,x,y,w,h\n")
    assert refused(chestxray8.read, tmp_path).startswith(
        f"{tmp_path / NIH_BOXES}: lacks the column(s) Bbox [x, h]"
    )


# COVID-19

COVID_HEADER = "patientid,offset,sex,age,finding,view,modality,date,location,folder,filename,doi,url,license,clinical_notes,other_notes,"
COVID_OLD = "Patientid,offset,sex,age,finding,view,modality,date,location,folder,filename,doi, url,license,clinical notes,other notes"
SEVERITY = "annotations/covid-severity-scores.csv"
COMMENTS = "".join(f"## Comment {n}, with a comma\n" for n in range(5))
BRIXIA_HEADER = "filename,S-A,S-B,S-C,S-D,S-E,S-F,S-Global,J-A,J-B,J-C,J-D,J-E,J-F,J-Global"


def study(
    filename: str,
    patient: object = 1,
    finding: str = "Pneumonia/Viral/COVID-19",
    view: str = "PA",
    modality: str = "X-ray",
    notes: str = "Left basilar opacity.",
) -> str:
    return f"{patient},0,M,65,{finding},{view},{modality},2020,Somewhere,images,{filename},,http://x,CC BY,{notes},,"


def make_covid(
    folder: Path,
    rows: Sequence[str],
    images: Sequence[str] = ("a.png", "b.jpg", "c.jpeg"),
    header: str = COVID_HEADER,
) -> Path:
    write(folder / "metadata.csv", "\n".join([header, *rows, ""]))
    (folder / "images").mkdir()
    for name in images:
        draw(folder / "images" / name, 40, 30)
    return folder


def make_brixia(folder: Path, rows: Sequence[str]) -> Path:
    write(folder / "public-annotations.csv", "\r\n".join([BRIXIA_HEADER, *rows, ""]), "utf-8-sig")
    return folder


def test_covid_is_read_with_its_trailing_column(tmp_path):
    rows = [
        study("a.png", 1),
        study("b.jpg", "2", "No Finding", "AP", notes=""),
        study("c.jpeg", 2, "todo"),
    ]
    records = covid19.read(make_covid(tmp_path, rows))
    assert counts(records) == [3, 3, 0, 0, 0]
    assert by_image(records, "patient") == {
        "a.png": "covid:1",
        "b.jpg": "covid:2",
        "c.jpeg": "covid:2",
    }
    assert by_image(records, "study") == {"a.png": "a.png", "b.jpg": "", "c.jpeg": "c.jpeg"}
    assert records.reports.to_numpy().tolist() == [
        ["a.png", "Left basilar opacity."],
        ["c.jpeg", "Left basilar opacity."],
    ]
    labels = by_image(records, "label")
    assert [labels["a.png"], labels["b.jpg"]] == [1, 0] and np.isnan(labels["c.jpeg"])
    assert set(records.images["sex"]) == {"M"} and set(records.images["age"]) == {65.0}
    assert (records.images[["width", "height"]] == [40, 30]).all(axis=None)
    assert len(records.boxes) == 0


def test_covid_older_column_names_give_the_same(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    rows = [study("a.png", 1), study("b.jpg", 2, notes="")]
    new = covid19.read(make_covid(tmp_path / "new", rows))
    old = covid19.read(
        make_covid(tmp_path / "old", [row.removesuffix(",") for row in rows], header=COVID_OLD)
    )
    assert counts(old) == [2, 2, 0, 0, 0]
    assert old.reports.to_numpy().tolist() == [["a.png", "Left basilar opacity."]]
    assert old.images.drop(columns="path").equals(new.images.drop(columns="path"))


def test_covid_ap_supine_is_frontal_and_ct_and_lateral_views_are_excluded(tmp_path):
    rows = [
        study("a.png", view="AP Supine"),
        study("b.jpg", view="L"),
        study("c.jpeg", view="Axial", modality="CT"),
        study("d.png", view="PA", modality="CT"),
        study("e.png", view=""),
        study("f.png", view="AP"),
    ]
    folder = make_covid(tmp_path, rows, ["a.png", "b.jpg", "c.jpeg", "d.png", "e.png", "f.png"])
    records = covid19.read(folder)
    assert counts(records) == [6, 2, 0, 4, 0]
    assert by_image(records, "view") == {"a.png": "AP Supine", "f.png": "AP"}


def test_covid_rows_are_missing_doubled_or_unreadable_and_counted_as_such(tmp_path):
    rows = [
        study("a.png"),
        study("gone.png"),
        study("a.png", 2),
        study("empty.png"),
        study(""),
        study("ct.gz", view="Axial"),
    ]
    folder = make_covid(tmp_path, rows)
    write(folder / "images" / "empty.png", "")
    records = covid19.read(folder)
    assert counts(records) == [6, 1, 1, 1, 3]
    assert quarantined(records) == [
        ("metadata.csv", 6, "no filename"),
        ("metadata.csv", 4, "filename 'a.png' stands twice"),
        ("empty.png", 0, "not an image (PNG, JPEG or DICOM)"),
    ]
    assert by_image(records, "patient") == {"a.png": "covid:1"}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_covid_images_of_any_mode_are_read(tmp_path, mode):
    folder = make_covid(tmp_path, [study("a.png")], images=[])
    Image.new(mode, (40, 30), 100 if mode == "L" else (100, 100, 100, 255)[: len(mode)]).save(
        folder / "images" / "a.png"
    )
    records = covid19.read(folder)
    square, letterbox = load(by_image(records, "path")["a.png"], 40)
    assert (letterbox.width, letterbox.height) == (40, 30)
    assert (square[5:35] == 100).all()


def test_covid_bytes_that_are_not_utf8_do_not_stop_the_reader(tmp_path):
    folder = make_covid(tmp_path, [])
    write(
        folder / "metadata.csv",
        f"{COVID_HEADER}\n{study('a.png', notes='Röntgen: opacity')}\n",
        "latin-1",
    )
    records = covid19.read(folder)
    assert counts(records) == [1, 1, 0, 0, 0]
    assert records.reports["text"].tolist() == ["R\ufffdntgen: opacity"]


def test_covid_severity_scores_stand_below_their_comment_lines(tmp_path):
    folder = make_covid(tmp_path, [study("a.png"), study("b.jpg")])
    write(
        folder / SEVERITY,
        COMMENTS + "filename,geographic_mean,opacity_mean\na.png,3.6667,2\nelsewhere.png,1,1\n",
    )
    records = covid19.read(folder)
    assert records.scores.to_numpy().tolist() == [["a.png", 3.6667, 2.0]]
    assert list(records.scores) == ["image", "geographic_extent", "opacity"]
    assert records.notes == ["1 image files are named by no row of metadata.csv"]
    assert tally(records, "severity scores") == [2, 1, 1, 0, 0]


def test_brixia_scores_are_read_past_the_byte_order_mark(tmp_path):
    folder = tmp_path / "covid-chestxray-dataset"
    make_covid(folder, [study("a.png"), study("b.jpg")])
    make_brixia(tmp_path / "brixia-cohen", ["a.png,3,2,1,0,1,2,9,0,1,0,1,3,0,5"])
    records = covid19.read(folder)
    zones = [f"{reader}_{zone}" for reader in ("brixia", "brixia_junior") for zone in "ABCDEF"]
    assert list(records.scores) == ["image", "brixia", "brixia_junior", *zones]
    assert records.scores.to_numpy().tolist() == [
        ["a.png", 9, 5, 3, 2, 1, 0, 1, 2, 0, 1, 0, 1, 3, 0]
    ]
    assert tally(records, "brixia scores") == [1, 1, 0, 0, 0]


def test_brixia_a_global_score_that_is_not_the_sum_of_its_zones_is_noted(tmp_path):
    folder = make_covid(tmp_path / "set", [study("a.png")], ["a.png"])
    brixia = make_brixia(tmp_path / "b", ["a.png,3,2,1,0,1,2,8,0,0,0,0,0,0,0"])
    assert covid19.read(folder, brixia).notes == [
        "1 global scores of brixia are not the sum of their zones"
    ]


def test_the_opacity_of_a_file_that_says_0_to_8_as_ralo_has_it_is_scaled_to_0_to_6(tmp_path):
    folder = make_covid(tmp_path, [study("a.png"), study("b.jpg")])
    comments = COMMENTS + "## opacity_mean: The degree of opacity. The total ranged from 0 to 8.\n"
    write(
        folder / SEVERITY,
        comments + "filename,geographic_mean,opacity_mean\na.png,3,8\nb.jpg,3,9\n",
    )
    records = covid19.read(folder)
    assert records.scores.to_numpy().tolist() == [["a.png", 3.0, 6.0]]
    assert quarantined(records) == [
        ("covid-severity-scores.csv", 9, "b.jpg: a score is not a number in its range")
    ]
    assert "opacity is given from 0 to 8 and scaled to 0 to 6" in records.notes


def test_covid_patients_who_share_an_image_file_are_one_person(tmp_path):
    rows = [study("a.png", 1), study("b.jpg", 2), study("a.png", 2), study("c.jpeg", 3)]
    folder = make_covid(tmp_path, rows)
    write(folder / SEVERITY, COMMENTS + "filename,geographic_mean,opacity_mean\na.png,3,2\n")
    records = covid19.read(folder)
    assert by_image(records, "patient") == {
        "a.png": "covid:1",
        "b.jpg": "covid:1",
        "c.jpeg": "covid:3",
    }
    assert by_image(records, "split")["b.jpg"] == "test"
    assert records.notes == [
        "1 patients share an image file with another and count as the same: 2 = 1"
    ]


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        ("65", 65),
        ("065Y", 65),
        ("006M", 0.5),
        ("365D", 1),
        ("414", None),
        ("old", None),
        ("", None),
    ],
)
def test_ages_are_years_whatever_their_unit_and_unknown_where_nobody_is_that_old(
    tmp_path, age, expected
):
    folder = make_nih(tmp_path, [entry("00000001_000.png", "Mass", 1, age)])
    (found,) = chestxray8.read(folder).images["age"]
    assert found == pytest.approx(np.nan if expected is None else expected, abs=0.01, nan_ok=True)


def test_severity_and_brixia_join_on_the_image(tmp_path):
    rows = [study(name, patient) for patient, name in enumerate(["a.png", "b.jpg", "c.jpeg"])]
    folder = make_covid(tmp_path / "set", rows)
    write(
        folder / SEVERITY,
        COMMENTS + "filename,geographic_mean,opacity_mean\na.png,8,6\nb.jpg,0,0\n",
    )
    brixia = make_brixia(
        tmp_path / "other",
        ["c.jpeg,0,0,0,0,0,1,1,0,0,0,0,0,0,0", "b.jpg,3,3,3,3,3,3,18,0,0,0,0,0,0,0"],
    )
    scores = covid19.read(folder, brixia).scores.set_index("image")[
        ["geographic_extent", "opacity", "brixia"]
    ]
    assert scores.index.tolist() == ["a.png", "b.jpg", "c.jpeg"]
    assert scores.fillna(-1).to_numpy().tolist() == [[8, 6, -1], [0, 0, 18], [-1, -1, 1]]


def test_scores_that_are_out_of_range_or_doubled_are_quarantined_with_their_line(tmp_path):
    folder = make_covid(tmp_path / "set", [study("a.png"), study("b.jpg"), study("c.jpeg")])
    severity = ["a.png,8.1,3", "b.jpg,4,high", "c.jpeg,4,3", "c.jpeg,5,3", ",1,1"]
    write(
        folder / SEVERITY,
        COMMENTS + "\n".join(["filename,geographic_mean,opacity_mean", *severity, ""]),
    )
    brixia = make_brixia(
        tmp_path / "b", ["a.png,4,0,0,0,0,0,4,0,0,0,0,0,0,0", "b.jpg,1,0,0,0,0,0,-1,0,0,0,0,0,0,0"]
    )
    records = covid19.read(folder, brixia)
    assert tally(records, "severity scores") == [5, 1, 0, 0, 4]
    assert tally(records, "brixia scores") == [2, 0, 0, 0, 2]
    assert records.scores[["image", "geographic_extent", "opacity"]].to_numpy().tolist() == [
        ["c.jpeg", 4, 3]
    ]
    assert sorted(quarantined(records)) == [
        ("covid-severity-scores.csv", 7, "a.png: a score is not a number in its range"),
        ("covid-severity-scores.csv", 8, "b.jpg: a score is not a number in its range"),
        ("covid-severity-scores.csv", 10, "image 'c.jpeg' stands twice"),
        ("covid-severity-scores.csv", 11, "no image"),
        ("public-annotations.csv", 2, "a.png: a score is not a number in its range"),
        ("public-annotations.csv", 3, "b.jpg: a score is not a number in its range"),
    ]
    assert counts(records) == [3, 3, 0, 0, 0]


def test_covid_patients_with_a_score_are_test_patients_with_all_their_images(tmp_path):
    names = [f"i{n}.png" for n in range(40)]
    folder = make_covid(
        tmp_path / "set", [study(name, n // 2) for n, name in enumerate(names)], names
    )
    write(folder / SEVERITY, COMMENTS + "filename,geographic_mean,opacity_mean\ni0.png,3,2\n")
    records = covid19.read(
        folder, make_brixia(tmp_path / "b", ["i7.png,0,0,0,0,0,0,0,0,0,0,0,0,0,0"])
    )
    assert records.split("test")["image"].tolist() == ["i0.png", "i1.png", "i6.png", "i7.png"]
    assert set(records.images["split"]) == {"train", "validate", "test"}
    assert records.images.groupby("patient")["split"].nunique().max() == 1


def test_covid_what_is_not_there_is_named(tmp_path):
    assert refused(covid19.read, tmp_path / "nowhere").startswith(
        f"{tmp_path / 'nowhere'}: no such folder; get the COVID"
    )
    assert "metadata.csv" in refused(covid19.read, tmp_path)
    write(tmp_path / "metadata.csv", "patientid,finding,view,filename\n")
    text = refused(covid19.read, tmp_path)
    assert text.startswith(
        f"{tmp_path / 'metadata.csv'}: lacks the column(s) modality; it has patientid"
    )
    write(tmp_path / "metadata.csv", f"{COVID_HEADER}\n{study('a.png')}\n")
    assert "holds no images" in refused(covid19.read, tmp_path)
    draw(tmp_path / "images" / "a.png")
    write(tmp_path / SEVERITY, COMMENTS + "filename,opacity_mean\n")
    assert refused(covid19.read, tmp_path).startswith(
        f"{tmp_path / SEVERITY}: lacks the column(s) geographic_mean"
    )
    (tmp_path / SEVERITY).unlink()
    write(tmp_path / "b" / "public-annotations.csv", "filename,S-A\n")
    assert "public-annotations.csv: lacks the column(s) S-Global" in refused(
        covid19.read, tmp_path, tmp_path / "b"
    )


# MIMIC-CXR

MIMIC_METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
MS_CXR_HEADER = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height"
MIMIC_ROWS = (
    ("d1", 10000001, 50000001, "AP"),
    ("d2", 10000001, 50000001, "LATERAL"),
    ("d3", 10000002, 50000002, "PA"),
)


def photograph(
    dicom: str, subject: int, study: int, view: str, rows: object = 300, columns: object = 200
) -> str:
    return f"{dicom},{subject},{study},CHEST,{view},{rows},{columns},21500101,120000.0,CHEST,view,Erect"


def place(root: Path, subject: int, study: int) -> Path:
    return root / "files" / f"p{subject}"[:3] / f"p{subject}" / f"s{study}"


def make_mimic(
    root: Path,
    metadata: Sequence[str] = tuple(photograph(*row) for row in MIMIC_ROWS),
    splits: Sequence[str] = (
        "d1,50000001,10000001,train",
        "d2,50000001,10000001,train",
        "d3,50000002,10000002,test",
    ),
    chexpert: Sequence[str] = ("10000001,50000001,,,1.0,", "10000002,50000002,1.0,,,"),
    absent: Sequence[str] = (),
) -> Path:
    """MIMIC-CXR-JPG in `mimic-cxr-jpg`, with reports beside it; the images of `absent` are left out."""
    folder = root / "mimic-cxr-jpg"
    tables = {
        "metadata": (MIMIC_METADATA, metadata),
        "split": ("dicom_id,study_id,subject_id,split", splits),
        "chexpert": (
            "subject_id,study_id,No Finding,Consolidation,Lung Opacity,Pneumonia",
            chexpert,
        ),
    }
    for name, (header, rows) in tables.items():
        write(folder / f"mimic-cxr-2.0.0-{name}.csv.gz", "\n".join([header, *rows, ""]))
    for row in metadata:
        dicom, subject, number = row.split(",")[:3]
        if dicom not in absent:
            draw(place(folder, int(subject), int(number)) / f"{dicom}.jpg", 20, 30)
        text = f"FINDINGS: Opacity of {number}.\n\nIMPRESSION: ___\n"
        write(place(root / "mimic-cxr", int(subject), int(number)).with_suffix(".txt"), text)
    return folder


def make_ms_cxr(
    root: Path, rows: Sequence[str], version: str = "v1.1.0", header: str = MS_CXR_HEADER
) -> None:
    write(root / "ms-cxr" / f"MS_CXR_Local_Alignment_{version}.csv", "\n".join([header, *rows, ""]))


def test_mimic_joins_metadata_labels_splits_and_reports(tmp_path):
    records = mimic_cxr.read(make_mimic(tmp_path))
    assert counts(records) == [3, 2, 0, 1, 0]
    assert by_image(records, "patient") == {"d1": "mimic:10000001", "d3": "mimic:10000002"}
    assert by_image(records, "view") == {"d1": "AP", "d3": "PA"}
    assert by_image(records, "split") == {"d1": "train", "d3": "test"}
    assert by_image(records, "label") == {"d1": 1.0, "d3": 0.0}
    assert by_image(records, "study") == {"d1": "s50000001", "d3": "s50000002"}
    assert (records.images[["width", "height"]] == [200, 300]).all(
        axis=None
    )  # of the metadata: columns, rows
    assert (
        Path(by_image(records, "path")["d3"])
        == tmp_path / "mimic-cxr-jpg/files/p10/p10000002/s50000002/d3.jpg"
    )
    assert (
        dict(records.reports.to_numpy().tolist())["s50000001"]
        == "FINDINGS: Opacity of 50000001.\n\nIMPRESSION: ___\n"
    )
    assert records.access == "credentialed"
    assert len(records.notes) == 1 and records.notes[0].startswith(
        "no boxes: ms-cxr/ holds none of"
    )


def test_mimic_tables_may_be_unzipped(tmp_path):
    folder = make_mimic(tmp_path)
    for path in folder.glob("*.csv.gz"):
        write(path.with_suffix(""), gzip.decompress(path.read_bytes()).decode())
        path.unlink()
    assert counts(mimic_cxr.read(folder)) == [3, 2, 0, 1, 0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("1.0,,,", 0),  # no finding
        (",1.0,,", 1),
        (",,1.0,", 1),
        (",,,1.0", 1),
        (",0.0,1.0,-1.0", 1),
        (",0.0,0.0,0.0", 0),
        (",,,-1.0", np.nan),
        (",,,0.0", np.nan),  # no pneumonia, of the others nothing is said
        (",,,", np.nan),
    ],
)
def test_mimic_labels_have_three_values(tmp_path, row, expected):
    folder = make_mimic(tmp_path, chexpert=[f"10000001,50000001,{row}"])
    labels = by_image(mimic_cxr.read(folder), "label")
    assert labels["d1"] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(labels["d3"])  # its study has no row


def test_mimic_splits_are_validate_too_and_a_doubled_row_adds_no_image(tmp_path):
    splits = [
        "d1,50000001,10000001,validate",
        "d3,50000002,10000002,test",
        "d1,50000001,10000001,train",
    ]
    records = mimic_cxr.read(make_mimic(tmp_path, splits=splits))
    assert counts(records) == [3, 2, 0, 1, 0]
    assert by_image(records, "split") == {"d1": "validate", "d3": "test"}
    assert quarantined(records) == [
        ("mimic-cxr-2.0.0-split.csv.gz", 4, "dicom_id 'd1' stands twice")
    ]


def test_mimic_rows_are_missing_doubled_or_malformed_and_counted_as_such(tmp_path):
    metadata = [
        photograph("d1", 10000001, 50000001, "AP"),
        photograph("gone", 10000001, 50000001, "AP"),
        photograph("d1", 10000001, 50000001, "AP"),
        photograph("d4", 10000004, 50000004, "AP", rows=0),
        photograph("d5", 10000005, 50000005, "PA", columns="wide"),
        photograph("d6", 10000006, 50000006, "LL"),
        photograph("d7", 10000007, 50000007, ""),
    ]
    records = mimic_cxr.read(make_mimic(tmp_path, metadata, absent=["gone"]))
    assert counts(records) == [7, 1, 1, 2, 3]
    name = "mimic-cxr-2.0.0-metadata.csv.gz"
    assert quarantined(records) == [
        (name, 4, "dicom_id 'd1' stands twice"),
        (name, 5, "d4: Rows or Columns is not a positive number"),
        (name, 6, "d5: Rows or Columns is not a positive number"),
    ]


def test_mimic_reports_lie_beside_the_set_or_in_it_or_where_one_says(tmp_path):
    folder = make_mimic(tmp_path)
    (tmp_path / "mimic-cxr").rename(tmp_path / "texts")
    none = mimic_cxr.read(folder)
    assert len(none.reports) == 0
    assert set(none.images["study"]) == {""}
    assert none.notes[-1].startswith("2 studies have no report file")
    assert len(mimic_cxr.read(folder, reports=tmp_path / "texts").reports) == 2
    write(place(folder, 10000001, 50000001).with_suffix(".txt"), "Opacity.")
    assert mimic_cxr.read(folder).reports.to_numpy().tolist() == [["s50000001", "Opacity."]]


def test_mimic_reports_are_kept_whole_and_their_empty_sections_vanish_when_read(tmp_path):
    folder = make_mimic(tmp_path)
    text = "ADDENDUM: None.\n______________________________\nFINDINGS:\n\nIMPRESSION: Pneumonia of ___.\n"
    write(place(tmp_path / "mimic-cxr", 10000001, 50000001).with_suffix(".txt"), text)
    write(place(tmp_path / "mimic-cxr", 10000002, 50000002).with_suffix(".txt"), "")
    texts = dict(mimic_cxr.read(folder).reports.to_numpy().tolist())
    assert texts == {"s50000001": text, "s50000002": ""}
    assert set(sections(text)) == {"ADDENDUM", "IMPRESSION"}
    assert sections(texts["s50000002"]) == {}


def test_mimic_reports_that_are_not_utf8_are_quarantined_and_the_image_stays(tmp_path):
    folder = make_mimic(tmp_path)
    write(
        place(tmp_path / "mimic-cxr", 10000001, 50000001).with_suffix(".txt"), "Röntgen", "latin-1"
    )
    records = mimic_cxr.read(folder)
    assert counts(records) == [3, 2, 0, 1, 0]
    assert by_image(records, "study") == {"d1": "", "d3": "s50000002"}
    (row,) = quarantined(records)
    assert row[:2] == ("s50000001.txt", 0) and row[2].startswith("report not readable")


@pytest.mark.parametrize("version", ["v1.0.0", "v1.1.0"])
def test_ms_cxr_has_one_row_per_box(tmp_path, version):
    folder = make_mimic(tmp_path)
    where = "files/p10/p10000001/s50000001/d1.jpg"
    rows = [
        f"d1,Pneumonia,left basilar opacity,{where},10,20,30,40,200,300",
        f"d1,Pneumonia,left basilar opacity,{where},100,20,30,40,200,300",
        f"d1,Consolidation,'dense',{where},100,20,30,40,200,300",
        "elsewhere,Pneumonia,opacity,files/x.jpg,1,1,5,5,200,300",
    ]
    if version == "v1.1.0":
        make_ms_cxr(tmp_path, [f"{row},test" for row in rows], version, MS_CXR_HEADER + ",split")
    else:
        make_ms_cxr(tmp_path, rows, version)
    records = mimic_cxr.read(folder)
    assert boxes_of(records, "d1") == [[10, 20, 40, 60], [100, 20, 130, 60], [100, 20, 130, 60]]
    assert records.boxes["label"].tolist() == ["Pneumonia", "Pneumonia", "Consolidation"]
    assert records.boxes["text"].tolist()[0] == "left basilar opacity"
    assert by_image(records, "split")["d1"] == "train"  # the split of MIMIC-CXR holds
    assert records.notes == []


def test_ms_cxr_malformed_boxes_are_quarantined(tmp_path):
    folder = make_mimic(tmp_path)
    where = "files/p10/p10000001/s50000001/d1.jpg"
    rows = [
        f"d1,Pneumonia,t,{where},wide,20,30,40,200,300",
        f"d1,Pneumonia,t,{where},10,20,0,40,200,300",
        f"d1,Pneumonia,t,{where},10,300,30,40,200,300",
        f"d1,Pneumonia,t,{where},172,20,30,40,200,300",
        f"d1,Pneumonia,t,{where},172,20,30,40,200,300",
        f"d1,Pneumonia,t,{where},190,20,30,40,200,300",
        "d1,Pneumonia,t,files/p10/p10000001/s50000001/d3.jpg,10,20,30,40,200,300",
        "d2,Pneumonia,lateral,files/p10/p10000001/s50000001/d2.jpg,10,20,30,40,200,300",
    ]
    make_ms_cxr(tmp_path, rows)
    records = mimic_cxr.read(folder)
    assert boxes_of(records, "d1") == [[172, 20, 200, 60]]
    assert tally(records, "boxes") == [8, 1, 0, 1, 6]
    name = "MS_CXR_Local_Alignment_v1.1.0.csv"
    assert sorted(quarantined(records)) == [
        (name, 2, "box of d1: coordinates are not numbers"),
        (name, 3, "box of d1: no area"),
        (name, 4, "box of d1: outside of its image"),
        (name, 6, "box of d1: stands twice"),
        (name, 7, "box of d1: reaches out of its image"),
        (name, 8, "box of d1: path names another image"),
    ]


def test_ms_cxr_boxes_of_another_image_size_are_scaled_to_that_of_the_metadata(tmp_path):
    folder = make_mimic(tmp_path)  # d1 is 200 x 300
    make_ms_cxr(
        tmp_path, ["d1,Pneumonia,t,files/p10/p10000001/s50000001/d1.jpg,10,20,30,40,400,1200"]
    )
    assert boxes_of(mimic_cxr.read(folder), "d1") == [[5, 5, 20, 15]]


def test_ms_cxr_several_boxes_of_one_phrase_share_image_and_text(tmp_path):
    folder = make_mimic(tmp_path)
    where = "files/p10/p10000001/s50000001/d1.jpg"
    rows = [
        f"d1,Pneumonia,{text},{where},{x},20,30,40,200,300"
        for text, x in (("both bases", 10), ("both bases", 100), ("apex", 10))
    ]
    make_ms_cxr(tmp_path, rows)
    boxes = mimic_cxr.read(folder).boxes
    assert boxes.groupby(["image", "text"]).size().to_dict() == {
        ("d1", "both bases"): 2,
        ("d1", "apex"): 1,
    }


TAM = {
    "images": [
        {"id": 7, "file_name": "d1.jpg", "report": "No effusion. Left basilar opacity."},
        {"id": 8, "file_name": "elsewhere.jpg"},
    ],
    "categories": [{"id": 3, "name": "pneumonia"}],
    "annotations": [
        {
            "image_id": 7,
            "category_id": 3,
            "bbox": [10, 20, 30, 40],
            "label_text": [{"start": 13, "end": 34}],
        },
        {"image_id": 8, "category_id": 3, "bbox": [10, 20, 30, 40]},
        {"image_id": 7, "category_id": 3, "bbox": [10, 20, 0, 40]},
        {"image_id": 9, "category_id": 3, "bbox": [10, 20, 30, 40]},
    ],
}


def test_the_annotations_of_tam_et_al_are_read_from_the_folder_beside(tmp_path):
    folder = make_mimic(tmp_path)
    path = write(tmp_path / "mimic-cxr-annotations" / "tam.json", json.dumps(TAM))
    records = mimic_cxr.read(folder)
    assert records.boxes.to_numpy().tolist() == [
        ["d1", 10, 20, 40, 60, "Pneumonia", "Left basilar opacity."]
    ]
    assert tally(records, "boxes") == [4, 1, 1, 0, 2]
    assert quarantined(records) == [
        ("tam.json", 4, "a box of no image"),
        ("tam.json", 3, "box of d1: no area"),
    ]
    assert records.notes == []
    write(path, json.dumps({"images": []}))
    assert refused(mimic_cxr.read, folder).startswith(f"{path}: not COCO JSON")


def test_an_image_with_boxes_of_both_sources_keeps_those_of_ms_cxr(tmp_path):
    folder = make_mimic(tmp_path)
    write(tmp_path / "mimic-cxr-annotations" / "tam.json", json.dumps(TAM))
    make_ms_cxr(tmp_path, ["d1,Pneumonia,t,files/p10/p10000001/s50000001/d1.jpg,1,2,3,4,200,300"])
    records = mimic_cxr.read(folder)
    assert boxes_of(records, "d1") == [[1, 2, 4, 6]]
    assert tally(records, "boxes") == [5, 1, 1, 2, 1]


def test_mimic_an_image_without_a_split_is_quarantined_and_never_trained_on_by_default(tmp_path):
    records = mimic_cxr.read(
        make_mimic(tmp_path, splits=["d1,50000001,10000001,train", "d3,50000002,10000002,tset"])
    )
    assert counts(records) == [3, 1, 0, 1, 1]
    assert tally(records, "splits") == [2, 1, 0, 0, 1]
    split, metadata = "mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-metadata.csv.gz"
    assert quarantined(records) == [
        (split, 3, "d3: split 'tset' is none of train, validate, test"),
        (metadata, 4, f"d3: has no split in {split}"),
    ]


def test_mimic_labels_that_are_text_or_doubled_are_quarantined_and_unknown(tmp_path):
    rows = ["10000001,50000001,,,yes,", "10000002,50000002,1.0,,,", "10000002,50000002,,1.0,,"]
    records = mimic_cxr.read(make_mimic(tmp_path, chexpert=rows))
    labels = by_image(records, "label")
    assert np.isnan(labels["d1"]) and labels["d3"] == 0
    assert tally(records, "labels") == [3, 1, 0, 0, 2]


def test_mimic_what_is_not_there_is_named(tmp_path):
    assert refused(mimic_cxr.read, tmp_path / "nowhere").startswith(
        f"{tmp_path / 'nowhere'}: no such folder; get MIMIC"
    )
    folder = make_mimic(tmp_path)
    path = write(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", "subject_id,study_id,Pneumonia\n")
    assert refused(mimic_cxr.read, folder).startswith(
        f"{path}: lacks the column(s) Consolidation, Lung Opacity, No Finding"
    )
    path.unlink()
    assert "mimic-cxr-2.0.0-chexpert.csv.gz" in refused(mimic_cxr.read, folder)
    path = write(
        folder / "mimic-cxr-2.0.0-metadata.csv.gz",
        MIMIC_METADATA.replace("ViewPosition", "View") + "\n",
    )
    write(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", "subject_id,study_id\n")
    assert refused(mimic_cxr.read, folder).startswith(f"{path}: lacks the column(s) ViewPosition")


def test_a_truncated_gzip_is_named(tmp_path):
    folder = make_mimic(tmp_path)
    path = folder / "mimic-cxr-2.0.0-metadata.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(mimic_cxr.read, folder).startswith(f"{path}: not readable as a table")


# OpenI

OPENI = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">Cough</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation>
<MeSH><major>Opacity/lung/lower lobe/right/patchy/mild</major><major>normal</major><automatic>lung</automatic></MeSH>
<parentImage id="CXR1_1"/></eCitation>
"""


def test_openi_keeps_findings_and_impression_and_leaves_empty_sections_out(tmp_path):
    write(
        tmp_path / "ecgen-radiology" / "1.xml",
        OPENI.format(findings="XXXX opacity.", impression="Pneumonia."),
    )
    write(
        tmp_path / "ecgen-radiology" / "2.xml", OPENI.format(findings="", impression="Pneumonia.")
    )
    write(tmp_path / "ecgen-radiology" / "3.xml", OPENI.format(findings=" \n", impression=""))
    records = openi.read(tmp_path)
    assert records.reports["study"].tolist() == ["1", "2", "3"]
    assert records.reports["text"].tolist() == [
        "FINDINGS: XXXX opacity.\nIMPRESSION: Pneumonia.",
        "IMPRESSION: Pneumonia.",
        "",
    ]
    assert set(records.reports["mesh"]) == {"Opacity/lung/lower lobe/right/patchy/mild;normal"}
    assert counts(records) == [0, 0, 0, 0, 0]


def test_openi_files_that_are_not_xml_are_quarantined(tmp_path):
    write(tmp_path / "1.xml", OPENI.format(findings="Clear.", impression=""))
    write(tmp_path / "2.xml", OPENI[:200])
    records = openi.read(tmp_path)
    assert records.reports["text"].tolist() == ["FINDINGS: Clear."]
    (row,) = quarantined(records)
    assert row[:2] == ("2.xml", 0) and row[2].startswith("not XML")


def test_openi_what_is_not_there_is_named(tmp_path):
    assert refused(openi.read, tmp_path).startswith(
        f"{tmp_path}: holds no XML reports; install torchxrayvision"
    )
    assert refused(openi.read, tmp_path / "nowhere").startswith(
        f"{tmp_path / 'nowhere'}: holds no XML reports"
    )


def test_openi_comes_with_the_installed_package():
    records = openi.read()
    texts = records.reports["text"]
    assert len(records.reports) == records.reports["study"].nunique() == 3955
    assert len(records.quarantine) == 0
    assert (~texts.str.contains("FINDINGS:")).sum() == 530
    assert (~texts.str.contains("IMPRESSION:")).sum() == 34
    assert (texts == "").sum() == 28
    assert texts.str.contains("XXXX").sum() == 1855
    assert (records.reports["mesh"] != "").all()
    assert (records.reports["images"] == 0).sum() == 104


# The data folder


def test_sets_without_a_single_image_file_still_add_up(tmp_path):
    for name in ("rsna", "nih", "covid"):
        (tmp_path / name).mkdir()
    made = make_rsna(tmp_path / "rsna", ["a,1,2,3,4,1", "b,,,,,0"], images=[])
    assert counts(rsna.read(made)) == [2, 0, 2, 0, 0]
    made = make_nih(tmp_path / "nih", THREE, ["00000001_000.png,Pneumonia,1,2,3,4"], images=[])
    assert counts(chestxray8.read(made)) == [3, 0, 3, 0, 0]
    made = make_covid(tmp_path / "covid", [study("a.png"), study("b.jpg", view="L")], images=[])
    write(made / SEVERITY, COMMENTS + "filename,geographic_mean,opacity_mean\na.png,3,2\n")
    assert counts(covid19.read(made)) == [2, 0, 1, 1, 0]
    made = make_mimic(tmp_path, absent=["d1", "d2", "d3"])
    make_ms_cxr(tmp_path, ["d1,Pneumonia,t,p,10,20,30,40,200,300"])
    assert counts(mimic_cxr.read(made)) == [3, 0, 2, 1, 0]


def test_sets_without_a_single_row_still_add_up(tmp_path):
    for name in ("rsna", "nih", "covid"):
        (tmp_path / name).mkdir()
    assert counts(rsna.read(make_rsna(tmp_path / "rsna", []))) == [0, 0, 0, 0, 0]
    assert counts(chestxray8.read(make_nih(tmp_path / "nih", []))) == [0, 0, 0, 0, 0]
    assert counts(covid19.read(make_covid(tmp_path / "covid", []))) == [0, 0, 0, 0, 0]
    assert counts(mimic_cxr.read(make_mimic(tmp_path, [], [], []))) == [0, 0, 0, 0, 0]


def test_sets_are_found_by_the_names_of_their_folders(tmp_path):
    folder = tmp_path / "rsna-pneumonia-detection-challenge"
    folder.mkdir()
    make_rsna(folder, ["a,,,,,0"])
    (tmp_path / "ChestX-ray8").write_text("not a folder")
    assert datasets.find(tmp_path) == {"rsna": folder}
    assert list(datasets.read_all(tmp_path, ["rsna"])) == ["rsna"]
    text = refused(datasets.read_all, tmp_path, ["rsna", "chestxray8", "covid19"])
    assert text.startswith(f"{tmp_path}: holds no ChestX-ray8, covid-chestxray-dataset")


# The public data


def real(name: str) -> Records:
    if not (DATA / datasets.FOLDERS[name]).is_dir():
        pytest.skip(f"no {datasets.FOLDERS[name]} in ../shared/data beside the repository")
    return datasets.read_all(DATA, [name])[name]


def test_the_rsna_images_that_are_here():
    records = real("rsna")
    assert counts(records) == [1214, 1214, 0, 0, 0]
    assert (records.images["label"] == 1).sum() == records.boxes["image"].nunique() == 338
    assert len(records.boxes) == 530
    assert records.images["patient"].nunique() == 993
    assert records.images["patient"].str.startswith("nih:").all()
    assert records.images.groupby("patient")["split"].nunique().max() == 1
    # In pixels of 512: boxes of the official 1024 would reach past the edge.
    assert records.boxes[["x2", "y2"]].max().max() <= 512
    assert (records.quarantine.empty, records.notes) == (True, [])


def test_the_chestxray8_images_that_are_here():
    records = real("chestxray8")
    assert counts(records) == [84, 84, 0, 0, 0]
    boxed = records.images["image"].isin(records.boxes["image"])
    assert boxed.sum() == 24
    assert (records.images.loc[boxed, "split"] == "test").all()
    assert records.notes == [
        f"{984 - len(records.boxes)} boxes belong to images that are not in this folder"
    ]
    assert records.images.groupby("patient")["split"].nunique().max() == 1


def test_the_covid_images_that_are_here():
    records = real("covid19")
    assert counts(records)[0] == 673
    scored = records.scores.set_index("image")
    assert scored[["geographic_extent", "opacity"]].notna().all(axis=1).sum() == 94
    assert (
        scored["geographic_extent"].between(0, 8).sum()
        == scored["opacity"].between(0, 6).sum()
        == 94
    )
    assert set(records.images.loc[records.images["image"].isin(scored.index), "split"]) == {"test"}
    assert set(records.images["view"]) == {"AP", "AP Supine", "PA"}
    if (DATA / "brixia-cohen").is_dir():
        zones = scored[[f"brixia_{zone}" for zone in "ABCDEF"]]
        assert len(zones.dropna()) == 125
        assert (zones.dropna().sum(axis=1) == scored["brixia"].dropna()).mean() > 0.95
