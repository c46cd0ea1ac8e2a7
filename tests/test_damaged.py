"""A corpus of damaged inputs, each made from a sound tree: no traceback, nothing lost in silence, nothing read wrongly.

Each case damages one file or one cell of a small tree, reads and decodes the whole set as `data check` does, and holds the result against that
of the sound tree. Where a damage cannot be seen in the file itself (a table cut short between two rows), a note has to tell.
"""

import gzip
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from test_datasets import (
    BRIXIA_HEADER,
    COMMENTS,
    COVID_HEADER,
    MS_CXR_HEADER,
    NIH_BOXES,
    NIH_ENTRIES,
    NIH_HEADER,
    OPENI,
    RSNA_LABELS,
    SEVERITY,
    entry,
    make_mimic,
    photograph,
    study,
    write,
)
from test_images import save_dicom

from pnloc.data import openi, rsna
from pnloc.data import readers as datasets
from pnloc.data import tables as common
from pnloc.data.audit import Audit, audit
from pnloc.data.records import BOX_COLUMNS, FATES
from pnloc.errors import PnlocError
from pnloc.images import load

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # pydicom's, on what is broken on purpose
RSNA, NIH, COVID = (datasets.FOLDERS[n] for n in ("rsna", "chestxray8", "covid19"))
D1 = "files/p10/p10000001/s50000001/d1.jpg"


