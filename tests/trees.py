"""Small data sets in the official layouts: builders that take rows, and a sound tree of each."""

import gzip
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from test_images import save_dicom

from pnloc.data.readers import FOLDERS

DATA = Path(__file__).parents[2] / "shared" / "data"
SETS = ("rsna", "chestxray8", "covid19", "mimic", "rocov2")
RSNA, NIH, COVID, MIMIC, ROCO = (FOLDERS[name] for name in SETS)
TEXTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
RSNA_HEADER, NIH_HEADER, COVID_HEADER, BRIXIA_HEADER, MS_CXR_HEADER = TEXTS["headers"].values()
MIMIC_HEADERS, OPENI = TEXTS["mimic"], TEXTS["openi"]
RSNA_LABELS = "stage_2_train_labels.csv"
NIH_ENTRIES, NIH_BOXES = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"
SEVERITY = "annotations/covid-severity-scores.csv"
COMMENTS = "".join(f"## Comment {n}, with a comma\n" for n in range(5))
SEVERITY_HEADER = COMMENTS + "filename,geographic_mean,opacity_mean"
MS_CXR = "ms-cxr/MS_CXR_Local_Alignment_v1.1.0.csv"
D1 = "files/p10/p10000001/s50000001/d1.jpg"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def table(path: Path, header: str, rows: Sequence[str], end: str = "\n", **options) -> Path:
    return write(path, end.join([header, *rows, ""]), **options)


