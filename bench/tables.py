"""The tables of MIMIC-CXR-JPG at full size, 377,110 rows, joined: seconds and peak memory.

A tree is generated with everything that the reader opens: the three gzipped tables, one (empty)
file per image, which the reader lists but never opens, and one report per study: 600,000 small
files, which go into memory (/dev/shm) where the system has room for them there, since their writing
is not what is measured. The reader runs in a process of its own, whose peak memory is what the
system says of it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from bench import COLUMNS

IMAGES, STUDIES, PATIENTS = 377_110, 227_835, 65_379
REPORT = (
    "FINAL REPORT\n INDICATION: ___ with cough.\n\n FINDINGS:\n"
    + " The lungs are clear without consolidation.\n" * 12
)
READ = """
import json, resource, sys, time
from pathlib import Path
from pnloc.data import mimic_cxr
started, busy = time.perf_counter(), time.process_time()
records = mimic_cxr.read(Path(sys.argv[1]))
seconds, busy = time.perf_counter() - started, time.process_time() - busy
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
print(json.dumps({
    "seconds": seconds, "busy": busy, "gib": peak,
    "counts": records.counts, "reports": len(records.reports),
}))
"""


def generate(
    root: Path, images: int = IMAGES, studies: int = STUDIES, patients: int = PATIENTS
) -> Path:
    """Write the tree; returns the folder of MIMIC-CXR-JPG."""
    rng = np.random.default_rng(0)
    of_study = np.sort(
        np.concatenate([np.arange(patients), rng.integers(0, patients, studies - patients)])
    )
    of_image = np.sort(
        np.concatenate([np.arange(studies), rng.integers(0, studies, images - studies)])
    )
    subject, study = 10_000_000 + 153 * of_study[of_image], 50_000_000 + of_image
    dicom = [
        f"{a:08x}-{b:08x}-{c:08x}-{d:08x}-{n:08x}"
        for n, (a, b, c, d) in enumerate(rng.integers(0, 1 << 32, (images, 4)))
    ]
    home = root / "mimic-cxr-jpg"
    home.mkdir(parents=True)
    ids = pd.DataFrame({"dicom_id": dicom, "subject_id": subject, "study_id": study})
    view = rng.choice(["AP", "PA", "LATERAL", "LL", ""], images, p=[0.39, 0.255, 0.22, 0.09, 0.045])
    metadata = ids.assign(
        PerformedProcedureStepDescription="CHEST (PA AND LAT)",
        ViewPosition=view,
        Rows=3056,
        Columns=2544,
        StudyDate=21800506,
        StudyTime=213014.531,
        ProcedureCodeSequence_CodeMeaning="CHEST (PA AND LAT)",
        ViewCodeSequence_CodeMeaning="postero-anterior",
        PatientOrientationCodeSequence_CodeMeaning="Erect",
    )
    split = np.array(["train", "validate", "test"])[rng.choice(3, patients, p=[0.98, 0.01, 0.01])][
        of_study[of_image]
    ]
    labels = pd.DataFrame(
        {"subject_id": 10_000_000 + 153 * of_study, "study_id": 50_000_000 + np.arange(studies)}
    )
    for name in ("Lung Opacity", "Consolidation", "No Finding", "Pneumonia"):
        labels[name] = rng.choice([1.0, 0.0, -1.0, np.nan], studies, p=[0.2, 0.1, 0.05, 0.65])
    tables = {"metadata": metadata, "split": ids.assign(split=split), "chexpert": labels}
    for name, table in tables.items():
        table.to_csv(
            home / f"mimic-cxr-2.0.0-{name}.csv.gz",
            index=False,
            compression={"method": "gzip", "compresslevel": 1},
        )
    last = None
    for name, person, number in zip(dicom, subject, study, strict=True):
        place = f"files/p{str(person)[:2]}/p{person}/s{number}"
        if place != last:
            (home / place).mkdir(parents=True)
            report = root / "mimic-cxr" / f"{place}.txt"
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(REPORT)
            last = place
        (home / place / f"{name}.jpg").touch()
    return home


def room() -> str | None:
    """The folder in memory, where there is one with 4 GiB to spare."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 4 * 1024**3 else None


def run() -> pd.DataFrame:
    """Seconds and peak memory of one read of the generated tree."""
    with tempfile.TemporaryDirectory(dir=room()) as folder:
        home = generate(Path(folder))
        command = [sys.executable, "-c", READ, str(home)]
        found = json.loads(
            subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
            ).stdout
        )
    if (
        found["counts"]["rows"] != IMAGES
        or found["counts"]["missing"]
        or found["counts"]["quarantined"]
    ):
        raise RuntimeError(f"the generated tree was not read whole: {found}")
    what = (
        f"MIMIC-CXR-JPG, {IMAGES} rows, {found['counts']['used']} frontal images, "
        f"{found['reports']} reports"
    )
    rows = [
        (
            f"{what}: read",
            found["seconds"],
            30.0,
            "s",
            found["seconds"] / 30,
            "< 30 s",
            found["seconds"] < 30,
        ),
        (
            f"{what}: read, processor time (what a busy machine leaves unchanged)",
            found["busy"],
            30.0,
            "s",
            found["busy"] / 30,
            "< 30 s",
            found["busy"] < 30,
        ),
        (
            f"{what}: peak memory",
            found["gib"],
            2.0,
            "GiB",
            found["gib"] / 2,
            "< 2 GiB",
            found["gib"] < 2,
        ),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
