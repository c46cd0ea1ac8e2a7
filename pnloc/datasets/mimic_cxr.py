"""MIMIC-CXR-JPG with the reports of MIMIC-CXR and the boxes of MS-CXR or of Tam et al. Credentialed data."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.datasets.common import Quarantine, access, assemble, clean_boxes, doubled, lines_of, need, no_boxes
from pnloc.errors import PnlocError
from pnloc.files import read_csv, read_json
from pnloc.records import REPORT_COLUMNS, Records

WHERE = "get MIMIC-CXR-JPG from PhysioNet (credentialed)"
PNEUMONIA_LABELS = ("Pneumonia", "Consolidation", "Lung Opacity")
MS_CXR = ("MS_CXR_Local_Alignment_v1.1.0.csv", "MS_CXR_Local_Alignment_v1.0.0.csv")


def read(folder: Path, reports: Path | None = None, ms_cxr: Path | None = None) -> Records:
    """Read the three tables, the frontal JPGs under `files/`, the report tree and the boxes.

    Origin: 377,110 radiographs of 227,835 studies of Beth Israel Deaconess Medical Center. Labels: CheXpert's, mined from the reports; splits train,
    validate, test. Access: credentialed, and nothing of an image or a report may leave the machine. Citation: Johnson et al. 2019; boxes:
    MS-CXR (Boecking et al. 2022).

    reports: the tree of MIMIC-CXR (default: the folder `mimic-cxr` beside this one, or this one); ms_cxr: the folder of MS-CXR (default:
    `ms-cxr` beside this one). Lateral and unknown views are excluded.
    """
    folder, quarantine = Path(folder), Quarantine()
    tables = {
        t: need(folder, f"mimic-cxr-2.0.0-{t}.csv.gz", f"mimic-cxr-2.0.0-{t}.csv", where=WHERE)
        for t in ("metadata", "split", "chexpert")
    }
    ids = {"dicom_id": str, "subject_id": "Int64", "study_id": "Int64"}
    metadata = read_csv(
        tables["metadata"], ["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"], dtype=ids
    )
    total = len(metadata)
    metadata = doubled(metadata.assign(line=lines_of(metadata)), "dicom_id", tables["metadata"], quarantine)
    splits = read_csv(tables["split"], ["dicom_id", "split"], dtype=ids)
    splits = doubled(splits, "dicom_id", tables["split"], quarantine)
    frontal = metadata["ViewPosition"].isin(["AP", "PA"])
    excluded = int((~frontal).sum())
    metadata = metadata[frontal].merge(splits[["dicom_id", "split"]], on="dicom_id", how="left")
    metadata["label"] = metadata["study_id"].map(_labels(tables["chexpert"]))
    present = _walk(folder / "files", ".jpg")
    subject, study = "p" + metadata["subject_id"].astype(str), "s" + metadata["study_id"].astype(str)
    relative = "files/" + subject.str[:3] + "/" + subject + "/" + study
    metadata = metadata.assign(study=study, tree=relative, relative=relative + "/" + metadata["dicom_id"] + ".jpg")
    here = metadata["relative"].isin(present)
    missing = int((~here).sum())
    metadata = metadata[here]
    sizes = metadata[["Columns", "Rows"]].apply(pd.to_numeric, errors="coerce")
    for name, line in metadata.loc[~(sizes > 0).all(axis=1), ["dicom_id", "line"]].itertuples(index=False):
        quarantine.add(tables["metadata"], line, f"{name}: Rows or Columns is not a positive number")
    metadata = metadata[(sizes > 0).all(axis=1)]
    images = pd.DataFrame(
        {
            "image": metadata["dicom_id"],
            "path": str(folder) + "/" + metadata["relative"],
            "patient": "mimic:" + metadata["subject_id"].astype(str),
            "study": metadata["study"],
            "view": metadata["ViewPosition"],
            "width": metadata["Columns"].astype(int),
            "height": metadata["Rows"].astype(int),
            "label": metadata["label"].astype(float),
            "split": metadata["split"].fillna("train"),
        }
    )
    texts, without = _reports(reports or _beside(folder, "mimic-cxr"), metadata.drop_duplicates("study"), quarantine)
    images["study"] = images["study"].where(images["study"].isin(texts["study"]), "")
    boxes, notes = _boxes(ms_cxr or folder.parent / "ms-cxr", images, quarantine)
    if without:
        notes.append(f"{without} studies have no report file (reports come with MIMIC-CXR, not with MIMIC-CXR-JPG)")
    return assemble(
        "mimic", access(folder, "credentialed"), images, boxes, texts, quarantine,
        rows=total, missing=missing, excluded=excluded, notes=notes,
    )  # fmt: skip


def _beside(folder: Path, name: str) -> Path:
    return folder.parent / name if (folder.parent / name).is_dir() else folder


def _walk(folder: Path, suffix: str) -> set[str]:
    """Paths of all files with a suffix under a folder, relative to its parent; quicker than asking for each."""
    found = set()
    for root, _, names in os.walk(folder):
        place = os.path.relpath(root, folder.parent).replace(os.sep, "/")
        found.update(f"{place}/{name}" for name in names if name.endswith(suffix))
    return found


def _labels(path: Path) -> dict[int, float]:
    """study_id -> 1 where CheXpert's labeller found an opacity, 0 where it found none, else NaN (uncertain, not mentioned)."""
    table = read_csv(path, ["study_id", *PNEUMONIA_LABELS, "No Finding"])
    columns = table[list(PNEUMONIA_LABELS)].apply(pd.to_numeric, errors="coerce")
    present = (columns == 1).any(axis=1)
    absent = (pd.to_numeric(table["No Finding"], errors="coerce") == 1) | (columns == 0).all(axis=1)
    return dict(zip(table["study_id"], np.where(present, 1.0, np.where(absent, 0.0, np.nan)), strict=True))


