"""A corpus of damaged inputs: no traceback, nothing lost in silence, nothing read wrongly.

Each case damages one thing in a sound tree, reads and decodes the whole set as `data check` does,
and compares the result with that of the sound tree. Where the file itself does not show the damage
(a table cut short between two rows), a note has to.
"""

import gzip
import json
import shutil
import tomllib
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trees
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from trees import COVID, NIH, OPENI, RSNA, RSNA_LABELS, SOUND, draw, noise, write

from pnloc.data import openi, readers, rsna
from pnloc.data.audit import Audit, audit
from pnloc.data.records import BOX_COLUMNS, FATES
from pnloc.errors import PnlocError
from pnloc.images import load

# pydicom warns of what is broken on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RSNA_IMAGES = f"{RSNA}/stage_2_train_images"
TEXTS = tomllib.loads(Path(__file__).with_name("damaged.toml").read_text(encoding="utf-8"))
MIMIC_JPG = f"mimic-cxr-jpg/{trees.D1}"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, tuple[Path, Audit]]:
    """The sound tree of each set, and what is read from it."""
    results = {}
    for name, make in SOUND.items():
        root = tmp_path_factory.mktemp(name)
        make(root)
        results[name] = (root, read(name, root))
        assert results[name][1].status() == 0, results[name][1].quarantine()
    return results


@pytest.fixture
def judge(sound, tmp_path) -> Callable:
    """Damages a copy of a sound tree; returns the verdict of `judged` and the result."""

    def result(name: str, damage: Callable[[Path], object]) -> tuple[str, Audit]:
        root = Path(shutil.copytree(sound[name][0], tmp_path / "tree", dirs_exist_ok=True))
        damage(root)
        audited = read(name, root)
        return judged(name, root, sound[name][1], audited), audited

    return result


def rewrite(place: str, damage: Callable[[bytes], bytes]) -> Callable[[Path], int]:
    """Damages the bytes of a file of a tree."""
    return lambda root: (root / place).write_bytes(damage((root / place).read_bytes()))


def read(name: str, root: Path) -> Audit:
    if name == "openi":
        return audit({name: partial(openi.read, openi.place(root))}, [])
    return audit({name: lambda: readers.read_all(root, [name])[name]}, [name])


def judged(name: str, root: Path, sound: Audit, result: Audit) -> str:
    """'unusable', 'quarantined', 'reported' or 'same'; asserts what holds after any damage."""
    if result.unusable:
        message = result.unusable[name]
        assert "\n" not in message and str(root) in message, message
        return "unusable"
    rows, quarantine = result.rows(), result.quarantine()
    assert (rows["rows"] == rows[list(FATES)].sum(axis=1)).all()
    assert (rows[list(FATES)] >= 0).all(axis=None)
    assert quarantine["reason"].str.fullmatch(".+").all()
    assert rows["quarantined"].sum() == 0 or len(quarantine)
    _not_read_wrongly(result.records[name], sound.records[name])
    if len(quarantine):
        return "quarantined"
    reported = result.remarks() != sound.remarks() or not rows.equals(sound.rows())
    return "reported" if reported else "same"


def _not_read_wrongly(records, sound) -> None:
    """What is used is in the sound tree; only patient, split, report or label may be unknown."""
    images, true = records.images.set_index("image"), sound.images.set_index("image")
    assert set(images.index) <= set(true.index)
    true = true.loc[images.index]
    assert (images[["width", "height"]] == true[["width", "height"]]).all(axis=None)
    assert (images["label"].isna() | (images["label"] == true["label"])).all()
    for path in map(Path, images["path"]):
        home = path.parents[6 if "p10000" in str(path) else 1]
        assert path.resolve().is_relative_to(home.resolve())
        assert load(path, 16)[0].shape == (16, 16)
    for table, columns in (("boxes", BOX_COLUMNS), ("reports", ["study", "text"])):
        here, there = (getattr(r, table)[columns].to_numpy().tolist() for r in (records, sound))
        assert set(map(tuple, here)) <= set(map(tuple, there))
    scores = records.scores.set_index("image").stack()
    assert scores.equals(sound.scores.set_index("image").stack().reindex(scores.index))


# Image files ------------------------------------------------------------------------------------

