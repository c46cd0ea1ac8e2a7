"""MIMIC-CXR-JPG with the reports of MIMIC-CXR and the boxes of MS-CXR and of Tam et al. Credentialed data."""

from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data.records import FATES, REPORT_COLUMNS, SPLITS, Records
from pnloc.data.tables import (
    Ledger,
    Quarantine,
    access,
    assemble,
    clean_boxes,
    lines_of,
    need,
    no_boxes,
    numbers,
    plain,
    read_rows,
    unnamed,
    walk,
)
from pnloc.errors import PnlocError
from pnloc.files import read_json

WHERE = "get MIMIC-CXR-JPG from PhysioNet (credentialed)"
PNEUMONIA_LABELS = ("Pneumonia", "Consolidation", "Lung Opacity")
MS_CXR = ("MS_CXR_Local_Alignment_v1.1.0.csv", "MS_CXR_Local_Alignment_v1.0.0.csv")
BOX_ROWS = ["image", "x", "y", "w", "h", "line", "label", "text"]


def read(
    folder: Path, reports: Path | None = None, ms_cxr: Path | None = None, tam: Path | None = None
) -> Records:
    """Read the three tables, the frontal JPGs under `files/`, the report tree and the boxes.

    Origin: 377,110 radiographs of 227,835 studies of Beth Israel Deaconess Medical Center. Labels: CheXpert's, mined from the reports; splits train,
    validate, test. Access: credentialed, and nothing of an image or a report may leave the machine. Citation: Johnson et al. 2019; boxes:
    MS-CXR (Boecking et al. 2022) and MIMIC-CXR-annotations (Tam et al. 2020).

    reports: the tree of MIMIC-CXR (default: the folder `mimic-cxr` beside this one, or this one); ms_cxr: the folder of MS-CXR (default:
    `ms-cxr` beside this one); tam: the folder of Tam et al.'s JSON (default: `mimic-cxr-annotations` beside this one). Lateral and
    unknown views are excluded. Sizes are those of the metadata: no image is opened. An image with boxes of both sources keeps those of MS-CXR.
    """
    folder, quarantine = Path(folder), Quarantine()
    tables = {
        t: need(folder, f"mimic-cxr-2.0.0-{t}.csv.gz", f"mimic-cxr-2.0.0-{t}.csv", where=WHERE)
        for t in ("metadata", "split", "chexpert")
    }
    needed = ["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"]
    metadata = read_rows(tables["metadata"], needed, usecols=lambda c: c in needed)
    splits, split_rows = _splits(tables["split"], quarantine)
    labels, label_rows = _labels(tables["chexpert"], quarantine)
    ledger = Ledger(tables["metadata"], metadata, quarantine)
    name = metadata["dicom_id"].astype(object)
    ledger.exclude(~metadata["ViewPosition"].isin(["AP", "PA"]))
    ledger.reject_names("dicom_id")
    whole = (
        metadata[["subject_id", "study_id"]]
        .fillna("")
        .apply(lambda c: c.str.fullmatch("[0-9]+"))
        .all(axis=1)
    )
    ledger.reject(~whole, "{dicom_id}: subject_id or study_id is not a number")
    study = "s" + metadata["study_id"].fillna("")
    subject = "p" + metadata["subject_id"].fillna("")
    tree = "files/" + subject.str[:3] + "/" + subject + "/" + study
    relative = tree + "/" + metadata["dicom_id"].fillna("") + ".jpg"
    present = {f"files/{place}" for place in walk(folder / "files", (".jpg",))}
    ledger.miss(~relative.isin(present))
    sizes = metadata[["Columns", "Rows"]].apply(numbers).astype(float)
    ledger.reject(~(sizes >= 1).all(axis=1), "{dicom_id}: Rows or Columns is not a positive number")
    ledger.reject(~name.isin(splits), f"{{dicom_id}}: has no split in {tables['split'].name}")
    used = ledger.rows
    images = pd.DataFrame(
        {
            "image": used["dicom_id"],
            "path": str(folder) + "/" + relative[used.index],
            "patient": "mimic:" + used["subject_id"],
            "study": study[used.index],
            "view": used["ViewPosition"],
            "width": sizes.loc[used.index, "Columns"].astype(int),
            "height": sizes.loc[used.index, "Rows"].astype(int),
            "label": used["study_id"].astype(object).map(labels).astype(float),
            "split": used["dicom_id"].astype(object).map(splits),
        }
    )
    studies = pd.DataFrame({"study": images["study"], "tree": tree[used.index]}).drop_duplicates(
        "study"
    )
    texts, report_rows = _reports(reports or _beside(folder, "mimic-cxr"), studies, quarantine)
    images["study"] = images["study"].where(images["study"].isin(texts["study"]), "")
    fates = ledger.fates("dicom_id")
    folders = (ms_cxr or folder.parent / "ms-cxr", tam or folder.parent / "mimic-cxr-annotations")
    boxes, box_rows, notes = _boxes(*folders, images, fates, quarantine)
    notes += unnamed(present, relative, tables["metadata"])
    without = report_rows["missing"]
    if without:
        notes.append(
            f"{without} studies have no report file (reports come with MIMIC-CXR, not with MIMIC-CXR-JPG)"
        )
    tally = {
        "images": ledger.counts(),
        "reports": report_rows,
        "boxes": box_rows,
        "labels": label_rows,
        "splits": split_rows,
    }
    return assemble(
        "mimic",
        access(folder, "credentialed"),
        images,
        boxes,
        texts,
        quarantine,
        tally=tally,
        notes=notes,
    )