def _reports(tree: Path, studies: pd.DataFrame, quarantine: Quarantine) -> tuple[pd.DataFrame, int]:
    """Report texts of some studies, and how many have no file."""
    rows, without = [], 0
    for name, place in zip(studies["study"], studies["tree"], strict=True):
        path = tree / f"{place}.txt"
        try:
            rows.append((name, path.read_bytes().decode("utf-8")))
        except FileNotFoundError:
            without += 1
        except (UnicodeDecodeError, OSError) as error:
            quarantine.add(path, 0, f"report not readable ({error})")
    return pd.DataFrame(rows, columns=REPORT_COLUMNS), without


def _boxes(folder: Path, images: pd.DataFrame, quarantine: Quarantine) -> tuple[pd.DataFrame, list[str]]:
    """Boxes of MS-CXR, one row per box, in pixels of the full-size image."""
    path = next((folder / name for name in MS_CXR if (folder / name).exists()), None)
    if path is None:
        return no_boxes(), [f"no boxes: {folder.name}/ holds none of {', '.join(MS_CXR)}"]
    table = read_csv(path, ["dicom_id", "category_name", "label_text", "x", "y", "w", "h"], dtype={"dicom_id": str})
    table = table.rename(columns={"dicom_id": "image", "category_name": "label", "label_text": "text"})
    return clean_boxes(table.assign(line=lines_of(table)), images, path, quarantine), []


def read_tam(path: Path, images: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Boxes (columns of Records) and quarantine of the MIMIC-CXR-annotations of Tam et al. (COCO JSON) for image rows of a set."""
    content, quarantine = read_json(path), Quarantine()
    try:
        names = {i["id"]: Path(i["file_name"]).stem for i in content["images"]}
        kinds = {c["id"]: c["name"] for c in content["categories"]}
        rows = [
            (names[a["image_id"]], *a["bbox"], n, kinds[a["category_id"]], "")
            for n, a in enumerate(content["annotations"], 1)
        ]
        table = pd.DataFrame(rows, columns=["image", "x", "y", "w", "h", "line", "label", "text"])
    except (KeyError, TypeError, ValueError) as error:
        raise PnlocError(f"{path}: not COCO JSON with images, categories and annotations ({error})") from None
    return clean_boxes(table, images, Path(path), quarantine), quarantine.table()
