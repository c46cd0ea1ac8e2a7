"""Writers of the official layouts: what the readers of pnloc.data.readers read, with names and quirks of the real sets.

A `Shot` is one generated image with its truth; each `write_*` writes one set from its shots.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from pnloc.data.demo.lesions import Case

OFFICIAL_SIDE = 1024  # of NIH's PNG files, in which its boxes are given
SEVERITY_HEAD = (
    "## Severity scores of generated radiographs, exact by the definition of Cohen et al. 2020\n"
    "## License: as the project\n"
    "## Citation: http://arxiv.org/abs/2005.11856 (definition)\n"
    "## geographic_extent_mean: share of each lung with opacity, 0 to 4 per lung, 0 to 8 in all\n"
    "## opacity_mean: degree of opacity, 0 to 3 per lung, 0 to 6 in all\n"
)


@dataclass(frozen=True)
class Shot:
    """One image: its number in the set, variant, pool, picture uint8 [S, S], S, truth, boxes to publish, report, view, person."""

    number: int
    variant: int
    pool: str
    picture: np.ndarray
    side: int
    case: Case
    boxes: list[tuple[float, float, float, float]]
    text: str
    view: str
    sex: str
    age: int


def identifier(*parts: object) -> str:
    """A name in the form of a UUID that depends on the parts alone."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, parts))))


def save_image(folder: Path, kind: str, shot: Shot) -> str:
    """Write a shot's image where its set wants it; returns the file's name without folder."""
    return {"rsna": _dicom, "mimic": _mimic_jpeg, "chestxray8": _nih_png, "covid": _covid_image}[
        kind
    ](folder, shot)


def _dicom(folder: Path, shot: Shot) -> str:
    name = identifier("rsna", shot.number, shot.variant)
    data, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"2.25.{uuid.UUID(name).int}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    data.PatientID, data.PatientSex, data.PatientAge = name, shot.sex, f"{shot.age:03d}Y"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "CR", "CHEST", shot.view
    data.Rows, data.Columns = shot.picture.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = shot.picture.tobytes()
    path = folder / "rsna-pneumonia-detection-challenge" / "stage_2_train_images" / f"{name}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return name


def _save(path: Path, picture: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)


def mimic_names(shot: Shot) -> tuple[int, int, str, str]:
    """subject_id, study_id, dicom_id and the study's folder under files/."""
    subject, study = 10_000_000 + shot.variant, 50_000_000 + shot.number
    return (
        subject,
        study,
        identifier("mimic", shot.number),
        f"files/p{str(subject)[:2]}/p{subject}/s{study}",
    )


def _mimic_jpeg(folder: Path, shot: Shot) -> str:
    _, _, name, place = mimic_names(shot)
    _save(folder / "mimic-cxr-jpg" / place / f"{name}.jpg", shot.picture, quality=92)
    return name


def _nih_png(folder: Path, shot: Shot) -> str:
    name = f"{20_000 + shot.variant:08d}_{shot.number:03d}.png"
    _save(folder / "ChestX-ray8" / "images" / name, shot.picture)
    return name


def _covid_image(folder: Path, shot: Shot) -> str:
    name = f"generated-{shot.number:04d}.{'png' if shot.number % 2 else 'jpg'}"
    _save(folder / "covid-chestxray-dataset" / "images" / name, shot.picture)
    return name


def write_rsna(folder: Path, shots: list[Shot], names: list[str]) -> None:
    """Labels with one row per box, detailed classes, and the mapping to NIH images (with the pool as a fourth column)."""
    labels, classes, mapping = [], [], []
    for shot, name in zip(shots, names, strict=True):
        rows = [(x1, y1, x2 - x1, y2 - y1, 1) for x1, y1, x2, y2 in shot.boxes] or [
            (None, None, None, None, 0)
        ]
        labels += [(name, *row) for row in rows]
        kind = (
            "Lung Opacity"
            if shot.boxes
            else "No Lung Opacity / Not Normal"
            if shot.case.others
            else "Normal"
        )
        classes += [(name, kind)] * len(rows)
        mapping.append((name, f"{20_000 + shot.variant:08d}_{shot.number:03d}.png", shot.pool))
    home = folder / "rsna-pneumonia-detection-challenge"
    _table(
        home / "stage_2_train_labels.csv",
        labels,
        ["patientId", "x", "y", "width", "height", "Target"],
    )
    _table(home / "stage_2_detailed_class_info.csv", classes, ["patientId", "class"])
    _table(home / "nih-of-rsna.csv", mapping, ["patientId", "nih_image", "split"])