def _beside(folder: Path, name: str) -> Path:
    return folder.parent / name if (folder.parent / name).is_dir() else folder


def _splits(path: Path, quarantine: Quarantine) -> tuple[dict[str, str], dict[str, int]]:
    """dicom_id -> split, and the counts of the rows."""
    table = read_rows(path, ["dicom_id", "split"], usecols=lambda c: c in ("dicom_id", "split"))
    ledger = Ledger(path, table, quarantine)
    ledger.reject_names("dicom_id")
    ledger.reject(
        ~table["split"].isin(SPLITS), "{dicom_id}: split '{split}' is none of train, validate, test"
    )
    rows = ledger.rows
    return dict(zip(rows["dicom_id"], rows["split"], strict=True)), ledger.counts()


def _labels(path: Path, quarantine: Quarantine) -> tuple[dict[str, float], dict[str, int]]:
    """study_id -> 1 where CheXpert's labeller found an opacity, 0 where it found none, else NaN (uncertain, not mentioned); counts."""
    needed = ["study_id", *PNEUMONIA_LABELS, "No Finding"]
    table = read_rows(path, needed, usecols=lambda c: c in needed)
    ledger = Ledger(path, table, quarantine)
    ledger.reject_names("study_id")
    values = table[needed[1:]].apply(numbers).astype(float)
    odd = (table[needed[1:]].notna() & ~values.isin([1, 0, -1])).any(axis=1)
    ledger.reject(odd, "study {study_id}: a label is none of 1, 0, -1 and empty")
    rows = ledger.rows
    values = values.loc[rows.index]
    findings = values[list(PNEUMONIA_LABELS)]
    present = (findings == 1).any(axis=1)
    absent = (values["No Finding"] == 1) | (findings == 0).all(axis=1)
    found = np.where(present, 1.0, np.where(absent, 0.0, np.nan))
    return dict(zip(rows["study_id"], found, strict=True)), ledger.counts()


