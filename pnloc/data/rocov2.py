"""ROCOv2: radiographs of the chest from open access articles, with their captions."""

import os
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pyarrow import parquet

from pnloc.data.covid19 import SHOWN
from pnloc.data.decode import squares
from pnloc.data.duplicates import DECODED, SIDE
from pnloc.data.records import Records, assign_splits
from pnloc.data.tables import Ledger, Source, column, read_rows, walk
from pnloc.files import atomic, digest, readable, require
from pnloc.images import oddities
from pnloc.parallel import bar

WHERE = "get ROCOv2 of Rueckert et al. from Zenodo, or its parquet files from Hugging Face"
CAPTIONS, CONCEPTS, SHARD = "_captions.csv", "_concepts.csv", ".parquet"
TEXTS, ORIGINS = ["ID", "Caption"], ["ID", "article", "licence"]
# Least correlation with the mean thumbnail; images that make a mean; characters between a word of
# the chest and one of its film.
LIKE, FEWEST, NEAR = 0.25, 50, 120
FLAT, DARK, BRIGHT = 16, 48, 224  # range of grey of a line of a frame; it is darker or brighter

_TEXTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def _pattern(name: str) -> re.Pattern:
    """A pattern of rocov2.toml, with the parts that it names and without its line ends."""
    text = re.sub("<([a-z]+)>", lambda part: _TEXTS[part[1]], _TEXTS[name])
    return re.compile(text.replace("\n", ""), re.IGNORECASE)


FILMS, THORAX, OTHER = map(_pattern, ("films", "thorax", "other"))
ANIMAL, LATERAL, FRONTAL = map(_pattern, ("animal", "lateral", "frontal"))


def read(folder: Path) -> Records:
    """Read `*_captions.csv`, `*_concepts.csv` where it is there, images, and parquet files.

    Origin: 79,789 pictures of all kinds from articles of PubMed Central's open access subset, of
    which the radiographs of a chest are read. Size here: whatever the folder holds. Labels: none;
    captions are the reports. Access: open, CC BY or CC BY-NC by article. Citation: Rueckert et al.,
    Scientific Data 2024.

    Images lie anywhere below the folder, named by their ID, or in parquet files, from which those
    of a chest are written once to `pnloc/rocov2` in the user's cache folder. Which are of a chest
    is told by the concepts of an image (plain x-ray and chest), else by its caption: it names the
    film of a chest, and no other examination before. Others, and animals, are excluded.

    Views from the side go into quarantine, and pictures that are coloured or of odd shape. So does,
    in a set of FEWEST or more, what is unlike the mean picture: negatives, CT, parts of a chest,
    and a few sound films of odd exposure. All images are decoded to see that.

    Patients are not known: all images of an article of the optional `provenance.csv` (ID, article,
    licence) count as one, else all with one caption. So there are no test images.
    """
    source = Source("rocov2", folder, WHERE)
    table, rows = _captions(source), []
    ledger = Ledger(source.folder / f"*{CAPTIONS}", table, rows, first=0)
    text = table["Caption"]
    ledger.reject_names("ID")
    ledger.reject(text == "", "{ID}: no caption")
    ledger.mark(~_chests(table), "excluded")
    named = ledger.rows.groupby("file")["ID"]
    unpacked = [_unpacked(path, {*names}) for path, names in named if path.suffix == SHARD]
    files = source.files(ledger, "ID", [source.folder, *unpacked], stems=True)
    for path, fates in ledger.fate.groupby(table["file"]):
        bare = {"missing"} <= {*fates} <= {"missing", "excluded"}
        source.note(len(fates) * bare, f"captions of {path.name} come without any image")
    lateral = text.str.contains(LATERAL) & ~text.str.contains(FRONTAL)
    ledger.reject(lateral, "{ID}: not a frontal view by its caption")
    article = table["ID"].map(_origins(source.folder)["article"]).astype(object)
    article = article.fillna(article.groupby(text).transform("first"))
    patient = "rocov2:" + article.fillna(table["ID"].groupby(text).transform("first"))
    images = ledger.images("ID", files, patient=patient, study=table["ID"])
    _look(ledger, images)
    images = images.loc[ledger.rows.index]
    images["split"] = assign_splits(images["patient"], "rocov2", (0.85, 0.15, 0.0))
    for path, row, reason in rows:
        place = (path, row) if path != ledger.path else tuple(table.loc[row, ["file", "row"]])
        source.quarantine.append((*place, reason))
    reports = ledger.rows[TEXTS].set_axis(["study", "text"], axis=1)
    return source.records(images, {"images": ledger.fate}, reports=reports)


def sources(folder: Path) -> pd.DataFrame:
    """Origin of each image: image, article, licence, source, year (not known), credit, shown.

    credit: a line to print with it. `shown` is True only where `provenance.csv` plainly names a
    licence of those of pnloc.data.covid19.sources.
    """
    images = _captions(Source("rocov2", folder, WHERE))["ID"].dropna().drop_duplicates()
    known = _origins(folder).reindex(images.rename("image")).fillna("").reset_index()
    terms = known.replace({name: {"": f"{name} not named"} for name in ORIGINS[1:]})
    credit = known["image"] + ", " + terms["article"] + ", " + terms["licence"]
    shown = known["licence"].str.fullmatch(SHOWN).astype(bool)
    return known.assign(source="PMC", year=np.nan, credit=credit, shown=shown)


# Tables -----------------------------------------------------------------------------------------