def noise(seed: int, width: int = 48, height: int = 48) -> np.ndarray:
    """A picture that is no other's near-duplicate."""
    small = np.random.default_rng(seed).integers(0, 255, (12, 12), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def sound_rsna(root: Path) -> None:
    home = root / RSNA
    rows = [
        "a,264,152,213,379,1",
        "a,562,152,256,453,1",
        "b,,,,,0",
        "c,100,100,300,300,1",
        "d,,,,,0",
    ]
    write(home / RSNA_LABELS, "\n".join(["patientId,x,y,width,height,Target", *rows, ""]))
    nih = [f"{name},0000000{n}_000.png" for n, name in enumerate("abcd", 1)]
    write(home / "nih-of-rsna.csv", "\n".join(["patientId,nih_image", *nih, ""]))
    images = home / "stage_2_train_images"
    images.mkdir()
    Image.fromarray(noise(1)).save(images / "a.png")
    Image.fromarray(noise(2)).save(images / "b.jpg", quality=95)
    save_dicom(images / "c.dcm", noise(3, 512, 512))
    save_dicom(images / "d.dcm", noise(4), compress="1.2.840.10008.1.2.5")


def sound_nih(root: Path) -> None:
    home = root / NIH
    names = ["00000001_000.png", "00000001_001.png", "00000002_000.png"]
    entries = [
        entry(n, label, int(n[:8]))
        for n, label in zip(names, ("Pneumonia", "No Finding", "Mass"), strict=True)
    ]
    write(home / NIH_ENTRIES, "\n".join([NIH_HEADER, *entries, ""]))
    boxes = [
        "00000001_000.png,Pneumonia,200.5,100.25,300.0,400.5,,,",
        "00000002_000.png,Mass,10,20,30,40,,,",
    ]
    write(home / NIH_BOXES, "\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *boxes, ""]))
    write(home / "test_list.txt", "00000002_000.png\n")
    (home / "images").mkdir()
    for n, name in enumerate(names, 10):
        Image.fromarray(noise(n)).save(home / "images" / name)


def sound_covid(root: Path) -> None:
    home = root / COVID
    rows = [
        study("a.png", 1),
        study("b.jpg", 2, notes="Clear, no opacity"[:5]),
        study("c.jpeg", 3, "No Finding"),
    ]
    write(home / "metadata.csv", "\n".join([COVID_HEADER, *rows, ""]))
    write(
        home / SEVERITY,
        COMMENTS + "filename,geographic_mean,opacity_mean\na.png,3.5,2\nb.jpg,1,1\n",
    )
    scores = ["a.png,3,2,1,0,1,2,9,0,1,0,1,3,0,5", "c.jpeg,0,0,0,0,0,1,1,0,0,0,0,0,0,0"]
    write(
        root / "brixia-cohen" / "public-annotations.csv",
        "\r\n".join([BRIXIA_HEADER, *scores, ""]),
        "utf-8-sig",
    )
    (home / "images").mkdir()
    for n, name in enumerate(("a.png", "b.jpg", "c.jpeg"), 20):
        Image.fromarray(noise(n)).save(home / "images" / name)


def sound_mimic(root: Path) -> None:
    rows = [
        photograph("d1", 10000001, 50000001, "AP", 48, 48),
        photograph("d3", 10000002, 50000002, "PA", 48, 48),
    ]
    home = make_mimic(root, rows, ["d1,50000001,10000001,train", "d3,50000002,10000002,test"])
    for n, path in enumerate(sorted(home.rglob("*.jpg")), 30):
        Image.fromarray(noise(n)).save(path, quality=95)
    boxes = [
        f"d1,Pneumonia,left base,{D1},10,20,30,20,48,48",
        f"d1,Pneumonia,left base,{D1},1,2,3,4,48,48",
    ]
    write(
        root / "ms-cxr" / "MS_CXR_Local_Alignment_v1.0.0.csv",
        "\n".join([MS_CXR_HEADER, *boxes, ""]),
    )
    tam = {
        "images": [{"id": 1, "file_name": "d3.jpg", "report": "Opacity at the base."}],
        "categories": [{"id": 1, "name": "pneumonia"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "label_text": [[0, 7]]}
        ],
    }
    write(root / "mimic-cxr-annotations" / "annotations.json", json.dumps(tam))


def sound_openi(root: Path) -> None:
    for n, words in enumerate(("Clear.", "Opacity.", ""), 1):
        write(root / "openi" / f"{n}.xml", OPENI.format(findings=words, impression="None."))


SOUND = {
    "rsna": sound_rsna,
    "chestxray8": sound_nih,
    "covid19": sound_covid,
    "mimic": sound_mimic,
    "openi": sound_openi,
}
MIMIC_JPG = f"mimic-cxr-jpg/{D1}"


@pytest.fixture(scope="session")
def trees(tmp_path_factory) -> dict[str, tuple[Path, Audit]]:
    """The sound tree of each set, and what is read from it."""
    found = {}
    for name, make in SOUND.items():
        root = tmp_path_factory.mktemp(name)
        make(root)
        found[name] = (root, read(name, root))
        assert (found[name][1].status(), len(found[name][1].quarantine())) == (0, 0), found[name][
            1
        ].remarks()
    return found


@pytest.fixture
def damaged(trees, tmp_path) -> Callable[[str], Path]:
    """A fresh copy of a sound tree."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(trees[name][0], tmp_path / "tree"))

    return copy


def read(name: str, root: Path) -> Audit:
    if name == "openi":
        return audit({name: partial(openi.read, openi.place(root))}, [])
    return audit({name: lambda: datasets.read_all(root, [name])[name]}, [name])


def judged(name: str, root: Path, sound: Audit, found: Audit | None = None) -> str:
    """'unusable', 'quarantined', 'told' or 'same'; all that must hold of any damaged input is asserted here."""
    found = found or read(name, root)
    if found.unusable:
        message = found.unusable[name]
        assert "\n" not in message and str(root) in message, message
        return "unusable"
    rows = found.rows()
    assert (rows["rows"] == rows[list(FATES)].sum(axis=1)).all() and (rows[list(FATES)] >= 0).all(
        axis=None
    )
    quarantine = found.quarantine()
    assert (
        not quarantine["reason"].str.contains("\n").any()
        and (quarantine["reason"].str.len() > 0).all()
    )
    assert rows["quarantined"].sum() == 0 or len(quarantine)
    _not_read_wrongly(found.records[name], sound.records[name])
    if len(quarantine):
        return "quarantined"
    if found.remarks() != sound.remarks() or not rows.equals(sound.rows()):
        return "told"
    return "same"


def _not_read_wrongly(found, sound) -> None:
    """What is used is what the sound tree holds, but that a patient, a split, a report or a label may be unknown now."""
    images, true = found.images.set_index("image"), sound.images.set_index("image")
    assert set(images.index) <= set(true.index)
    true = true.loc[images.index]
    assert (images[["width", "height"]] == true[["width", "height"]]).all(axis=None)
    assert (images["label"].isna() | (images["label"] == true["label"])).all()
    for row in images.itertuples():
        assert (
            Path(row.path)
            .resolve()
            .is_relative_to(Path(row.path).parents[6 if "p10000" in row.path else 1].resolve())
        )
        assert load(row.path, 16)[0].shape == (16, 16)
    boxes = set(map(tuple, found.boxes[BOX_COLUMNS].to_numpy().tolist()))
    assert boxes <= set(map(tuple, sound.boxes[BOX_COLUMNS].to_numpy().tolist()))
    texts = dict(sound.reports[["study", "text"]].to_numpy().tolist())
    assert all(
        texts.get(study) == text
        for study, text in found.reports[["study", "text"]].itertuples(index=False)
    )
    scores = found.scores.set_index("image").stack()
    assert scores.equals(sound.scores.set_index("image").stack().reindex(scores.index))


# Image files ----------------------------------------------------------------------------------------------

IMAGES = {
    "rsna png": ("rsna", f"{RSNA}/stage_2_train_images/a.png"),
    "rsna jpeg": ("rsna", f"{RSNA}/stage_2_train_images/b.jpg"),
    "rsna dicom": ("rsna", f"{RSNA}/stage_2_train_images/c.dcm"),
    "rsna rle dicom": ("rsna", f"{RSNA}/stage_2_train_images/d.dcm"),
    "nih png": ("chestxray8", f"{NIH}/images/00000002_000.png"),
    "covid jpeg": ("covid19", f"{COVID}/images/c.jpeg"),
    "mimic jpeg": ("mimic", MIMIC_JPG),
}


def png_of(width: int, height: int) -> bytes:
    """The head of a PNG that claims a size, without the pixels."""
    import zlib

    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"
        + head
        + zlib.crc32(head).to_bytes(4, "big")
        + b"\x00" * 40
    )


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "one byte": lambda b: b[:1],
    "only its magic number": lambda b: b[:10],
    "only its header": lambda b: b[:200] if b[128:132] == b"DICM" else b[:33],
    "cut in half": lambda b: b[: len(b) // 2],
    "cut by a tenth": lambda b: b[: len(b) * 9 // 10],
    "zero bytes": lambda b: bytes(len(b)),
    "zero bytes after its head": lambda b: b[:30] + bytes(len(b) - 30),
    "text": lambda b: b"not an image\n" * 50,
    "a web page": lambda b: b"<!DOCTYPE html><html><body>Please log in</body></html>" * 9,
    "random bytes": lambda b: np.random.default_rng(0).bytes(len(b)),
    "gzipped": gzip.compress,
    "a decompression bomb": lambda b: png_of(60_000, 60_000),
    "a png of no size": lambda b: png_of(0, 0),
    "a zip": lambda b: b"PK\x03\x04" + bytes(200),
    "reversed": lambda b: b[::-1],
}


@pytest.mark.parametrize("damage", BYTES)
@pytest.mark.parametrize("image", IMAGES)
def test_a_damaged_image_is_quarantined_with_its_name(trees, damaged, image, damage):
    name, place = IMAGES[image]
    root = damaged(name)
    path = root / place
    path.write_bytes(BYTES[damage](path.read_bytes()))
    found = read(name, root)
    assert judged(name, root, trees[name][1], found) == "quarantined"
    assert str(path) in set(found.quarantine()["file"])


LINKS: dict[str, Callable[[Path], None]] = {
    "a folder": lambda p: p.mkdir(),
    "a link to nothing": lambda p: p.symlink_to("nowhere.png"),
    "a link to itself": lambda p: p.symlink_to(p.name),
    "not there": lambda p: None,
}


@pytest.mark.parametrize("damage", LINKS)
@pytest.mark.parametrize("image", IMAGES)
def test_an_image_that_is_no_file_is_missing_or_quarantined(trees, damaged, image, damage):
    name, place = IMAGES[image]
    root = damaged(name)
    (root / place).unlink()
    LINKS[damage](root / place)
    assert judged(name, root, trees[name][1]) in ("told", "quarantined")


def _dicom_without(path: Path, **changes: object) -> None:
    data = dcmread(path)
    for tag, value in changes.items():
        if value is None:
            del data[tag]
        else:
            setattr(data, tag, value)
    data.save_as(path)


DICOM = {
    "no pixels": {"PixelData": None},
    "no rows": {"Rows": None},
    "rows of 0": {"Rows": 0},
    "more rows than pixels": {"Rows": 5000},
    "65535 rows and columns": {"Rows": 65535, "Columns": 65535},
    "no bits allocated": {"BitsAllocated": None},
    "no photometric interpretation": {"PhotometricInterpretation": None},
    "half of the pixels": {"PixelData": bytes(512 * 256)},
}


@pytest.mark.parametrize("damage", DICOM)
def test_a_dicom_that_lacks_what_it_needs_is_quarantined(trees, damaged, damage):
    root = damaged("rsna")
    _dicom_without(root / RSNA / "stage_2_train_images" / "c.dcm", **DICOM[damage])
    assert judged("rsna", root, trees["rsna"][1]) == "quarantined"


@pytest.mark.parametrize(
    ("image", "suffix"),
    [("a.png", ".jpg"), ("b.jpg", ".png"), ("a.png", ".dcm"), ("b.jpg", ".dcm"), ("c.dcm", ".png")],
)
def test_an_image_under_a_wrong_extension_is_read_for_what_it_is(trees, damaged, image, suffix):
    root = damaged("rsna")
    path = root / RSNA / "stage_2_train_images" / image
    path.rename(path.with_suffix(suffix))
    assert judged("rsna", root, trees["rsna"][1]) == "same"


def test_an_image_of_other_proportions_than_its_table_says_is_quarantined(trees, damaged):
    root = damaged("mimic")
    Image.fromarray(noise(9, 48, 30)).save(root / MIMIC_JPG)
    assert judged("mimic", root, trees["mimic"][1]) == "quarantined"


# Tables, JSON, XML and reports ----------------------------------------------------------------------------

TABLES = {
    "rsna labels": ("rsna", f"{RSNA}/{RSNA_LABELS}"),
    "rsna mapping": ("rsna", f"{RSNA}/nih-of-rsna.csv"),
    "nih entries": ("chestxray8", f"{NIH}/{NIH_ENTRIES}"),
    "nih boxes": ("chestxray8", f"{NIH}/{NIH_BOXES}"),
    "covid metadata": ("covid19", f"{COVID}/metadata.csv"),
    "severity": ("covid19", f"{COVID}/{SEVERITY}"),
    "brixia": ("covid19", "brixia-cohen/public-annotations.csv"),
    "mimic metadata": ("mimic", "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz"),
    "mimic splits": ("mimic", "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz"),
    "chexpert": ("mimic", "mimic-cxr-jpg/mimic-cxr-2.0.0-chexpert.csv.gz"),
    "ms-cxr": ("mimic", "ms-cxr/MS_CXR_Local_Alignment_v1.0.0.csv"),
}
FATAL = {
    "empty": lambda b: b"",
    "zero bytes": lambda b: bytes(len(b)),
    "a web page": lambda b: (
        b"<!DOCTYPE html><html>\n<body>Please log in, or go away</body></html>\n"
    ),
    "utf-16": lambda b: b.decode("utf-8-sig").encode("utf-16"),
    "random bytes": lambda b: np.random.default_rng(0).bytes(max(len(b), 400)),
    "without its header": lambda b: b"\n".join(
        line for line in b.splitlines() if not line.startswith(b"#")
    ).partition(b"\n")[2],
    "with another separator": lambda b: b.replace(b",", b";"),
}
_TOLD = {
    "cut in its last row": lambda b: b.rstrip()[: b.rstrip().rindex(b",")].rpartition(b",")[0],
    "with its rows twice": lambda b: b + b.rstrip().splitlines()[-1] + b"\n",
}


def change(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Damage what a table says, inside its gzip where it has one."""
    content = path.read_bytes()
    zipped = path.suffix == ".gz"
    content = damage(gzip.decompress(content) if zipped else content)
    path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("damage", FATAL)
@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_cannot_be_read_makes_its_set_unusable_and_is_named(
    trees, damaged, table, damage
):
    name, place = TABLES[table]
    root = damaged(name)
    change(root / place, FATAL[damage])
    found = read(name, root)
    assert judged(name, root, trees[name][1], found) == "unusable"
    assert str(root / place) in found.unusable[name]


@pytest.mark.parametrize("damage", _TOLD)
@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_is_cut_or_doubled_is_told(trees, damaged, table, damage):
    name, place = TABLES[table]
    root = damaged(name)
    change(root / place, _TOLD[damage])
    told = judged(name, root, trees[name][1])
    # Of these, the last columns are empty or not read: nothing is lost with them.
    assert told in ("quarantined", "told", "unusable") or (table, damage) in {
        (t, "cut in its last row")
        for t in (
            "chexpert",
            "nih entries",
            "nih boxes",
            "covid metadata",
            "ms-cxr",
            "mimic metadata",
        )
    }


@pytest.mark.parametrize("table", [t for t in TABLES if TABLES[t][1].endswith(".gz")])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_gzip_cut_short_makes_its_set_unusable(trees, damaged, table, share):
    name, place = TABLES[table]
    root = damaged(name)
    content = (root / place).read_bytes()
    (root / place).write_bytes(content[: int(len(content) * share)])
    assert judged(name, root, trees[name][1]) == "unusable"


@pytest.mark.parametrize(
    "table", ["rsna labels", "nih entries", "covid metadata", "mimic metadata"]
)
def test_a_table_cut_between_two_rows_is_told_by_the_files_that_nothing_names(
    trees, damaged, table
):
    name, place = TABLES[table]
    root = damaged(name)
    change(root / place, lambda b: b.rstrip().rpartition(b"\n")[0] + b"\n")
    found = read(name, root)
    assert judged(name, root, trees[name][1], found) == "told"
    assert any("named by no row" in remark for remark in found.remarks())


@pytest.mark.parametrize("table", TABLES)
def test_a_table_with_a_byte_order_mark_and_windows_line_ends_is_read_the_same(
    trees, damaged, table
):
    name, place = TABLES[table]
    root = damaged(name)
    change(
        root / place,
        lambda b: (
            b"\xef\xbb\xbf"
            + b.decode("utf-8-sig").replace("\r\n", "\n").replace("\n", "\r\n").encode()
        ),
    )
    assert judged(name, root, trees[name][1]) == "same"


JSON = {
    "rsna": (f"{RSNA}/{rsna.MAPPING}", "nih-of-rsna.csv"),
    "mimic": ("mimic-cxr-annotations/annotations.json", ""),
}
BAD_JSON = {
    "empty": "",
    "cut short": '[{"img_id": "00000001_000.png", "subset_',
    "a number": "7",
    "null": "null",
    "a list of numbers": "[1, 2]",
    "an object of nulls": '{"images": null, "categories": null, "annotations": null}',
    "deep": "[" * 100_000,
    "text": "Please log in",
    "latin-1": '["Röntgen"]',
}


@pytest.mark.parametrize("damage", BAD_JSON)
@pytest.mark.parametrize("name", JSON)
def test_json_of_another_form_makes_its_set_unusable(trees, damaged, name, damage):
    root = damaged(name)
    place, instead = JSON[name]
    if instead:
        (root / RSNA / instead).unlink()
    write(root / place, BAD_JSON[damage], "latin-1")
    assert judged(name, root, trees[name][1]) == "unusable"


ANNOTATIONS = {
    "no image": {"image_id": 99},
    "no box": {"bbox": None},
    "a short box": {"bbox": [1, 2, 3]},
    "text in the box": {"bbox": [1, 2, "wide", 4]},
    "a negative side": {"bbox": [1, 2, -3, 4]},
    "no area": {"bbox": [1, 2, 0, 4]},
    "outside": {"bbox": [100, 2, 3, 4]},
    "reaching out": {"bbox": [1, 2, 90, 4]},
}


@pytest.mark.parametrize("damage", ANNOTATIONS)
def test_an_annotation_of_tam_et_al_that_makes_no_sense_is_quarantined(trees, damaged, damage):
    root = damaged("mimic")
    path = root / JSON["mimic"][0]
    content = json.loads(path.read_text())
    content["annotations"][0] |= ANNOTATIONS[damage]
    path.write_text(json.dumps(content))
    assert judged("mimic", root, trees["mimic"][1]) == "quarantined"


XML = {
    "empty": b"",
    "cut short": OPENI.encode()[:300],
    "a web page": b"<html><body>Please log in</body></html>",
    "random bytes": np.random.default_rng(0).bytes(500),
    "utf-16 that says utf-8": OPENI.encode("utf-16"),
    "bytes that are not utf-8": OPENI.replace("{findings}", "Röntgen").encode("latin-1"),
    "an unknown encoding": OPENI.replace("utf-8", "klingon").encode(),
    "too large": b"<a>" + b" " * 1_000_001 + b"</a>",
    "a bomb of entities": b'<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "'
    + b"&a;" * 50
    + b'"><!ENTITY c "'
    + b"&b;" * 50
    + b'"><!ENTITY d "'
    + b"&c;" * 50
    + b'"><!ENTITY e "'
    + b"&d;" * 50
    + b'">]><l>&e;</l>',
}


@pytest.mark.parametrize("damage", XML)
def test_a_report_that_is_not_the_xml_of_openi_is_quarantined(trees, damaged, damage):
    root = damaged("openi")
    (root / "openi" / "2.xml").write_bytes(XML[damage])
    assert judged("openi", root, trees["openi"][1]) == "quarantined"


TEXTS = {
    "latin-1": "Röntgen".encode("latin-1"),
    "utf-16": "Opacity.".encode("utf-16"),
    "random": b"\xff\xfe\x9f\x80" * 20,
}


@pytest.mark.parametrize("damage", TEXTS)
def test_a_mimic_report_that_is_not_utf8_is_quarantined(trees, damaged, damage):
    root = damaged("mimic")
    (root / "mimic-cxr/files/p10/p10000001/s50000001.txt").write_bytes(TEXTS[damage])
    assert judged("mimic", root, trees["mimic"][1]) == "quarantined"


def test_a_folder_in_place_of_a_report_is_quarantined(trees, damaged):
    root = damaged("mimic")
    path = root / "mimic-cxr/files/p10/p10000001/s50000001.txt"
    path.unlink()
    path.mkdir()
    assert judged("mimic", root, trees["mimic"][1]) == "quarantined"


# Cells ----------------------------------------------------------------------------------------------------

CLIMBING = ["../../secret.png", "..", "/etc/passwd", "..\\secret.png", "images/a.png", "a\x01b"]
NAMES = [
    ("rsna labels", 0),
    ("nih entries", 0),
    ("covid metadata", 10),
    ("mimic metadata", 0),
    ("severity", 0),
    ("brixia", 0),
]


def set_cell(root: Path, table: str, column: int, value: str) -> None:
    """Put a value into a cell of the last row of a table."""

    def damage(content: bytes) -> bytes:
        text = content.decode("utf-8-sig").rstrip().replace("\r\n", "\n")
        head, _, last = text.rpartition("\n")
        cells = last.split(",")
        cells[column] = value
        return f"{head}\n{','.join(cells)}\n".encode()

    change(root / TABLES[table][1], damage)


@pytest.mark.parametrize("value", CLIMBING)
@pytest.mark.parametrize(("table", "column"), NAMES)
def test_a_name_that_is_a_path_is_quarantined_and_nothing_outside_is_read(
    trees, damaged, table, column, value
):
    name = TABLES[table][0]
    root = damaged(name)
    Image.fromarray(noise(99)).save(root / "secret.png")
    set_cell(root, table, column, value)
    assert judged(name, root, trees[name][1]) == "quarantined"


NUMBERS = ["wide", "-7", "nan", "inf", "-inf", "1e400", "", "0", "12,5", "0x10", "١٢", "None"]
CELLS = [("ms-cxr", 6), ("ms-cxr", 7), ("nih boxes", 4), ("nih boxes", 5)]


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize(("table", "column"), CELLS)
def test_a_side_of_a_box_that_is_no_positive_number_is_quarantined(
    trees, damaged, table, column, value
):
    name = TABLES[table][0]
    root = damaged(name)
    set_cell(root, table, column, f'"{value}"')
    if (
        value == "١٢"
    ):  # digits of another script: whatever is made of them, the other box stays and the counts add up
        assert read(name, root).unusable == {}
    else:
        assert judged(name, root, trees[name][1]) == "quarantined"


OTHERS = [
    ("rsna labels", 5, "2"),
    ("rsna labels", 5, "yes"),
    ("rsna labels", 5, ""),
    ("rsna labels", 1, "12"),
    ("rsna mapping", 1, "x.png"),
    ("nih entries", 3, "two"),
    ("nih entries", 3, "-2"),
    ("nih entries", 3, "2.5"),
    ("nih entries", 1, ""),
    ("covid metadata", 0, ""),
    ("severity", 1, "high"),
    ("severity", 1, "9"),
    ("severity", 2, "-1"),
    ("severity", 2, "nan"),
    ("brixia", 7, "19"),
    ("brixia", 3, "4"),
    ("brixia", 14, ""),
    ("mimic metadata", 1, "p1"),
    ("mimic metadata", 2, ""),
    ("mimic metadata", 5, "tall"),
    ("mimic metadata", 6, "0"),
    ("mimic splits", 3, "train "),
    ("mimic splits", 3, ""),
    ("chexpert", 3, "2.0"),
    ("chexpert", 5, "yes"),
    ("ms-cxr", 0, ""),
    ("ms-cxr", 3, "files/other.jpg"),
]


@pytest.mark.parametrize(("table", "column", "value"), OTHERS)
def test_a_cell_out_of_its_range_is_quarantined(trees, damaged, table, column, value):
    name = TABLES[table][0]
    root = damaged(name)
    set_cell(root, table, column, value)
    assert judged(name, root, trees[name][1]) == "quarantined"


# Anything -------------------------------------------------------------------------------------------------

cells = st.one_of(
    st.sampled_from(
        [
            "a",
            "b",
            "c",
            "d",
            "1",
            "0",
            "100",
            "-5",
            "nan",
            "1e309",
            "",
            " ",
            "../a",
            '"',
            "a\nb",
            "\x00",
        ]
    ),
    st.text(max_size=6),
    st.floats().map(str),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(*[cells] * 6), max_size=5))
def test_rsna_whatever_stands_in_the_labels_the_counts_add_up_or_one_line_says_why(
    trees, damaged, tmp_path, rows
):
    root = tmp_path / "tree" if (tmp_path / "tree").exists() else damaged("rsna")
    table = pd.DataFrame(rows, columns=["patientId", "x", "y", "width", "height", "Target"])
    (root / RSNA / RSNA_LABELS).write_bytes(
        table.to_csv(index=False).encode("utf-8", "surrogatepass")
    )
    try:
        records = rsna.read(root / RSNA)
    except PnlocError as error:
        assert "\n" not in str(error)
        return
    for counts in (records.counts, *records.tally.values()):
        assert counts["rows"] == sum(counts[fate] for fate in FATES)
    corners = records.boxes.merge(records.images, on="image")
    assert (
        (corners["x1"] >= 0).all()
        and (corners["x2"] <= corners["width"]).all()
        and (corners["x1"] < corners["x2"]).all()
    )
    assert (
        (corners["y1"] >= 0).all()
        and (corners["y2"] <= corners["height"]).all()
        and (corners["y1"] < corners["y2"]).all()
    )
    assert (records.images.set_index("image")["label"] == 1).sum() == records.boxes[
        "image"
    ].nunique()


numbers = st.floats() | st.integers(-50, 150).map(float)


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "gone", None]), numbers, numbers, numbers, numbers),
        max_size=8,
    )
)
@example([("a", 0.0, 1.0, 1.0, 1e-249)])  # a side that vanishes beside its place
def test_whatever_boxes_are_given_those_that_are_used_lie_in_their_image_and_all_are_counted(rows):
    boxes = pd.DataFrame(rows, columns=["image", "x", "y", "w", "h"]).assign(label="", text="")
    images = pd.DataFrame({"image": ["a", "b"], "width": [100, 60], "height": [80, 120]})
    quarantine = common.Quarantine()
    ledger = common.Ledger(Path("t"), boxes, quarantine)
    used = common.clean_boxes(ledger, images, {"a": "used", "b": "used", "gone": "missing"})
    counts = ledger.fate.value_counts().reindex(FATES, fill_value=0)
    assert len(rows) == counts.sum()
    assert counts["used"] == len(used) and counts["quarantined"] == len(quarantine.rows)
    size = used["image"].map({"a": (100, 80), "b": (60, 120)})
    for (width, height), (x1, y1, x2, y2) in zip(
        size, used[["x1", "y1", "x2", "y2"]].to_numpy(float), strict=True
    ):
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


def test_the_corpus_has_at_least_200_damaged_inputs():
    assert (
        len(BYTES) * len(IMAGES)
        + len(LINKS) * len(IMAGES)
        + len(DICOM)
        + (len(FATAL) + len(_TOLD)) * len(TABLES)
        >= 200
    )
