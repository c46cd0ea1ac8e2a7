"""Agreement of a reader of reports with OpenI's manual codings: F1 with intervals, errors by kind.

OpenI's 3,955 reports were coded by hand with a heading and qualifiers, such as
`Opacity/lung/lower lobe/right/patchy/mild` (Demner-Fushman et al. 2016). Gold are the qualifiers
of six headings of the opacity family, in the lung (openi.toml); both sides of the comparison are
sets of attributes per report. Reports with an even number are for development, those with an odd
number for the final figure.

A reader is a function from a text to its attributes, such as pnloc.reports.extract_attributes.
`tables` are those that `python -m bench reports` writes and `book/results/` keeps.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.evaluation.bootstrap import Patients
from pnloc.reports.cues import items
from pnloc.reports.findings import extract_attributes, findings
from pnloc.reports.lexicon import BOTH
from pnloc.reports.sentences import plain

CODING = tomllib.loads(Path(__file__).with_name("openi.toml").read_text(encoding="utf-8"))
HEADINGS, ELSEWHERE = frozenset(CODING["headings"]), frozenset(CODING["elsewhere"])
QUALIFIERS: dict[str, list[str]] = CODING["qualifiers"]
CODED = frozenset(name for names in QUALIFIERS.values() for name in names)
GROUPS = ("side", "zone", "severity", "kind")
OUTCOMES = ["hit", "extra", "missed"]
Reader = Callable[[str], set[str]]


def tables(reports: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The kept tables, by name, of all reports (study, text, mesh); no text is in them.

    report_agreement: half, reader, reading, and the columns of `agreement`; report_normals: half,
    attributed, normal; report_errors: those of the development half, as `errors` gives them.
    """
    halves = {"development": half(reports, odd=False), "final": half(reports, odd=True)}
    readings = {"opacity coded": {}, "every report": {"every": True}}
    readings["to the letter"] = {"implied": False}
    wanted = [("rules", extract_attributes, reading) for reading in readings]
    wanted.insert(1, ("words alone", words_alone, "opacity coded"))
    parts = [
        agreement(own, read, **readings[reading]).assign(half=name, reader=reader, reading=reading)
        for name, own in halves.items()
        for reader, read, reading in wanted
    ]
    counts = [(name, *normals(own, extract_attributes)) for name, own in halves.items()]
    first = ["half", "reader", "reading"]
    compared = pd.concat(parts, ignore_index=True)
    return {
        "report_agreement": compared[[*first, *compared.columns.drop(first)]].round(4),
        "report_normals": pd.DataFrame(counts, columns=["half", "attributed", "normal"]),
        "report_errors": errors(halves["development"], extract_attributes).astype({"study": int}),
    }


def gold(mesh: str, implied: bool = True) -> set[str] | None:
    """Attributes that the codings of a report (joined by ';') give its opacities.

    None where no opacity is coded in the lung. 'focal' and 'multiple' in one coding are how coders
    wrote multifocal. Without `implied` the lingula has no side, to the letter of the coding.
    """
    attributes, coded = set(), False
    for coding in mesh.lower().split(";"):
        heading, *qualifiers = (part.strip() for part in coding.split("/"))
        if heading in HEADINGS and not ELSEWHERE & set(qualifiers):
            coded = True
            most = None if implied else 1
            names = {name for q in qualifiers for name in QUALIFIERS.get(q, ())[:most]}
            multifocal = {"focal", "multiple"} <= set(qualifiers)
            attributes |= names - ({"kind:focal"} if multifocal else set())
    return _bilateral(attributes) if coded else None


def _bilateral(names: set[str]) -> set[str]:
    """The same attributes, with right and left together as bilateral."""
    sides = {"side:right", "side:left"}
    both = "side:bilateral" in names or sides <= names
    return names - sides | {"side:bilateral"} if both else names


def mentions(text: str) -> list[tuple[set[str], list[bool]]]:
    """Of each sentence: attributes that it has a word for, and whether each finding is current."""
    rows = []
    for sentence in plain()(text):
        names = set().union(*(item.names for item in items(sentence.lower())))
        plural = {"side:bilateral"} if BOTH in names else set()
        rows.append((names - {BOTH} | plural, [f.current for f in findings(sentence)]))
    return rows


def words_alone(text: str) -> set[str]:
    """A reader for comparison: all attribute words of the sentences with a current finding."""
    return _bilateral(set().union(*(words for words, now in mentions(text) if any(now))))


def half(reports: pd.DataFrame, odd: bool) -> pd.DataFrame:
    """The reports of OpenI (study, text, mesh) that have text and an odd, or even, number."""
    parity = reports["study"].astype(int) % 2 == int(odd)
    return reports[parity & (reports["text"].str.strip() != "")].reset_index(drop=True)