def write_mimic(folder: Path, shots: list[Shot], names: list[str]) -> None:
    """Metadata, splits, CheXpert-like labels, the report tree, and MS-CXR-like boxes of validation and test studies."""
    metadata, splits, chexpert, boxes = [], [], [], []
    for shot, name in zip(shots, names, strict=True):
        subject, study, _, place = mimic_names(shot)
        height = width = shot.side
        metadata.append(
            (
                name,
                subject,
                study,
                "CHEST (PORTABLE AP)" if shot.view == "AP" else "CHEST (PA AND LAT)",
                shot.view,
                height,
                width,
            )
        )
        splits.append((name, study, subject, shot.pool))
        sick = bool(shot.case.opacities)
        chexpert.append(
            (
                subject,
                study,
                1.0 if sick else None,
                None,
                None if sick or shot.case.others else 1.0,
                1.0 if sick else 0.0,
            )
        )
        path = folder / "mimic-cxr" / f"{place}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shot.text, encoding="utf-8")
        if shot.pool != "train":
            for (x1, y1, x2, y2), opacity in zip(shot.boxes, shot.case.opacities, strict=True):
                phrase = f"{opacity.kind} opacity in the {opacity.side} {opacity.zone} zone"
                boxes.append(
                    (
                        name,
                        "Pneumonia",
                        phrase,
                        f"{place}/{name}.jpg",
                        x1,
                        y1,
                        x2 - x1,
                        y2 - y1,
                        width,
                        height,
                    )
                )
    home = folder / "mimic-cxr-jpg"
    columns = [
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
        "Columns",
    ]
    _table(home / "mimic-cxr-2.0.0-metadata.csv.gz", metadata, columns)
    _table(
        home / "mimic-cxr-2.0.0-split.csv.gz",
        splits,
        ["dicom_id", "study_id", "subject_id", "split"],
    )
    names = ["subject_id", "study_id", "Lung Opacity", "Consolidation", "No Finding", "Pneumonia"]
    _table(home / "mimic-cxr-2.0.0-chexpert.csv.gz", chexpert, names)
    columns = [
        "dicom_id",
        "category_name",
        "label_text",
        "path",
        "x",
        "y",
        "w",
        "h",
        "image_width",
        "image_height",
    ]
    _table(folder / "ms-cxr" / "MS_CXR_Local_Alignment_v1.0.0.csv", boxes, columns)


def write_chestxray8(folder: Path, shots: list[Shot], names: list[str]) -> None:
    """Data_Entry, the box list with its odd header and exactly one box per finding, and the test list.

    The box of a pneumonia is that of its largest opacity; boxes are pixels of a 1024 x 1024 picture.
    """
    entries, boxes = [], []
    title = {"effusion": "Effusion", "atelectasis": "Atelectasis", "nodule": "Nodule"}
    for shot, name in zip(shots, names, strict=True):
        scale = OFFICIAL_SIDE / shot.side
        labels = ["Pneumonia"] * bool(shot.case.opacities) + [
            title[o.kind] for o in shot.case.others if o.kind in title
        ]
        entries.append(
            (
                name,
                "|".join(labels) or "No Finding",
                shot.number,
                20_000 + shot.variant,
                shot.age,
                shot.sex,
                shot.view,
                OFFICIAL_SIDE,
                OFFICIAL_SIDE,
                0.168,
                0.168,
            )
        )
        if shot.case.opacities:
            largest = max(shot.case.opacities, key=lambda o: o.area)
            boxes.append((name, "Pneumonia", largest.box, scale))
        boxes += [(name, title[o.kind], o.box, scale) for o in shot.case.others if o.kind in title]
    home = folder / "ChestX-ray8"
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    _lines(home / "Data_Entry_2017_v2020.csv", header, entries)
    rows = [
        (n, label, *(v * s for v in (x1, y1, x2 - x1, y2 - y1)))
        for n, label, (x1, y1, x2, y2), s in boxes
    ]
    _lines(home / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", rows)
    (home / "test_list.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def write_covid(folder: Path, shots: list[Shot], names: list[str]) -> None:
    """metadata.csv with clinical notes, and the severity scores with their comment lines."""
    rows, scores = [], []
    for shot, name in zip(shots, names, strict=True):
        finding = "COVID-19" if shot.case.opacities else "No Finding"
        rows.append(
            (
                shot.variant,
                0,
                shot.sex,
                shot.age,
                finding,
                shot.view,
                "X-ray",
                "images",
                name,
                shot.text,
            )
        )
        scores.append((name, shot.case.extent, shot.case.opacity))
    home = folder / "covid-chestxray-dataset"
    columns = [
        "patientid",
        "offset",
        "sex",
        "age",
        "finding",
        "view",
        "modality",
        "folder",
        "filename",
        "clinical_notes",
    ]
    _table(home / "metadata.csv", rows, columns)
    (home / "annotations").mkdir(parents=True, exist_ok=True)
    body = pd.DataFrame(scores, columns=["filename", "geographic_mean", "opacity_mean"]).to_csv(
        index=False
    )
    (home / "annotations" / "covid-severity-scores.csv").write_text(
        SEVERITY_HEAD + body, encoding="utf-8"
    )


WRITERS = {
    "rsna": write_rsna,
    "mimic": write_mimic,
    "chestxray8": write_chestxray8,
    "covid": write_covid,
}


def _table(path: Path, rows: list[tuple], columns: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the time that gzip would keep, so that the same table is the same file.
    compression = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False, compression=compression)


def _lines(path: Path, header: str, rows: list[tuple]) -> None:
    """A CSV whose header does not name its columns one by one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "\n".join([header, *(",".join(str(v) for v in row) for row in rows)]) + "\n",
        encoding="utf-8",
    )
