"""The report reader beside medspaCy (ConText on spaCy): speed and agreement.

Reports, words and measures are the same for both. medspaCy lives in an environment of its own,
`artifacts/bench/medspacy/`, made here where it is missing, because it needs NumPy 1; where pip
cannot fetch it, our own figures stand alone and a line says so. Quality goes to
`artifacts/bench/report_readers.csv`, which is kept as `book/results/report_readers.csv`: micro F1
per group on the development reports of OpenI (even numbers) with an opacity coded in the lung, and
of each kind of report under `tests/cases` the share of which it is told rightly whether an opacity
is asserted. The tables of `bench._openi`, of our reader alone, go to the same two folders. Speed is
on all development reports, in processor time of one core.
"""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from bench import COLUMNS
from bench import _openi as mesh
from pnloc.data import openi
from pnloc.files import write_table
from pnloc.reports import lexicon as x
from pnloc.reports import scope
from pnloc.reports.findings import extract_attributes, findings, one_side

ROOT = Path(__file__).parents[1]
HERE = ROOT / "artifacts" / "bench"
NEEDED = ("medspacy>=1.3.1,<2",)
CASES = ROOT / "tests" / "cases"
ASSERTED = {"affirmed", "hedged"}
REPEATS = 3
BAR = 4000  # reports per second on one core
BARS = {"side": 0.93, "zone": 0.93, "kind": 0.91, "severity": 0.91}


def run() -> pd.DataFrame:
    """Reports per second, seconds of a 1 MB report, F1 per group on the development reports."""
    reports = openi.read(None).reports
    for name, table in mesh.tables(reports).items():
        write_table(HERE / f"{name}.csv", table)
    development = mesh.half(reports, odd=False)
    texts, cases = development["text"].tolist(), _cases()
    ours = len(texts) / min(
        _seconds(lambda: [extract_attributes(t) for t in texts]) for _ in range(REPEATS)
    )
    long = ("\n".join(texts) * 3)[:1_000_000]
    one = min(_seconds(lambda: findings(long)) for _ in range(REPEATS))
    python = _environment()
    quality = [_quality("pnloc", development, extract_attributes, cases, _asserts)]
    theirs, other = float("nan"), {}
    if python:
        seconds, by_text, asserted = _other(python, [*texts, *cases["text"]])
        theirs = (len(texts) + len(cases)) / seconds
        reader = by_text.__getitem__
        quality.append(_quality("medspaCy", development, reader, cases, asserted.__getitem__))
        other = quality[1].set_index("measure")["value"]
        other["normal"] = _normal(development, reader)
    kept = pd.concat(quality, ignore_index=True)[["reader", "texts", "measure", "reports", "value"]]
    write_table(HERE / "report_readers.csv", kept.round(4))
    name = "OpenI reports, findings and attributes (other: medspaCy)"
    rows = [
        (name, ours, theirs, "reports/s", ours / theirs, BAR, ours >= BAR),
        ("one report of 1 MB", one, float("nan"), "s", float("nan"), 1, one <= 1),
    ]
    f1 = quality[0].set_index("measure")["value"]
    for group, bar in BARS.items():
        own, their = f1[group], other.get(group, float("nan"))
        row = (f"agreement on {group}, development", own, their, "F1", own / their, bar, own >= bar)
        rows.append(row)
    wrong = _normal(development, extract_attributes)
    row = (wrong, other.get("normal", float("nan")), "share", float("nan"), 0.01, wrong <= 0.01)
    rows.append(("reports coded normal with an attribute", *row))
    return pd.DataFrame(rows, columns=COLUMNS)


def _cases() -> pd.DataFrame:
    """kind, text, asserted: the reports under tests/cases, and whether an opacity is asserted."""
    with (CASES / "reports.csv").open(encoding="utf-8") as stream:
        rows = [
            (
                row["file"].split("/")[0].removeprefix("report_").replace("_", " "),
                (CASES / row["file"]).read_text(encoding="utf-8"),
                not ASSERTED.isdisjoint(row["assertions"].split()),
            )
            for row in csv.DictReader(stream)
        ]
    return pd.DataFrame(rows, columns=["kind", "text", "asserted"])


def _asserts(text: str) -> bool:
    return any(finding.current for finding in findings(text))


def _normal(reports: pd.DataFrame, read: mesh.Reader) -> float:
    wrong, count = mesh.normals(reports, read)
    return wrong / count


def _quality(
    name: str, reports: pd.DataFrame, read: mesh.Reader, cases: pd.DataFrame, asserts
) -> pd.DataFrame:
    """reader, texts, measure, reports, value."""
    f1 = mesh.agreement(reports, read).rename(columns={"group": "measure", "f1": "value"})
    right = cases.assign(value=cases["text"].map(asserts) == cases["asserted"])
    shares = right.groupby("kind")["value"].agg(["size", "mean"]).reset_index()
    shares.columns = ["measure", "reports", "value"]
    tables = {"OpenI": f1[["measure", "reports", "value"]], "cases": shares}
    return pd.concat(tables, names=["texts"]).reset_index("texts").assign(reader=name)


def _seconds(work) -> float:
    scope.read.cache_clear()  # or the second reading would know every sentence
    started = time.process_time()
    work()
    return time.process_time() - started


def _environment() -> Path | None:
    """Python of the environment with medspaCy, made if missing; None where it cannot be made."""
    folder = HERE / "medspacy"
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    print(f"reports: making {folder.relative_to(ROOT)} with {', '.join(NEEDED)}", flush=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary"]
    steps = ([sys.executable, "-m", "venv", "--clear", folder], [python, *install, *NEEDED])
    for step in steps:
        made = subprocess.run(step, capture_output=True, text=True, check=False)
        if made.returncode:
            reason = (made.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"reports: no comparison with medspaCy, its environment failed ({reason})")
            return None
    done.touch()
    return python


def _other(python: Path, texts: list[str]) -> tuple[float, dict[str, set[str]], dict[str, bool]]:
    """Processor seconds of medspaCy, its attributes by text, and whether it asserts an opacity."""
    words = {word for text in texts for word in re.findall("[a-z]+", text.lower())}
    tags = {word: x.entry(word)[0] for word in words}
    tags |= {f"{first} {' '.join(r)}": tag for first, all in x.PHRASES.items() for r, tag in all}
    targets = {words for words, tag in tags.items() if tag.roles & {"finding", "density"}}
    names = {word: sorted(tags[word].names) for word in words if tags[word].names}
    given = {"texts": texts, "targets": sorted(targets), "attributes": names}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.json", Path(folder) / "out.json"
        source.write_text(json.dumps(given), encoding="utf-8")
        script = Path(__file__).with_name("_spacy_extract.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([python, script, source, target], env=environment, check=True)
        result = json.loads(target.read_text(encoding="utf-8"))
    found = {t: set(one_side(set(n))) for t, n in zip(texts, result["found"], strict=True)}
    return result["seconds"], found, dict(zip(texts, result["asserted"], strict=True))