def noise(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    """A picture that is no other's near-duplicate."""
    small = np.random.default_rng(seed).integers(0, 255, (12, 12), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def draw(path: Path, width: int = 48, height: int = 48, mode: str = "L", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dcm":
        save_dicom(path, np.asarray(noise(seed, width, height)))
    else:
        noise(seed, width, height).convert(mode).save(path)
    return path


def make_rsna(
    home: Path,
    rows: Sequence[str],
    images: Sequence[str] = ("a.png", "b.png"),
    side: int = 64,
    nih: Sequence[str] = (),
) -> Path:
    table(home / RSNA_LABELS, RSNA_HEADER, rows)
    (home / "stage_2_train_images").mkdir()
    for seed, name in enumerate(images, 1):
        draw(home / "stage_2_train_images" / name, side, side, seed=seed)
    if nih:
        table(home / "nih-of-rsna.csv", "patientId,nih_image", nih)
    return home


def entry(name: str, labels: str, patient: object, age: object = 50) -> str:
    return f"{name},{labels},0,{patient},{age},F,PA,2500,2048,0.168,0.168"


THREE = [
    entry("00000001_000.png", "Infiltration|Pneumonia", 1),
    entry("00000001_001.png", "No Finding", 1),
    entry("00000002_000.png", "Infiltration", 2),
]


def make_nih(
    home: Path,
    entries: Sequence[str] = THREE,
    boxes: Sequence[str] = (),
    images: Sequence[str] = ("00000001_000.png", "00000001_001.png", "00000002_000.png"),
    side: int = 64,
    header: str = NIH_HEADER,
) -> Path:
    table(home / NIH_ENTRIES, header, entries)
    table(home / NIH_BOXES, "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes)
    (home / "images").mkdir()
    for seed, name in enumerate(images, 10):
        draw(home / "images" / name, side, side, seed=seed)
    return home


def study(
    filename: str,
    patient: object = 1,
    finding: str = "Pneumonia/Viral/COVID-19",
    view: str = "PA",
    modality: str = "X-ray",
    notes: str = "Left basilar opacity.",
) -> str:
    head = f"{patient},0,M,65,{finding},{view},{modality},2020,Somewhere,images,{filename}"
    return f"{head},,http://x,CC BY,{notes},,"


def make_covid(
    home: Path,
    rows: Sequence[str],
    images: Sequence[str] = ("a.png", "b.jpg", "c.jpeg"),
    severity: Sequence[str] = (),
    brixia: Sequence[str] = (),
    header: str = COVID_HEADER,
) -> Path:
    """The collection, with Brixia scores beside it."""
    table(home / "metadata.csv", header, rows)
    (home / "images").mkdir()
    for seed, name in enumerate(images, 20):
        draw(home / "images" / name, 40, 30, seed=seed)
    if severity:
        table(home / SEVERITY, SEVERITY_HEADER, severity)
    if brixia:
        path = home.parent / "brixia-cohen" / "public-annotations.csv"
        table(path, BRIXIA_HEADER, brixia, "\r\n", encoding="utf-8-sig")
    return home


def photograph(
    dicom: str, subject: int, study: int, view: str, rows: object = 48, columns: object = 40
) -> str:
    return f"{dicom},{subject},{study},CHEST,{view},{rows},{columns},2150,1200,CHEST,view,Erect"


def place(root: Path, subject: int, study: int) -> Path:
    return root / "files" / f"p{subject}"[:3] / f"p{subject}" / f"s{study}"


def make_mimic(
    root: Path,
    metadata: Sequence[str] = (
        photograph("d1", 10000001, 50000001, "AP"),
        photograph("d2", 10000001, 50000001, "LATERAL"),
        photograph("d3", 10000002, 50000002, "PA"),
    ),
    split: Sequence[str] = ("d1,50000001,10000001,train", "d3,50000002,10000002,test"),
    chexpert: Sequence[str] = ("10000001,50000001,,,1.0,", "10000002,50000002,1.0,,,"),
    ms_cxr: Sequence[str] = (),
    tam: dict | None = None,
    absent: Sequence[str] = (),
) -> Path:
    """MIMIC-CXR-JPG with reports and boxes beside it; the images of `absent` are left out."""
    home = root / MIMIC
    rows = {"metadata": metadata, "split": split, "chexpert": chexpert}
    for name, header in MIMIC_HEADERS.items():
        table(home / f"mimic-cxr-2.0.0-{name}.csv.gz", header, rows[name])
    for seed, row in enumerate(metadata, 30):
        dicom, subject, number = row.split(",")[:3]
        if dicom not in absent:
            draw(place(home, int(subject), int(number)) / f"{dicom}.jpg", 40, 48, seed=seed)
        text = f"FINDINGS: Opacity of {number}.\n\nIMPRESSION: ___\n"
        write(place(root / "mimic-cxr", int(subject), int(number)).with_suffix(".txt"), text)
    if ms_cxr:
        table(root / MS_CXR, MS_CXR_HEADER, ms_cxr)
    if tam:
        write(root / "mimic-cxr-annotations" / "tam.json", json.dumps(tam))
    return home


def make_roco(
    home: Path,
    rows: Sequence[str],
    concepts: Sequence[str] = (),
    origins: Sequence[str] = (),
    images: Sequence[str] | None = None,
) -> Path:
    """Captions, and by default an image of each."""
    table(home / "train_captions.csv", "ID,Caption", rows)
    names = [row.split(",")[0] for row in rows] if images is None else images
    for seed, name in enumerate(dict.fromkeys(names), 50):
        draw(home / "train_images" / "train" / f"{name}.jpg", 96, 96, seed=seed)
    if concepts:
        table(home / "train_concepts.csv", "ID,CUIs", concepts)
    if origins:
        table(home / "provenance.csv", "ID,article,licence", origins)
    return home


def sound_rsna(root: Path) -> None:
    rows = ["a,264,152,213,379,1", "a,562,152,256,453,1", "b,,,,,0", "c,9,9,30,30,1", "d,,,,,0"]
    nih = [f"{name},0000000{n}_000.png" for n, name in enumerate("abcd", 1)]
    home = make_rsna(root / RSNA, rows, ["a.png", "b.jpg", "c.dcm"], nih=nih)
    d = np.asarray(noise(4))
    save_dicom(home / "stage_2_train_images" / "d.dcm", d, compress="1.2.840.10008.1.2.5")


def sound_nih(root: Path) -> None:
    boxes = ["00000001_000.png,Pneumonia,200.5,100.25,300.0,400.5,,,"]
    boxes += ["00000002_000.png,Mass,10,20,30,40,,,"]
    write(make_nih(root / NIH, THREE, boxes) / "test_list.txt", "00000002_000.png\n")


def sound_covid(root: Path) -> None:
    rows = [study("a.png"), study("b.jpg", 2, notes="Clear"), study("c.jpeg", 3, "No Finding")]
    brixia = ["a.png,3,2,1,0,1,2,9,0,1,0,1,3,0,5", "c.jpeg,0,0,0,0,0,1,1,0,0,0,0,0,0,0"]
    make_covid(root / COVID, rows, severity=["a.png,3.5,2", "b.jpg,1,1"], brixia=brixia)


def sound_mimic(root: Path) -> None:
    rows = [photograph("d1", 10000001, 50000001, "AP"), photograph("d3", 10000002, 50000002, "PA")]
    boxes = [f"d1,Pneumonia,left base,{D1},{xywh},40,48" for xywh in ("9,20,30,20", "1,2,3,4")]
    make_mimic(root, rows, ms_cxr=boxes, tam=TEXTS["tam"])


def sound_roco(root: Path) -> None:
    rows = ["a,Chest X-ray with an opacity.", "b,Clear chest film.", "c,CT of the chest."]
    make_roco(root / ROCO, rows, origins=["a,PMC1,CC BY"])


def sound_openi(root: Path) -> None:
    for n, words in enumerate(("Clear.", "Opacity.", ""), 1):
        write(root / "openi" / f"{n}.xml", OPENI.format(findings=words, impression="None."))


SOUND = {
    "rsna": sound_rsna,
    "chestxray8": sound_nih,
    "covid19": sound_covid,
    "mimic": sound_mimic,
    "rocov2": sound_roco,
    "openi": sound_openi,
}
