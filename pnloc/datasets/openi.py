"""OpenI (Indiana University): open radiology reports, read as texts."""

import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from pnloc.datasets.common import Quarantine, assemble, no_boxes
from pnloc.errors import PnlocError
from pnloc.records import IMAGE_COLUMNS, Records

WHERE = "install torchxrayvision, which holds them, or give the folder of the XML files"
LARGEST = 1_000_000  # bytes of one report


def read(folder: Path | None = None) -> Records:
    """Read the XML reports of a folder (searched for *.xml), or those inside the installed package torchxrayvision.

    Origin: 3,955 reports of the Indiana network for patient care, with manual MeSH coding. Access: open, CC BY-NC-ND. Citation: Demner-Fushman
    et al. 2016. The images are not read; `reports` has a third column, `mesh`, with the major codings joined by ';'.
    """
    quarantine, rows = Quarantine(), []
    for name, content in _documents(folder):
        try:
            root = ElementTree.fromstring(content)
        except ElementTree.ParseError as error:
            quarantine.add(name, 0, f"not XML ({error})")
            continue
        sections = {e.get("Label", "").upper(): (e.text or "").strip() for e in root.iter("AbstractText")}
        text = "\n".join(f"{label}: {sections[label]}" for label in ("FINDINGS", "IMPRESSION") if sections.get(label))
        mesh = ";".join((e.text or "").strip() for e in root.iterfind(".//MeSH/major"))
        rows.append((Path(name).stem, text, mesh))
    reports = pd.DataFrame(rows, columns=["study", "text", "mesh"]).sort_values("study").reset_index(drop=True)
    images = pd.DataFrame(columns=IMAGE_COLUMNS)
    return assemble("openi", "open", images, no_boxes(), reports, quarantine, rows=0, missing=0, excluded=0)


def _documents(folder: Path | None) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the XML files."""
    if folder is not None:
        paths = sorted(Path(folder).rglob("*.xml"))
        if not paths:
            raise PnlocError(f"{folder}: holds no XML reports; {WHERE}")
        yield from ((str(path), path.read_bytes()) for path in paths)
        return
    spec = find_spec("torchxrayvision")
    archive = Path(spec.origin).parent / "data" / "NLMCXR_reports.tgz" if spec and spec.origin else None
    if archive is None or not archive.exists():
        raise PnlocError(f"the OpenI reports are not installed; {WHERE}")
    with tarfile.open(archive) as members:
        for member in members:
            if member.isfile() and member.name.endswith(".xml") and member.size <= LARGEST:
                yield member.name, members.extractfile(member).read()
