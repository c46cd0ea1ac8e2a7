"""Writers of the official layouts, with names and quirks of the real sets, for pnloc.data.readers.

A `Shot` is one generated image with its truth; a function of ROWS gives its rows in the tables of
its set, whose paths and first lines are in layouts.toml.
"""

import gzip
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from phantoms.case import Case
from phantoms.rates import table
from pnloc.files import write_text

RSNA, COVID = "rsna-pneumonia-detection-challenge", "covid-chestxray-dataset"
NIH_LABELS = {"effusion": "Effusion", "atelectasis": "Atelectasis", "nodule": "Nodule"}
HEADERS = table("layouts")

Box = tuple[float, float, float, float]
Rows = Iterator[tuple[str, tuple]]  # file name of a table, row


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
    """Write a shot's picture, uint8 [S, S], in the format of its set; of MIMIC also its report."""
    path = folder / image_path(shot)
    path.parent.mkdir(parents=True, exist_ok=True)
    if shot.set == "rsna":
        data = Dataset()
        data.SOPClassUID = SecondaryCaptureImageStorage
        data.SOPInstanceUID = f"2.25.{uuid.UUID(path.stem).int}"
        data.PatientID, data.PatientSex, data.PatientAge = path.stem, shot.sex, f"{shot.age:03d}Y"
        data.Modality, data.BodyPartExamined, data.ViewPosition = "CR", "CHEST", shot.view
        data.set_pixel_data(picture, "MONOCHROME2", 8, generate_instance_uid=False)
        data.save_as(path, enforce_file_format=True)
    else:
        options = {"quality": 92} if shot.set == "mimic" else {}
        Image.fromarray(picture).save(path, **options)
    if shot.set == "mimic":
        write_text(folder / "mimic-cxr" / f"{_study(shot)}.txt", shot.text)


def _study(shot: Shot) -> str:
    """The folder of a MIMIC study."""
    return f"files/p10/p{10_000_000 + shot.variant}/s{50_000_000 + shot.number}"


def _nih_name(shot: Shot) -> str:
    return f"{20_000 + shot.variant:08d}_{shot.number:03d}.png"


def _sized(box: Box) -> Box:
    """A box xyxy as x, y, width, height."""
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1, y2 - y1


def _rsna(shot: Shot) -> Rows:
    """A label per box, as many detailed classes, and the NIH image, with the pool beside it."""
    name = image_name(shot)
    other = "No Lung Opacity / Not Normal" if shot.case.others else "Normal"
    for row in [(*_sized(box), 1) for box in shot.boxes] or [(None, None, None, None, 0)]:
        yield "stage_2_train_labels.csv", (name, *row)
        yield "stage_2_detailed_class_info.csv", (name, "Lung Opacity" if shot.boxes else other)
    yield "nih-of-rsna.csv", (name, _nih_name(shot), shot.pool)


def _mimic(shot: Shot) -> Rows:
    """Metadata, split, CheXpert-like labels, and the MS-CXR-like boxes outside of training."""
    name, side, case = image_name(shot), shot.side, shot.case
    subject, study = 10_000_000 + shot.variant, 50_000_000 + shot.number
    procedure = "CHEST (PORTABLE AP)" if shot.view == "AP" else "CHEST (PA AND LAT)"
    metadata = (name, subject, study, procedure, shot.view, side, side)
    yield "mimic-cxr-2.0.0-metadata.csv.gz", metadata
    yield "mimic-cxr-2.0.0-split.csv.gz", (name, study, subject, shot.pool)
    sick, normal = float(bool(case.opacities)), float(not (case.opacities or case.others))
    labels = (sick or None, None, normal or None, sick)
    yield "mimic-cxr-2.0.0-chexpert.csv.gz", (subject, study, *labels)
    if shot.pool != "train":
        for box, o in zip(shot.boxes, case.opacities, strict=True):
            phrase = f"{o.kind} opacity in the {o.side} {o.zone} zone"
            place = (f"{_study(shot)}/{name}.jpg", *_sized(box), side, side)
            yield "MS_CXR_Local_Alignment_v1.0.0.csv", (name, "Pneumonia", phrase, *place)


def _chestxray8(shot: Shot) -> Rows:
    """An entry, exactly one box per finding, and the name, since all images are test images.

    The box of a pneumonia is that of its largest opacity, in pixels of a 1024 x 1024 picture.
    """
    name, side = image_name(shot), 1024
    named = [(NIH_LABELS[o.kind], o) for o in shot.case.others if o.kind in NIH_LABELS]
    if shot.case.opacities:
        named = [("Pneumonia", max(shot.case.opacities, key=lambda o: o.area)), *named]
    labels = "|".join(label for label, _ in named) or "No Finding"
    patient = (20_000 + shot.variant, shot.age, shot.sex, shot.view)
    entry = (name, labels, shot.number, *patient, side, side, 0.168, 0.168)
    yield "Data_Entry_2017_v2020.csv", entry
    yield "test_list.txt", (name,)
    scale = side / shot.side
    for label, o in named:
        yield "BBox_List_2017.csv", (name, label, *(v * scale for v in _sized(o.box)))


def _covid(shot: Shot) -> Rows:
    """Metadata with the clinical note, and the severity scores."""
    name = image_name(shot)
    finding = "COVID-19" if shot.case.opacities else "No Finding"
    facts = (shot.variant, 0, shot.sex, shot.age, finding, shot.view)
    yield "metadata.csv", (*facts, "X-ray", "images", name, shot.text)
    yield "covid-severity-scores.csv", (name, shot.case.extent, shot.case.opacity)


ROWS = {"rsna": _rsna, "mimic": _mimic, "chestxray8": _chestxray8, "covid": _covid}


def write_tables(folder: Path, shots: list[Shot]) -> None:
    """Write the tables of all sets, rows in the order of the shots, gzipped where the name says so.

    Each begins with the first lines of the official table.
    """
    rows = defaultdict(list)
    for shot in shots:
        for name, row in ROWS[shot.set](shot):
            rows[name].append(row)
    for path, header in ((folder / place, header) for place, header in HEADERS.items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without the time that gzip would keep, so that the same table is the same file.
        raw = gzip.GzipFile(path, "wb", mtime=0) if path.suffix == ".gz" else path.open("wb")
        with TextIOWrapper(raw, "utf-8", newline="") as file:
            file.write(header)
            pd.DataFrame(rows[path.name]).to_csv(file, index=False, header=False)