def _captions(source: Source) -> pd.DataFrame:
    """Rows of all tables: ID, Caption, CUIs ('' for none), file, row (1-based line of the file)."""
    names = walk(source.folder, (CAPTIONS, SHARD))
    source.need(*(names or [f"*{CAPTIONS}", f"*{SHARD}"]))
    parts = []
    for path in (source.folder / name for name in names):
        part, first = (_shard(path), 1) if path.suffix == SHARD else (read_rows(path, TEXTS), 2)
        parts.append(part.assign(file=path, row=part.index + first))
    table = pd.concat(parts, ignore_index=True)
    concepts = {}
    for name in walk(source.folder, (CONCEPTS,)):
        lists = read_rows(source.folder / name, ["ID", "CUIs"]).dropna()
        concepts |= dict(zip(lists["ID"], lists["CUIs"], strict=True))
    table["CUIs"] = column(table, "CUIs").fillna(table["ID"].map(concepts)).fillna("").astype(str)
    table["Caption"] = table["Caption"].fillna("").astype(str).str.strip()
    return table


def _shard(path: Path) -> pd.DataFrame:
    """ID, Caption and CUIs of the rows of a parquet file, without their images."""
    with readable(path, "a parquet file"):
        columns = [name for name in parquet.read_schema(path).names if name != "image"]
        table = parquet.read_table(path, columns=columns).to_pandas()
    lists = column(table, "cui").map(lambda cui: ";".join(np.atleast_1d(cui)), "ignore")
    table = require(path, table, ["image_id", "caption"])
    return pd.DataFrame({"ID": table["image_id"], "Caption": table["caption"], "CUIs": lists})


def _unpacked(path: Path, wanted: set[str]) -> Path:
    """The folder in the user's cache with the wanted images of a parquet file, named by ID."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "pnloc" / "rocov2" / digest(str(path.resolve()), path)
    lacking = [name for name in wanted if not (folder / f"{name}.jpg").exists()]
    columns, only, rows = ["image_id", "image"], [("image_id", "in", lacking)], []
    if lacking:
        with readable(path, "a parquet file"):
            rows = parquet.read_table(path, columns=columns, filters=only).to_pylist()
    for row in reversed(rows):  # of two with one ID the first counts
        with atomic(folder / f"{row['image_id']}.jpg") as temporary:
            temporary.write_bytes((row["image"] or {}).get("bytes") or b"")
    return folder


def _origins(folder: Path) -> pd.DataFrame:
    """Article and licence by ID, from `provenance.csv`; empty without it."""
    path = Path(folder) / "provenance.csv"
    table = read_rows(path, ORIGINS) if path.exists() else pd.DataFrame(columns=ORIGINS)
    return table.drop_duplicates("ID").set_index("ID")


# Captions ---------------------------------------------------------------------------------------


def _chests(table: pd.DataFrame) -> np.ndarray:
    """Which rows are radiographs of a human chest, bool [N]."""
    text, concepts = table["Caption"], table["CUIs"]
    # Of UMLS: plain x-ray, chest.
    both = concepts.str.contains("C1306645") & concepts.str.contains("C0817096")
    chest = np.where(concepts != "", both, text.map(_is_chest))
    return chest.astype(bool) & ~text.str.contains(ANIMAL).to_numpy(bool)


def _is_chest(caption: str) -> bool:
    """Whether a caption names the film of a chest, and no other examination before."""
    before = OTHER.split(caption, maxsplit=1)[0]
    chest, film = ([m.start() for m in p.finditer(before)] for p in (THORAX, FILMS))
    return any(abs(a - b) <= NEAR for a in chest for b in film)


# Pictures ---------------------------------------------------------------------------------------


def _look(ledger: Ledger, images: pd.DataFrame) -> None:
    """Quarantine images that are, by their pixels, no usual frontal radiographs of a chest."""
    looks = bar(squares(images, DECODED), total=len(images), desc="look at rocov2", unit="image")
    problems, small = {}, {}
    for (index, path), square in zip(images["path"].items(), looks, strict=True):
        # Negatives are better known by their likeness to the others.
        odd = [square] if isinstance(square, str) else oddities(path, square)
        odd = [line for line in odd if not line.startswith("a negative")]
        if odd:
            problems[index] = (path, "; ".join(odd))
            continue
        inside = Image.fromarray(_without_frame(square))
        small[index] = np.asarray(inside.resize((SIDE, SIDE), Image.Resampling.BOX))
    if len(small) >= FEWEST:
        like = _likeness(np.stack([*small.values()])).set_axis([*small])
        reason = f"unlike the other radiographs (correlation {{:.2f}}, below {LIKE})"
        unlike = like[~(like >= LIKE)].items()
        problems |= {i: (images["path"][i], reason.format(value)) for i, value in unlike}
    ledger.reject_files(problems)


def _without_frame(picture: np.ndarray) -> np.ndarray:
    """The part of a grey picture inside of its black and white frames, at least 32 x 32."""
    ends = []
    for lines in (picture, picture.T):
        low, high = np.percentile(lines, (10, 90), axis=1)
        inside = np.flatnonzero((high - low >= FLAT) | ((high >= DARK) & (low <= BRIGHT)))
        ends.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(0))
    part = picture[tuple(ends)]
    small = part.shape == picture.shape or min(part.shape) < SIDE
    return picture if small else _without_frame(part)


def _likeness(small: np.ndarray) -> pd.Series:
    """Pearson's correlation of thumbnails [N, 32, 32] with the mean of those that are alike."""
    pictures = pd.DataFrame(small.reshape(len(small), -1).T.astype(float))
    like = pictures.corrwith(pictures.mean(axis=1))
    for _ in range(2):
        like = pictures.corrwith(pictures.loc[:, like >= LIKE].mean(axis=1))
    return like