def _reports(
    tree: Path, studies: pd.DataFrame, quarantine: Quarantine
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Report texts of some studies, and the counts of the studies."""
    rows, missing = [], 0
    for name, place in zip(studies["study"], studies["tree"], strict=True):
        path = f"{tree}/{place}.txt"
        try:
            with open(path, "rb") as stream:
                rows.append((name, stream.read().decode("utf-8-sig")))
        except FileNotFoundError:
            missing += 1
        except (UnicodeDecodeError, OSError) as error:
            quarantine.add(path, 0, f"report not readable ({error})")
    counts = {"rows": len(studies), "used": len(rows), "missing": missing, "excluded": 0}
    counts["quarantined"] = len(studies) - len(rows) - missing
    return pd.DataFrame(rows, columns=REPORT_COLUMNS), counts


def _boxes(
    ms_cxr: Path, tam: Path, images: pd.DataFrame, fates: dict[str, str], quarantine: Quarantine
) -> tuple[pd.DataFrame, dict[str, int], list[str]]:
    """Boxes in pixels of the full-size image from both sources, the counts of their rows, and notes."""
    found, counts, notes = [], dict.fromkeys(("rows", *FATES), 0), []
    path = next((ms_cxr / name for name in MS_CXR if (ms_cxr / name).exists()), None)
    sources = [read_ms_cxr(path, images, fates, quarantine)] if path else []
    boxed = set(sources[0][0]["image"]) if sources else set()
    sources += [
        read_tam(path, images, fates, quarantine, boxed)
        for path in (sorted(tam.glob("*.json")) if tam.is_dir() else [])
    ]
    for boxes, ledger in sources:
        found.append(boxes)
        counts = {key: counts[key] + value for key, value in ledger.counts().items()}
    if not sources:
        notes.append(
            f"no boxes: {ms_cxr.name}/ holds none of {', '.join(MS_CXR)}, and {tam.name}/ no *.json"
        )
    return pd.concat(found, ignore_index=True) if found else no_boxes(), counts, notes


def read_ms_cxr(
    path: Path, images: pd.DataFrame, fates: dict[str, str], quarantine: Quarantine
) -> tuple[pd.DataFrame, Ledger]:
    """Boxes of MS-CXR 1.0 or 1.1, one row per box, and the ledger of the rows; a phrase is (image, text).

    Its column split, which 1.0 lacks, is not read: the split of MIMIC-CXR holds. Boxes of another size than the image has
    (image_width, image_height) are scaled to it.
    """
    table = read_rows(path, ["dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h"])
    table = table.rename(
        columns={"dicom_id": "image", "category_name": "label", "label_text": "text"}
    )
    table = table.assign(
        line=lines_of(table), label=table["label"].fillna(""), text=table["text"].fillna("")
    )
    stem = table["path"].fillna("").map(lambda p: p.rpartition("/")[2].removesuffix(".jpg"))
    table["problem"] = np.where(stem == table["image"], "", "path names another image")
    extent = images.set_index("image")[["width", "height"]]
    for side, given, axes in (("width", "image_width", "xw"), ("height", "image_height", "yh")):
        own = table["image"].astype(object).map(extent[side]).astype(float)
        factor = (
            (own / numbers(table[given]).where(lambda n: n > 0)).fillna(1.0)
            if given in table
            else 1.0
        )
        for axis in axes:
            table[axis] = numbers(table[axis]) * factor
    return clean_boxes(table[[*BOX_ROWS, "problem"]], images, fates, path, quarantine)


def read_tam(
    path: Path,
    images: pd.DataFrame,
    fates: dict[str, str],
    quarantine: Quarantine,
    boxed: set[str] = frozenset(),
) -> tuple[pd.DataFrame, Ledger]:
    """Boxes of the MIMIC-CXR-annotations of Tam et al. (COCO JSON), and the ledger of the annotations.

    Annotations of the images in `boxed` are excluded. The text of a box is what `label_text` marks in the image's `report`.
    """
    content = read_json(path)
    try:
        pictures = {i["id"]: i for i in content["images"]}
        kinds = {c["id"]: str(c["name"]).strip().capitalize() for c in content["categories"]}
        rows = [_annotation(a, pictures, kinds, n) for n, a in enumerate(content["annotations"], 1)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PnlocError(
            f"{path}: not COCO JSON with images, categories and annotations ({error})"
        ) from None
    table = pd.DataFrame(rows, columns=BOX_ROWS)
    fates = {**fates, **dict.fromkeys(boxed, "excluded")}
    return clean_boxes(table, images, fates, Path(path), quarantine)


def _annotation(annotation: dict, pictures: dict, kinds: dict, number: int) -> tuple:
    """One row of boxes; what it names and is not there becomes empty, which `clean_boxes` puts into quarantine."""
    picture = pictures.get(annotation.get("image_id"), {})
    file = str(picture.get("file_name", ""))
    name = file.rpartition(".")[0] if plain(file) else ""
    box = annotation.get("bbox")
    box = box if isinstance(box, list) and len(box) == 4 else [np.nan] * 4
    box = [v if isinstance(v, int | float) and not isinstance(v, bool) else np.nan for v in box]
    return (
        name,
        *box,
        number,
        kinds.get(annotation.get("category_id"), ""),
        _phrase(annotation, picture),
    )


def _phrase(annotation: dict, picture: dict) -> str:
    """What the offsets of `label_text` mark in `report`, joined by '; ' ('' where either is absent or of another form)."""
    report = annotation.get("report", picture.get("report"))
    marks = annotation.get("label_text", picture.get("label_text"))
    if not isinstance(report, str) or not isinstance(marks, list):
        return ""
    spans = [_span(mark) for mark in marks]
    parts = [report[start:end].strip() for start, end in spans]
    return "; ".join(part for part in parts if part)


def _span(mark: object) -> tuple[int, int]:
    """Start and end of a mark, written as an object or as a pair; (0, 0) for any other form."""
    pair = (mark.get("start"), mark.get("end")) if isinstance(mark, dict) else mark
    good = (
        isinstance(pair, list | tuple)
        and len(pair) >= 2
        and all(type(v) is int and v >= 0 for v in pair[:2])
    )
    return (pair[0], pair[1]) if good else (0, 0)
