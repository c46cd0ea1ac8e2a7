"""OpenI (Indiana University): open radiology reports, read as texts."""

import tarfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from pnloc.data.records import IMAGE_COLUMNS, Records
from pnloc.data.tables import Source, packaged, walk
from pnloc.errors import PnlocError

WHERE = "install torchxrayvision, which holds them, or give the folder of the XML files"
FOLDERS = ("openi", "NLMCXR_reports", "ecgen-radiology")
LARGEST = 1_000_000  # bytes of one report


def place(data: Path | None) -> Path | None:
    """The folder of the XML files in a data folder; None without one (the package serves)."""
    folders = [Path(data) / name for name in FOLDERS] if data else []
    return next((folder for folder in folders if folder.is_dir()), None)


def read(folder: Path | None = None) -> Records:
    """Read the XML reports under a folder, or those inside the installed package torchxrayvision.

    Origin: 3,955 reports of the Indiana network for patient care, with manual MeSH coding. Access:
    open, CC BY-NC-ND. Citation: Demner-Fushman et al. 2016. The images are not read; `reports` has
    a third column, `mesh`, with the major codings joined by ';', and a fourth, `images`, the
    number of images that belong to the report (104 reports have none).
    """
    source, reports = Source("openi", folder or ".", WHERE), {}
    for name, content in _documents(folder).items():
        study = Path(name).stem
        try:
            report = _report(content)
            if study in reports:
                raise ValueError(f"report '{study}' stands twice")
            reports[study] = report
        except ValueError as error:
            source.quarantine.append((name, 0, error))
    fates = ["used"] * len(reports) + ["quarantined"] * len(source.quarantine)
    rows = [(study, *report) for study, report in sorted(reports.items())]
    return source.records(
        pd.DataFrame(columns=IMAGE_COLUMNS),
        {"images": pd.Series(dtype=object), "reports": pd.Series(fates, dtype=object)},
        reports=pd.DataFrame(rows, columns=["study", "text", "mesh", "images"]),
    )


def _report(content: bytes | Path) -> tuple[str, str, int]:
    """Text, codings and number of images of a report, or of the file that holds it.

    Raises ValueError where it is not a report.
    """
    try:
        if isinstance(content, Path):
            if (size := content.stat().st_size) > LARGEST:
                raise ValueError(f"{size} bytes, which no report has")
            content = content.read_bytes()
    except OSError as error:
        raise ValueError(f"not readable ({error.strerror})") from None
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"not XML ({error})") from None
    sections = {
        section.get("Label", "").upper(): " ".join(section.itertext()).strip()
        for section in root.iter("AbstractText")
    }
    if not sections:
        raise ValueError("XML, but no report of OpenI")
    labels = [label for label in ("FINDINGS", "IMPRESSION") if sections.get(label)]
    mesh = ";".join((major.text or "").strip() for major in root.iterfind(".//MeSH/major"))
    text = "\n".join(f"{label}: {sections[label]}" for label in labels)
    return text, mesh, len(root.findall(".//parentImage"))


def _documents(folder: Path | None) -> dict[str, bytes | Path]:
    """The XML files of a folder by path, or else the content of the packaged ones by name."""
    if folder is not None:
        names = walk(Path(folder), (".xml",)) if Path(folder).is_dir() else []
        if not names:
            raise PnlocError(f"{folder}: holds no XML reports; {WHERE}")
        return {str(path): path for path in (Path(folder) / name for name in names)}
    why = "it holds the OpenI reports; or give the folder of the XML files"
    archive = packaged("torchxrayvision", "NLMCXR_reports.tgz", why)
    try:
        with tarfile.open(archive) as members:
            files = [m for m in members if m.isfile() and m.name.endswith(".xml")]
            return {file.name: members.extractfile(file).read() for file in files}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        reason = f"not readable as an archive ({error}); install torchxrayvision again"
        raise PnlocError(f"{archive}: {reason}") from None