IMAGES = {
    "rsna": [f"{RSNA_IMAGES}/{name}" for name in ("a.png", "b.jpg", "c.dcm", "d.dcm")],
    "chestxray8": [f"{NIH}/images/00000002_000.png"],
    "covid19": [f"{COVID}/images/c.jpeg"],
    "mimic": [MIMIC_JPG],
}


def png_of(width: int, height: int) -> bytes:
    """The head of a PNG that claims a size, without the pixels."""
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    start = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d" + head
    return start + zlib.crc32(head).to_bytes(4, "big") + b"\x00" * 40


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "only its magic number": lambda b: b[:10],
    "only its header": lambda b: b[:200] if b[128:132] == b"DICM" else b[:33],
    "cut in half": lambda b: b[: len(b) // 2],
    "cut by a tenth": lambda b: b[: len(b) * 9 // 10],
    "zero bytes": lambda b: bytes(len(b)),
    "zero bytes after its head": lambda b: b[:30] + bytes(len(b) - 30),
    "a web page": lambda b: b"<!DOCTYPE html><html><body>Please log in</body></html>" * 9,
    "random bytes": lambda b: np.random.default_rng(0).bytes(len(b)),
    "gzipped": gzip.compress,
    "a decompression bomb": lambda b: png_of(60_000, 60_000),
    "a png of no size": lambda b: png_of(0, 0),
    "a zip": lambda b: b"PK\x03\x04" + bytes(200),
    "reversed": lambda b: b[::-1],
}


@pytest.mark.parametrize("damage", BYTES)
@pytest.mark.parametrize("name", ["rsna", "mimic"])
def test_a_damaged_image_is_quarantined_with_its_name(judge, tmp_path, name, damage):
    paths = [tmp_path / "tree" / place for place in IMAGES[name]]

    def change(root: Path) -> None:
        for path in paths:
            path.write_bytes(BYTES[damage](path.read_bytes()))

    verdict, result = judge(name, change)
    left = len(result.records[name].images)
    assert verdict == ("quarantined" if left else "unusable"), "of a set nothing may be left"
    assert set(map(str, paths)) <= set(result.quarantine()["file"])


LINKS = {
    "a folder": lambda p: p.mkdir(),
    "a link to nothing": lambda p: p.symlink_to("nowhere.png"),
    "a link to itself": lambda p: p.symlink_to(p.name),
    "not there": lambda p: None,
}


@pytest.mark.parametrize("damage", LINKS)
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_is_no_file_is_missing_or_quarantined(judge, name, damage):
    def change(root: Path) -> None:
        (root / IMAGES[name][0]).unlink()
        LINKS[damage](root / IMAGES[name][0])

    assert judge(name, change)[0] in ("reported", "quarantined")


DICOM = [
    *({tag: None} for tag in ("PixelData", "Rows")),
    *({"Rows": rows} for rows in (0, 5000)),
    {"Rows": 65535, "Columns": 65535},
    {"PixelData": bytes(48 * 24)},
]


def change_dicom(root: Path, **changes: object) -> None:
    data = dcmread(root / RSNA_IMAGES / "c.dcm")
    for tag, value in changes.items():
        if value is None:
            del data[tag]
        else:
            setattr(data, tag, value)
    data.save_as(root / RSNA_IMAGES / "c.dcm")


@pytest.mark.parametrize("changes", DICOM, ids=str)
def test_a_dicom_that_lacks_what_it_needs_is_quarantined(judge, changes):
    assert judge("rsna", partial(change_dicom, **changes))[0] == "quarantined"


def test_a_dicom_that_lacks_what_can_be_inferred_is_read_and_a_guess_is_reported(judge):
    assert judge("rsna", partial(change_dicom, BitsAllocated=None))[0] == "same"
    verdict, result = judge("rsna", partial(change_dicom, PhotometricInterpretation=None))
    assert verdict == "reported" and "PhotometricInterpretation" in " ".join(result.remarks())


def test_an_image_of_other_proportions_than_its_table_says_is_quarantined(judge):
    assert judge("mimic", lambda root: draw(root / MIMIC_JPG, 48, 30))[0] == "quarantined"


# Tables, JSON, XML and reports ------------------------------------------------------------------

TABLES = TEXTS["tables"]
FATAL = {
    "empty": lambda b: b"",
    "zero bytes": lambda b: bytes(len(b)),
    "a web page": lambda b: b"<!DOCTYPE html><html>\n<body>Log in, or go away</body></html>\n",
    "utf-16": lambda b: b.decode("utf-8-sig").encode("utf-16"),
    "random bytes": lambda b: np.random.default_rng(0).bytes(max(len(b), 400)),
    "without its header": lambda b: b"\n".join(
        line for line in b.splitlines() if not line.startswith(b"#")
    ).partition(b"\n")[2],
    "with another separator": lambda b: b.replace(b",", b";"),
}
# Of these, the last columns are empty or not read: nothing is lost with them.
CUT = "chexpert", "nih entries", "nih boxes", "covid metadata", "ms-cxr", "mimic metadata"


def change(table: str, damage: Callable[[bytes], bytes]) -> Callable[[Path], int]:
    """Damages the text of a table, in a compressed one the text inside."""

    place = TABLES[table][1]
    if place.endswith(".gz"):
        return rewrite(place, lambda b: gzip.compress(damage(gzip.decompress(b))))
    return rewrite(place, damage)


@pytest.mark.parametrize("damage", FATAL)
@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_cannot_be_read_makes_its_set_unusable_and_is_named(judge, table, damage):
    name, place = TABLES[table]
    verdict, result = judge(name, change(table, FATAL[damage]))
    assert verdict == "unusable" and place in result.unusable[name]


@pytest.mark.parametrize("table", TABLES)
def test_a_cut_or_repeated_row_is_reported_and_line_ends_do_not_matter(judge, table):
    def marked(content: bytes) -> bytes:
        lines = content.decode("utf-8-sig").splitlines()
        return b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode()

    def cut(content: bytes) -> bytes:
        return content.rstrip().rpartition(b",")[0].rpartition(b",")[0]

    name = TABLES[table][0]
    assert judge(name, change(table, marked))[0] == "same"
    verdict, _ = judge(name, change(table, lambda b: b + b.rstrip().splitlines()[-1] + b"\n"))
    assert verdict in ("quarantined", "reported")
    assert judge(name, change(table, cut))[0] != "same" or table in CUT


@pytest.mark.parametrize("table", ["mimic metadata", "mimic splits", "chexpert"])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_gzip_cut_short_makes_its_set_unusable(judge, table, share):
    damage = rewrite(TABLES[table][1], lambda b: b[: int(len(b) * share)])
    assert judge("mimic", damage)[0] == "unusable"


@pytest.mark.parametrize("table", [t for t in TABLES if t.endswith(("labels", "entries", "data"))])
def test_a_table_cut_between_two_rows_is_noticed_by_the_files_without_a_row(judge, table):
    name = TABLES[table][0]
    verdict, result = judge(name, change(table, lambda b: b.rstrip().rpartition(b"\n")[0] + b"\n"))
    assert verdict == "reported"
    assert any("named by no row" in remark for remark in result.remarks())


BAD_JSON = TEXTS["json"] | {"deep": "[" * 100_000}


@pytest.mark.parametrize("damage", BAD_JSON)
@pytest.mark.parametrize("name", ["rsna", "mimic"])
def test_json_of_another_form_makes_its_set_unusable(judge, name, damage):
    def apply(root: Path) -> None:
        (root / RSNA / "nih-of-rsna.csv").unlink(missing_ok=True)
        place = "mimic-cxr-annotations/tam.json" if name == "mimic" else f"{RSNA}/{rsna.MAPPING}"
        write(root / place, BAD_JSON[damage], "latin-1")

    assert judge(name, apply)[0] == "unusable"


XW = (1, -3), (1, 0), (100, 3), (1, 90)  # left edge and width of boxes that are none
ODD = [None, [1, 2, 3], [1, 2, "wide", 4], *([x, 2, w, 4] for x, w in XW)]
ANNOTATIONS = [{"image_id": 99}, *({"bbox": box} for box in ODD)]


def test_annotations_of_tam_et_al_that_make_no_sense_are_quarantined(judge):
    def add(content: bytes) -> bytes:
        tam = json.loads(content)
        tam["annotations"] += [tam["annotations"][0] | damage for damage in ANNOTATIONS]
        return json.dumps(tam).encode()

    verdict, result = judge("mimic", rewrite("mimic-cxr-annotations/tam.json", add))
    assert verdict == "quarantined"
    assert sorted(result.quarantine()["row"]) == list(range(2, len(ANNOTATIONS) + 2))


def entities(depth: int) -> str:
    """A bomb: each entity is fifty of the one before it."""
    inside = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 50}">' for n in range(1, depth))
    return f'<!DOCTYPE l [<!ENTITY e0 "ha">{inside}]><l>&e{depth - 1};</l>'


