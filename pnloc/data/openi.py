"""OpenI (Indiana University): open radiology reports, read as texts."""

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from pnloc.data.records import FATES, IMAGE_COLUMNS, Records
from pnloc.data.tables import Quarantine, assemble, no_boxes, packaged, walk
from pnloc.errors import PnlocError

WHERE = "install torchxrayvision, which holds them, or give the folder of the XML files"
FOLDERS = ("openi", "NLMCXR_reports", "ecgen-radiology")
LARGEST = 1_000_000  # bytes of one report


def place(data: Path | None) -> Path | None:
    """The folder of the XML files in a data folder; None where the installed package has to do."""
    folders = [Path(data) / name for name in FOLDERS] if data else []
    return next((folder for folder in folders if folder.is_dir()), None)


def read(folder: Path | None = None) -> Records:
    """Read the XML reports of a folder (searched for *.xml), or those inside the installed package torchxrayvision.

    Origin: 3,955 reports of the Indiana network for patient care, with manual MeSH coding. Access: open, CC BY-NC-ND. Citation: Demner-Fushman
    et al. 2016. The images are not read; `reports` has a third column, `mesh`, with the major codings joined by ';', and a fourth, `images`, the
    number of images that belong to the report (104 reports have none).
    """
    quarantine, rows, total, seen = Quarantine(), [], 0, set()
    for name, content in _documents(folder, quarantine):
        total += 1
        if content is None:
            continue
        try:
            root = ElementTree.fromstring(content)
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            quarantine.add(name, 0, f"not XML ({error})")
            continue
        sections = {
            e.get("Label", "").upper(): " ".join(e.itertext()).strip()
            for e in root.iter("AbstractText")
        }
        study = Path(name).stem
        if not sections or study in seen:
            quarantine.add(
                name,
                0,
                f"report '{study}' stands twice" if sections else "XML, but no report of OpenI",
            )
            continue
        seen.add(study)
        text = "\n".join(
            f"{label}: {sections[label]}"
            for label in ("FINDINGS", "IMPRESSION")
            if sections.get(label)
        )
        mesh = ";".join((e.text or "").strip() for e in root.iterfind(".//MeSH/major"))
        rows.append((study, text, mesh, len(root.findall(".//parentImage"))))
    reports = pd.DataFrame(rows, columns=["study", "text", "mesh", "images"]).sort_values("study")
    counts = {
        "rows": total,
        "used": len(rows),
        "missing": 0,
        "excluded": 0,
        "quarantined": total - len(rows),
    }
    none = dict.fromkeys(("rows", *FATES), 0)
    images = pd.DataFrame(columns=IMAGE_COLUMNS)
    return assemble(
        "openi",
        "open",
        images,
        no_boxes(),
        reports,
        quarantine,
        tally={"images": none, "reports": counts},
    )


def _documents(folder: Path | None, quarantine: Quarantine) -> Iterator[tuple[str, bytes | None]]:
    """Names and contents of the XML files; None for one that has gone into quarantine."""
    if folder is not None:
        places = walk(Path(folder), (".xml",)) if Path(folder).is_dir() else []
        if not places:
            raise PnlocError(f"{folder}: holds no XML reports; {WHERE}")
        for path in (Path(folder) / name for name in places):
            yield str(path), _content(path, quarantine)
        return
    archive = packaged(
        "torchxrayvision",
        "NLMCXR_reports.tgz",
        "it holds the OpenI reports; or give the folder of the XML files",
    )
    try:
        with tarfile.open(archive) as members:
            for member in members:
                if member.isfile() and member.name.endswith(".xml"):
                    large = member.size > LARGEST
                    if large:
                        quarantine.add(member.name, 0, f"{member.size} bytes, which no report has")
                    yield member.name, None if large else members.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise PnlocError(
            f"{archive}: not readable as an archive ({error}); install torchxrayvision again"
        ) from None


def _content(path: Path, quarantine: Quarantine) -> bytes | None:
    try:
        if path.stat().st_size <= LARGEST:
            return path.read_bytes()
        quarantine.add(path, 0, f"{path.stat().st_size} bytes, which no report has")
    except OSError as error:
        quarantine.add(path, 0, f"not readable ({error.strerror})")
    return None
