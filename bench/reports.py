"""The report reader beside negspacy (NegEx on spaCy): speed and agreement.

OpenI reports, vocabulary and measure are the same for both. spaCy and negspacy live in an
environment of their own, `artifacts/bench/negspacy/`, made here where it is missing; where pip
cannot fetch them, our own figures stand alone and a line says so. Quality goes to
`artifacts/bench/reports_quality.csv`: micro F1 per group on the development reports (even numbers)
with an opacity coded in the lung. Speed is on all development reports, in processor time of one
core.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from bench import COLUMNS
from pnloc.data import openi
from pnloc.evaluation import openi as mesh
from pnloc.files import write_table
from pnloc.reports import scope
from pnloc.reports.findings import extract_attributes, findings

ROOT = Path(__file__).parents[1]
HERE = ROOT / "artifacts" / "bench"
NEEDED = ("spacy>=3.8,<3.9", "negspacy>=1.1,<2")
REPEATS = 3
BAR = 4000  # reports per second on one core
BARS = {"side": 0.93, "zone": 0.93, "kind": 0.91, "severity": 0.91}


def run() -> pd.DataFrame:
    """Reports per second, seconds of a 1 MB report, F1 per group on the development reports."""
    development = mesh.half(openi.read(None).reports, odd=False)
    texts = development["text"].tolist()
    ours = len(texts) / min(
        _seconds(lambda: [extract_attributes(t) for t in texts]) for _ in range(REPEATS)
    )
    long = ("\n".join(texts) * 3)[:1_000_000]
    one = min(_seconds(lambda: findings(long)) for _ in range(REPEATS))
    python = _environment()
    theirs, by_text = _other(python, texts) if python else (float("nan"), None)
    rows = [
        (
            "OpenI reports, findings and attributes (other: negspacy)",
            ours,
            theirs,
            "reports/s",
            ours / theirs,
            BAR,
            ours >= BAR,
        ),
        ("one report of 1 MB", one, float("nan"), "s", float("nan"), 1, one <= 1),
    ]
    quality = [mesh.agreement(development, extract_attributes).assign(extractor="pnloc")]
    if by_text is not None:
        quality.append(
            mesh.agreement(development, by_text.__getitem__).assign(
                extractor="negspacy, words of the sentence"
            )
        )
    write_table(HERE / "reports_quality.csv", pd.concat(quality, ignore_index=True))
    f1 = [table.set_index("group")["f1"] for table in quality]
    for group, bar in BARS.items():
        other = f1[1][group] if len(f1) > 1 else float("nan")
        rows.append(
            (
                f"agreement on {group}, development",
                f1[0][group],
                other,
                "F1",
                f1[0][group] / other,
                bar,
                f1[0][group] >= bar,
            )
        )
    wrong, count = mesh.normals(development, extract_attributes)
    other = (
        mesh.normals(development, by_text.__getitem__)[0] / count
        if by_text is not None
        else float("nan")
    )
    rows.append(
        (
            "reports coded normal with an attribute",
            wrong / count,
            other,
            "share",
            float("nan"),
            0.01,
            wrong / count <= 0.01,
        )
    )
    return pd.DataFrame(rows, columns=COLUMNS)


def _seconds(work) -> float:
    scope.read.cache_clear()  # or the second reading would know every sentence
    started = time.process_time()
    work()
    return time.process_time() - started


def _environment() -> Path | None:
    """Python of the environment with negspacy, made if missing; None where it cannot be made."""
    folder = HERE / "negspacy"
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    print(f"reports: making {folder.relative_to(ROOT)} with {', '.join(NEEDED)}", flush=True)
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--prefer-binary",
            *NEEDED,
        ],
    )
    for step in steps:
        made = subprocess.run(step, capture_output=True, text=True, check=False)
        if made.returncode:
            reason = (made.stderr.strip().splitlines() or ["no message"])[-1]
            print(
                "reports: no comparison with negspacy, "
                f"its environment could not be made ({reason})",
                flush=True,
            )
            return None
    done.touch()
    return python


def _other(python: Path, texts: list[str]) -> tuple[float, dict[str, set[str]]]:
    """Reports per second of negspacy, and its attributes by text."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.json", Path(folder) / "out.json"
        source.write_text(json.dumps(texts), encoding="utf-8")
        script = Path(__file__).with_name("_spacy_extract.py")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run([python, script, source, target], env=environment, check=True)
        given = json.loads(target.read_text(encoding="utf-8"))
    return len(texts) / given["seconds"], {
        t: set(a) for t, a in zip(texts, given["attributes"], strict=True)
    }