XML = {
    "empty": b"",
    "cut short": OPENI.encode()[:300],
    "a web page": b"<html><body>Please log in</body></html>",
    "random bytes": np.random.default_rng(0).bytes(500),
    "utf-16 that says utf-8": OPENI.encode("utf-16"),
    "bytes that are not utf-8": OPENI.replace("{findings}", "Röntgen").encode("latin-1"),
    "an unknown encoding": OPENI.replace("utf-8", "klingon").encode(),
    "too large": b"<a>" + b" " * 1_000_001 + b"</a>",
    "a bomb of entities": entities(5).encode(),
}


def test_files_that_are_not_the_xml_of_openi_are_quarantined(judge):
    def apply(root: Path) -> None:
        for name, content in XML.items():
            (root / "openi" / f"{name}.xml").write_bytes(content)

    verdict, result = judge("openi", apply)
    assert verdict == "quarantined"
    assert {Path(file).stem for file in result.quarantine()["file"]} == set(XML)


@pytest.mark.parametrize("text", ["Röntgen".encode("latin-1"), b"\xff\xfe\x9f\x80" * 20, None])
def test_a_report_that_is_not_utf8_or_is_a_folder_is_quarantined(judge, text):
    def apply(root: Path) -> None:
        path = root / "mimic-cxr/files/p10/p10000001/s50000001.txt"
        path.unlink()
        if text:
            path.write_bytes(text)
        else:
            path.mkdir()

    assert judge("mimic", apply)[0] == "quarantined"