def outcomes(reports: pd.DataFrame, read: Reader, implied: bool = True) -> pd.DataFrame:
    """study, group, attribute, outcome (OUTCOMES): a row per attribute that is coded or read.

    Attributes that no coding can express are left out.
    """
    rows = []
    for study, text, mesh in reports[["study", "text", "mesh"]].itertuples(index=False):
        coded, extracted = gold(mesh, implied) or set(), set(read(text)) & CODED
        for name in sorted(coded | extracted):
            outcome = "missed" if name not in extracted else "hit" if name in coded else "extra"
            rows.append((study, name.split(":")[0], name, outcome))
    return pd.DataFrame(rows, columns=["study", "group", "attribute", "outcome"])


def agreement(
    reports: pd.DataFrame, read: Reader, *, every: bool = False, implied: bool = True, **draws: int
) -> pd.DataFrame:
    """Micro-averaged F1: group, reports, coded, precision, recall, f1, low, high (over reports).

    Over the reports with an opacity coded in the lung; with `every`, over all of `reports`, those
    without such a coding counting as nothing coded. That is the harder reading, because coders left
    out opacities that they coded under another heading. `draws`: resamples and seed.
    """
    reports = reports if every else _coded(reports)
    pairs, drawn = outcomes(reports, read, implied), Patients(range(len(reports)), **draws)
    rows = []
    for group in GROUPS:
        part = pairs[pairs["group"] == group]
        counts = pd.crosstab(part["study"], part["outcome"])
        counts = counts.reindex(index=reports["study"], columns=OUTCOMES, fill_value=0)
        hits, extra, missed = counts.sum()
        f1, low, high, n = drawn.of(lambda weights, counts=counts: _f1(weights @ counts.to_numpy()))
        precision, recall = _share(hits, extra), _share(hits, missed)
        rows.append((group, n, hits + missed, precision, recall, f1, low, high))
    columns = ["group", "reports", "coded", "precision", "recall", "f1", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _coded(reports: pd.DataFrame) -> pd.DataFrame:
    return reports[[gold(mesh) is not None for mesh in reports["mesh"]]].reset_index(drop=True)


def _f1(counts: np.ndarray) -> np.ndarray:
    """F1 [B] of hits, extras and misses [B, 3]; 1 where nothing is coded and nothing is read."""
    total = counts @ [2, 1, 1]
    return np.where(total > 0, 2 * counts[:, 0] / np.maximum(total, 1), 1.0)


def _share(hits: int, others: int) -> float:
    return hits / (hits + others) if hits + others else 1.0


def normals(reports: pd.DataFrame, read: Reader) -> tuple[int, int]:
    """The number of reports coded `normal` that get any attribute, and the number coded so."""
    texts = reports.loc[reports["mesh"].str.lower() == "normal", "text"]
    return sum(bool(read(text)) for text in texts), len(texts)


def errors(reports: pd.DataFrame, read: Reader) -> pd.DataFrame:
    """Every disagreement with the codings: study, attribute, error (missed or extra), kind.

    Over the reports with an opacity coded in the lung. A missed and an extra attribute in the
    same group of one report are a matter of vocabulary ('mid lung' coded as lingula). A missed
    attribute that the text has no word for, and an extra one of a current opacity that no coding
    mentions, are disagreements of the gold with the text. The rest are errors of the reader.
    """
    reports = _coded(reports)
    table = outcomes(reports, read).query("outcome != 'hit'").merge(reports, on="study")
    table["swapped"] = table.groupby(["study", "group"])["outcome"].transform("nunique") == 2
    table["kind"] = [
        _missed(row.attribute, mentions(row.text), row.swapped)
        if row.outcome == "missed"
        else _extra(row.attribute, row.mesh, row.swapped)
        for row in table.itertuples()
    ]
    return table.rename(columns={"outcome": "error"})[["study", "attribute", "error", "kind"]]


def _missed(name: str, sentences: list[tuple[set[str], list[bool]]], swapped: bool) -> str:
    words = {word for names, _ in sentences for word in names}
    if name not in words | _bilateral(words):
        return "vocabulary" if swapped else "gold disagrees: no word for it"
    current = [finding for names, findings in sentences if name in names for finding in findings]
    if not current:
        return "missed finding"
    return "attached to a neighbour" if any(current) else "wrong assertion"


def _extra(name: str, mesh: str, swapped: bool) -> str:
    if swapped:
        return "vocabulary"
    others = [c for c in mesh.lower().split(";") if c.split("/")[0].strip() not in HEADINGS]
    named = {n for c in others for q in c.split("/")[1:] for n in QUALIFIERS.get(q.strip(), ())}
    return "attached to a neighbour" if name in named else "gold disagrees: said, not coded"
