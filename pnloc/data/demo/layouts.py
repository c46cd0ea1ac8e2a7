"""Writers of the official layouts, with names and quirks of the real sets, for pnloc.data.readers.

A `Shot` is one generated image with its truth; a function of WRITERS writes a set from its shots.
"""

import gzip
import tomllib
import uuid
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from pnloc.data.demo.case import Case
from pnloc.files import write_text

RSNA, COVID = "rsna-pneumonia-detection-challenge", "covid-chestxray-dataset"
NIH_LABELS = {"effusion": "Effusion", "atelectasis": "Atelectasis", "nodule": "Nodule"}
HEADERS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shot:
    """One image of a set: number, variant, pool, side in pixels, truth and text.

    `boxes` are those to publish; view, sex and age go into the tables.
    """

    set: str
    number: int
    variant: int
    pool: str
    side: int
    case: Case
    boxes: list[Box]
    text: str
    view: str
    sex: str
    age: int


def identifier(*parts: object) -> str:
    """A name in the form of a UUID that depends on the parts alone."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, parts))))


def image_path(shot: Shot) -> Path:
    """The path of a shot's image below the data folder."""
    number = shot.number
    if shot.set == "rsna":
        return Path(RSNA, "stage_2_train_images", f"{identifier('rsna', number, shot.variant)}.dcm")
    if shot.set == "mimic":
        return Path("mimic-cxr-jpg", _study(shot), f"{identifier('mimic', number)}.jpg")
    if shot.set == "chestxray8":
        return Path("ChestX-ray8", "images", _nih_name(shot))
    return Path(COVID, "images", f"generated-{number:04d}.{'png' if number % 2 else 'jpg'}")


def image_name(shot: Shot) -> str:
    """The name of an image in the tables of its set."""
    path = image_path(shot)
    return path.stem if shot.set in ("rsna", "mimic") else path.name


def save_image(folder: Path, shot: Shot, picture: np.ndarray) -> None:
    """Write a shot's picture, uint8 [S, S], in the format of its set."""
    path = folder / image_path(shot)
    path.parent.mkdir(parents=True, exist_ok=True)
    if shot.set == "rsna":
        _dicom(path.stem, shot, picture).save_as(path, enforce_file_format=True)
    else:
        options = {"quality": 92} if shot.set == "mimic" else {}
        Image.fromarray(picture).save(path, **options)


def _dicom(name: str, shot: Shot, picture: np.ndarray) -> Dataset:
    data = Dataset()
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = f"2.25.{uuid.UUID(name).int}"
    data.PatientID, data.PatientSex, data.PatientAge = name, shot.sex, f"{shot.age:03d}Y"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "CR", "CHEST", shot.view
    data.set_pixel_data(picture, "MONOCHROME2", 8, generate_instance_uid=False)
    return data


def _study(shot: Shot) -> str:
    """The folder of a MIMIC study."""
    return f"files/p10/p{10_000_000 + shot.variant}/s{50_000_000 + shot.number}"


def _nih_name(shot: Shot) -> str:
    return f"{20_000 + shot.variant:08d}_{shot.number:03d}.png"


def _sized(box: Box) -> Box:
    """A box xyxy as x, y, width, height."""
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1, y2 - y1


def rsna(folder: Path, shots: list[Shot]) -> None:
    """Labels with one row per box, detailed classes, and the mapping to NIH images.

    The pool is a fourth column of the mapping.
    """
    labels, classes, mapping = [], [], []
    for shot in shots:
        name = image_name(shot)
        rows = [(*_sized(box), 1) for box in shot.boxes] or [(None, None, None, None, 0)]
        labels += [(name, *row) for row in rows]
        other = "No Lung Opacity / Not Normal" if shot.case.others else "Normal"
        classes += [(name, "Lung Opacity" if shot.boxes else other)] * len(rows)
        mapping.append((name, _nih_name(shot), shot.pool))
    _table(folder / RSNA / "stage_2_train_labels.csv", labels)
    _table(folder / RSNA / "stage_2_detailed_class_info.csv", classes)
    _table(folder / RSNA / "nih-of-rsna.csv", mapping)