# Cells ------------------------------------------------------------------------------------------


def set_cell(table: str, column: int, value: str) -> Callable[[Path], int]:
    """Puts a value into a cell of the last row of a table."""

    def damage(content: bytes) -> bytes:
        *rows, last = content.decode("utf-8-sig").splitlines()
        cells = last.split(",")
        cells[column] = value
        return "\n".join([*rows, ",".join(cells), ""]).encode()

    return change(table, damage)


@pytest.mark.parametrize(("table", "column", "value"), TEXTS["cells"])
def test_a_cell_out_of_its_range_is_quarantined_and_no_path_is_followed(
    judge, table, column, value
):
    def apply(root: Path) -> None:
        noise(99).save(root / "secret.png")
        set_cell(table, column, value)(root)

    assert judge(TABLES[table][0], apply)[0] == "quarantined"


# Anything ---------------------------------------------------------------------------------------

usual = st.sampled_from(["a", "b", "d", "1", "0", "100", "-5", "nan", "1e309", "", " ", "../a"])
marks = st.sampled_from(['"', "a\nb", "\x00"])
cells = st.one_of(usual, marks, st.text(max_size=6), st.floats().map(str))
fixtures = [HealthCheck.function_scoped_fixture]


@settings(max_examples=30, deadline=None, suppress_health_check=fixtures)
@given(st.lists(st.tuples(*[cells] * 6), max_size=5))
@example([("a", "0.0", "1.0", "1.0", "1e-249", "1")])  # a side that vanishes beside its place
def test_for_any_labels_the_counts_add_up_or_an_error_of_one_line_says_why(sound, tmp_path, rows):
    root = Path(shutil.copytree(sound["rsna"][0], tmp_path / "tree", dirs_exist_ok=True))
    table = pd.DataFrame(rows, columns=["patientId", "x", "y", "width", "height", "Target"])
    content = table.to_csv(index=False).encode("utf-8", "surrogatepass")
    (root / RSNA / RSNA_LABELS).write_bytes(content)
    try:
        records = rsna.read(root / RSNA)
    except PnlocError as error:
        assert "\n" not in str(error)
        return
    for counts in (records.counts, *records.tally.values()):
        assert counts["rows"] == sum(counts[fate] for fate in FATES)
    boxes = records.boxes.merge(records.images, on="image")
    for low, high, side in (("x1", "x2", "width"), ("y1", "y2", "height")):
        low, high, side = (boxes[column] for column in (low, high, side))
        assert ((low >= 0) & (low < high) & (high <= side)).all()
    assert (records.images["label"] == 1).sum() == records.boxes["image"].nunique()
