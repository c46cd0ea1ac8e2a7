"""MIMIC-CXR-JPG with its reports and the boxes of MS-CXR and of Tam et al. Credentialed data."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data.records import BOX_COLUMNS, REPORT_COLUMNS, SPLITS, Records
from pnloc.data.tables import PATH, XYWH, Ledger, Source, clean_boxes, column, numbers, walk
from pnloc.files import form, read_json

WHERE = "get MIMIC-CXR-JPG from PhysioNet (credentialed)"
METADATA = ["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"]
PNEUMONIA_LABELS = ["Pneumonia", "Consolidation", "Lung Opacity"]
MS_CXR = ("MS_CXR_Local_Alignment_v1.1.0.csv", "MS_CXR_Local_Alignment_v1.0.0.csv")
MS_CXR_COLUMNS = ["dicom_id", "category_name", "label_text", "path", *XYWH]


def read(folder: Path, reports: Path | None = None) -> Records:
    """Read the three tables, the frontal JPGs under `files/`, the report tree and the boxes.

    Origin: 377,110 radiographs of 227,835 studies of Beth Israel Deaconess Medical Center. Labels:
    CheXpert's, mined from the reports; splits train, validate, test. Access: credentialed, and
    nothing of an image or a report may leave the machine. Citation: Johnson et al. 2019; boxes:
    MS-CXR (Boecking et al. 2022) and MIMIC-CXR-annotations (Tam et al. 2020).

    reports: the tree of MIMIC-CXR (default: the folder `mimic-cxr` beside this one, or this one).
    MS-CXR lies in `ms-cxr` beside this folder, Tam et al.'s JSON in `mimic-cxr-annotations`.
    Lateral and unknown views are excluded. Sizes are those of the metadata: no image is opened. An
    image with boxes of both sources keeps those of MS-CXR.
    """
    source = Source("mimic", folder, WHERE, "credentialed")
    names = [f"mimic-cxr-2.0.0-{table}.csv" for table in ("metadata", "split", "chexpert")]
    paths = [source.need(f"{name}.gz", name) for name in names]
    ledger = _table(source, paths[0], METADATA)
    splits, labels = _splits(source, paths[1]), _labels(source, paths[2])
    metadata = ledger.table
    ledger.mark(~metadata["ViewPosition"].isin(["AP", "PA"]), "excluded")
    ledger.reject_names("dicom_id")
    ids = metadata[["subject_id", "study_id"]].fillna("")
    whole = ids.apply(lambda values: values.str.fullmatch("[0-9]+")).all(axis=1)
    ledger.reject(~whole, "{dicom_id}: subject_id or study_id is not a number")
    study, subject = "s" + ids["study_id"], "p" + ids["subject_id"]
    tree = "files/" + subject.str[:3] + "/" + subject + "/" + study
    file = tree + "/" + metadata["dicom_id"].fillna("") + ".jpg"
    present = {f"files/{place}" for place in walk(source.folder / "files", (".jpg",))}
    ledger.mark(~file.isin(present), "missing")
    sizes = numbers(metadata[["Columns", "Rows"]])
    ledger.reject(~(sizes >= 1).all(axis=1), "{dicom_id}: Rows or Columns is not a positive number")
    split = metadata["dicom_id"].map(splits.rows.set_index("dicom_id")["split"])
    ledger.reject(split.isna(), f"{{dicom_id}}: has no split in {paths[1].name}")
    images = metadata.rename(columns={"dicom_id": "image", "ViewPosition": "view"}).assign(
        path=f"{source.folder}/" + file,
        patient="mimic:" + metadata["subject_id"],
        study=study,
        width=sizes["Columns"],
        height=sizes["Rows"],
        label=metadata["study_id"].map(labels.rows.set_index("study_id")["label"]),
        split=split,
        tree=tree,
    )
    images = images[ledger.fate == "used"].astype({"width": int, "height": int})
    texts = _reports(source, reports, images)
    images["study"] = images["study"].where(images["study"].isin(texts.rows["study"]), "")
    boxes, box_fates = _boxes(source, images, ledger.fates("dicom_id"))
    source.unnamed(present, file, paths[0])
    why = "reports come with MIMIC-CXR, not with MIMIC-CXR-JPG"
    source.note(int((texts.fate == "missing").sum()), f"studies have no report file ({why})")
    fates = {"images": ledger.fate, "reports": texts.fate, "boxes": box_fates}
    fates |= {"labels": labels.fate, "splits": splits.fate}
    return source.records(images, fates, boxes=boxes, reports=texts.rows[REPORT_COLUMNS])


def _table(source: Source, path: Path, columns: list[str]) -> Ledger:
    """Some columns of a table; the others are not even held in memory."""
    return source.ledger(path, columns, usecols=lambda name: name in columns)


def _splits(source: Source, path: Path) -> Ledger:
    """dicom_id and split of the usable rows."""
    ledger = _table(source, path, ["dicom_id", "split"])
    ledger.reject_names("dicom_id")
    known = ledger.table["split"].isin(SPLITS)
    ledger.reject(~known, "{dicom_id}: split '{split}' is none of train, validate, test")
    return ledger


def _labels(source: Source, path: Path) -> Ledger:
    """study_id and label: 1 where CheXpert's labeller found an opacity, 0 where it found none.

    What is uncertain or not mentioned is NaN.
    """
    kinds = [*PNEUMONIA_LABELS, "No Finding"]
    ledger = _table(source, path, ["study_id", *kinds])
    ledger.reject_names("study_id")
    values = numbers(ledger.table[kinds])
    odd = (ledger.table[kinds].notna() & ~values.isin([1, 0, -1])).any(axis=1)
    ledger.reject(odd, "study {study_id}: a label is none of 1, 0, -1 and empty")
    findings = values[PNEUMONIA_LABELS]
    absent = (values["No Finding"] == 1) | (findings == 0).all(axis=1)
    present = (findings == 1).any(axis=1)
    ledger.table["label"] = np.where(present, 1.0, np.where(absent, 0.0, np.nan))
    return ledger


def _reports(source: Source, tree: Path | None, images: pd.DataFrame) -> Ledger:
    """study and text of the studies of some images; a study without a file is missing."""
    beside = source.folder.parent / "mimic-cxr"
    tree = tree or (beside if beside.is_dir() else source.folder)
    studies = images[["study", "tree"]].drop_duplicates("study").reset_index(drop=True)
    ledger, texts, problems = Ledger(tree, studies, source.quarantine), {}, {}
    for index, place in studies["tree"].items():
        path = f"{tree}/{place}.txt"
        try:
            with open(path, "rb") as stream:
                texts[index] = stream.read().decode("utf-8-sig")
        except FileNotFoundError:
            pass
        except (UnicodeDecodeError, OSError) as error:
            problems[index] = (path, f"report not readable ({error})")
    ledger.reject_files(problems)
    ledger.table["text"] = pd.Series(texts, dtype=object)
    ledger.mark(ledger.table["text"].isna(), "missing")
    return ledger


def _boxes(
    source: Source, images: pd.DataFrame, fates: dict[str, str]
) -> tuple[pd.DataFrame, pd.Series]:
    """Boxes in pixels of the full-size image from both sources, and the fates of their rows."""
    ms_cxr, tam = (source.folder.parent / name for name in ("ms-cxr", "mimic-cxr-annotations"))
    parts, ledgers, boxed = [], [], {}
    for name in [name for name in MS_CXR if (ms_cxr / name).exists()][:1]:
        ledgers.append(read_ms_cxr(source, ms_cxr / name, images))
        parts.append(clean_boxes(ledgers[-1], images, fates))
        boxed = dict.fromkeys(parts[-1]["image"], "excluded")
    for path in sorted(tam.glob("*.json")):
        ledgers.append(read_tam(source, path))
        parts.append(clean_boxes(ledgers[-1], images, fates | boxed))
    if not ledgers:
        holds = f"{ms_cxr.name}/ holds none of {', '.join(MS_CXR)}, and {tam.name}/ no *.json"
        source.notes.append(f"no boxes: {holds}")
        return pd.DataFrame(columns=BOX_COLUMNS), pd.Series(dtype=object)
    return pd.concat(parts), pd.concat([ledger.fate for ledger in ledgers])


def read_ms_cxr(source: Source, path: Path, images: pd.DataFrame) -> Ledger:
    """Boxes of MS-CXR 1.0 or 1.1, one row per box; a phrase is (image, text).

    Its column split, which 1.0 lacks, is not read: the split of MIMIC-CXR holds. Boxes of another
    size than the image has (image_width, image_height) are scaled to it.
    """
    ledger = source.ledger(path, MS_CXR_COLUMNS)
    table = ledger.table
    stem = table["path"].fillna("").str.rpartition("/")[2].str.removesuffix(".jpg")
    problem = np.where(stem == table["dicom_id"], "", "path names another image")
    sizes = images.set_index("image")
    for side, axes in (("width", ["x", "w"]), ("height", ["y", "h"])):
        own = table["dicom_id"].map(sizes[side]).astype(float)
        drawn = numbers(column(table, f"image_{side}"))
        factor = (own / drawn.where(drawn > 0)).fillna(1.0)
        table[axes] = numbers(table[axes]).mul(factor, axis=0)
    ledger.table = table[XYWH].assign(
        image=table["dicom_id"],
        label=table["category_name"].fillna(""),
        text=table["label_text"].fillna(""),
        problem=problem,
    )
    return ledger


def read_tam(source: Source, path: Path) -> Ledger:
    """Boxes of the MIMIC-CXR-annotations of Tam et al. (COCO JSON).

    The text of a box is what `label_text` marks in the image's `report`. Missing parts of an
    annotation become empty values, for which `clean_boxes` quarantines the box.
    """
    rows, content = [], read_json(path)
    with form(path, "not COCO JSON with images, categories and annotations"):
        pictures = {image["id"]: image for image in content["images"]}
        kinds = {c["id"]: str(c["name"]).strip().capitalize() for c in content["categories"]}
        for annotation in content["annotations"]:
            picture = pictures.get(annotation.get("image_id"), {})
            file = str(picture.get("file_name", ""))
            image = "" if re.search(PATH, file) else file.rpartition(".")[0]
            box = annotation.get("bbox")
            box = box if isinstance(box, list) and len(box) == 4 else [np.nan] * 4
            box = [value if type(value) in (int, float) else np.nan for value in box]
            kind = kinds.get(annotation.get("category_id"), "")
            rows.append((image, *box, kind, _phrase({**picture, **annotation})))
    table = pd.DataFrame(rows, columns=["image", *XYWH, "label", "text"])
    return Ledger(path, table, source.quarantine, first=1)


def _phrase(annotation: dict) -> str:
    """The parts of `report` that the offsets in `label_text` mark, joined by '; '.

    '' where either is missing or has another form.
    """
    report, marks = annotation.get("report"), annotation.get("label_text")
    if not isinstance(report, str) or not isinstance(marks, list):
        return ""
    parts = [report[slice(*_span(mark))].strip() for mark in marks]
    return "; ".join(part for part in parts if part)


def _span(mark: object) -> tuple[int, int]:
    """Start and end of a mark, an object or a pair; (0, 0) for any other form."""
    pair = [mark.get("start"), mark.get("end")] if isinstance(mark, dict) else mark
    pair = pair[:2] if isinstance(pair, list) else []
    whole = len(pair) == 2 and all(type(value) is int and value >= 0 for value in pair)
    return tuple(pair) if whole else (0, 0)