def mimic(folder: Path, shots: list[Shot]) -> None:
    """Metadata, splits, CheXpert-like labels, reports, and MS-CXR-like boxes.

    Boxes are those of validation and test studies.
    """
    metadata, splits, labels, boxes = [], [], [], []
    for shot in shots:
        name, place, side = image_name(shot), _study(shot), shot.side
        subject, study = 10_000_000 + shot.variant, 50_000_000 + shot.number
        procedure = "CHEST (PORTABLE AP)" if shot.view == "AP" else "CHEST (PA AND LAT)"
        metadata.append((name, subject, study, procedure, shot.view, side, side))
        splits.append((name, study, subject, shot.pool))
        sick = float(bool(shot.case.opacities))
        normal = float(not (shot.case.opacities or shot.case.others))
        labels.append((subject, study, sick or None, None, normal or None, sick))
        write_text(folder / "mimic-cxr" / f"{place}.txt", shot.text)
        if shot.pool != "train":
            for box, o in zip(shot.boxes, shot.case.opacities, strict=True):
                phrase = f"{o.kind} opacity in the {o.side} {o.zone} zone"
                file = f"{place}/{name}.jpg"
                boxes.append((name, "Pneumonia", phrase, file, *_sized(box), side, side))
    for table, rows in (("metadata", metadata), ("split", splits), ("chexpert", labels)):
        _table(folder / "mimic-cxr-jpg" / f"mimic-cxr-2.0.0-{table}.csv.gz", rows)
    _table(folder / "ms-cxr" / "MS_CXR_Local_Alignment_v1.0.0.csv", boxes)


def chestxray8(folder: Path, shots: list[Shot]) -> None:
    """Data_Entry, the box list with its odd header and exactly one box per finding, the test list.

    The box of a pneumonia is that of its largest opacity, in pixels of a 1024 x 1024 picture.
    """
    entries, boxes, side = [], [], 1024
    for shot in shots:
        name = image_name(shot)
        named = [(NIH_LABELS[o.kind], o) for o in shot.case.others if o.kind in NIH_LABELS]
        if shot.case.opacities:
            named = [("Pneumonia", max(shot.case.opacities, key=lambda o: o.area)), *named]
        labels = "|".join(label for label, _ in named) or "No Finding"
        patient = (20_000 + shot.variant, shot.age, shot.sex, shot.view)
        entries.append((name, labels, shot.number, *patient, side, side, 0.168, 0.168))
        scale = side / shot.side
        boxes += [(name, label, *(v * scale for v in _sized(o.box))) for label, o in named]
    home = folder / "ChestX-ray8"
    _table(home / "Data_Entry_2017_v2020.csv", entries)
    _table(home / "BBox_List_2017.csv", boxes)
    (home / "test_list.txt").write_text("".join(f"{entry[0]}\n" for entry in entries))


def covid(folder: Path, shots: list[Shot]) -> None:
    """metadata.csv with clinical notes, and the severity scores with their comment lines."""
    rows, scores = [], []
    for shot in shots:
        name = image_name(shot)
        finding = "COVID-19" if shot.case.opacities else "No Finding"
        facts = (shot.variant, 0, shot.sex, shot.age, finding, shot.view)
        rows.append((*facts, "X-ray", "images", name, shot.text))
        scores.append((name, shot.case.extent, shot.case.opacity))
    _table(folder / COVID / "metadata.csv", rows)
    _table(folder / COVID / "annotations" / "covid-severity-scores.csv", scores)


WRITERS = {f.__name__: f for f in (rsna, mimic, chestxray8, covid)}


def _table(path: Path, rows: list[tuple]) -> None:
    """Write rows below the first lines of an official table, gzipped where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the time that gzip would keep, so that the same table is the same file.
    raw = gzip.GzipFile(path, "wb", mtime=0) if path.suffix == ".gz" else path.open("wb")
    with TextIOWrapper(raw, "utf-8", newline="") as file:
        file.write(f"{HEADERS[path.name]}\n")
        pd.DataFrame(rows).to_csv(file, index=False, header=False)
