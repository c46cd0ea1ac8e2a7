"""How well the report reader agrees with OpenI's manual codings: gold attributes, F1 with intervals, errors by kind.

OpenI's 3,955 reports were coded by hand with a heading and qualifiers, such as `Opacity/lung/lower lobe/right/patchy/mild` (Demner-Fushman
et al. 2016). Gold are the qualifiers of six headings of the opacity family, in the lung; both sides of the comparison are sets of
attributes per report. Reports with an even number are for development, those with an odd number for the final figure.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pnloc.evaluation.bootstrap import interval, weights
from pnloc.reports.findings import attribute_words, extract_attributes, findings, one_side
from pnloc.reports.lexicon import GROUPS
from pnloc.reports.sentences import plain

HEADINGS = {"opacity", "infiltrate", "consolidation", "airspace disease", "pneumonia", "density"}
# A coding that names one of these lies outside the lung; 'thorax' is what coders wrote where they did not place it in the lung.
ELSEWHERE = {
    "abdomen",
    "adipose tissue",
    "breast",
    "heart",
    "mediastinum",
    "mitral valve",
    "paratracheal",
    "pleura",
    "pleural sinus",
    "ribs",
    "shoulder",
    "sternum",
    "thoracic vertebrae",
    "thorax",
}
# Qualifier -> attributes. MeSH's terms are wider than ours: 'base' and the costophrenic angle are the lower zone, 'apex' the upper, 'hilum' is how
# coders wrote perihilar; 'small' and 'large' are the only sizes and stand for mild and severe; 'multiple', 'scattered' and
# 'multilobar' are multifocal. The lingula is part of the left lung, so that its side is coded with it. Not mapped, because we have no such
# attribute: anterior, posterior, prominent, irregular, chronic, pulmonary alveoli.
QUALIFIERS: dict[str, tuple[str, ...]] = {
    "right": ("side:right",),
    "left": ("side:left",),
    "bilateral": ("side:bilateral",),
    "upper lobe": ("zone:upper",),
    "apex": ("zone:upper",),
    "middle lobe": ("zone:middle",),
    "lower lobe": ("zone:lower",),
    "base": ("zone:lower",),
    "costophrenic angle": ("zone:lower",),
    "lingula": ("zone:lingula", "side:left"),
    "hilum": ("zone:perihilar",),
    "retrocardiac": ("zone:retrocardiac",),
    "mild": ("severity:mild",),
    "small": ("severity:mild",),
    "moderate": ("severity:moderate",),
    "severe": ("severity:severe",),
    "large": ("severity:severe",),
    "focal": ("kind:focal",),
    "patchy": ("kind:patchy",),
    "multiple": ("kind:multifocal",),
    "scattered": ("kind:multifocal",),
    "multilobar": ("kind:multifocal",),
    "diffuse": ("kind:diffuse",),
    "interstitial": ("kind:interstitial",),
    "streaky": ("kind:streaky",),
    "reticular": ("kind:reticular",),
    "round": ("kind:round",),
}
# Consolidation and ground glass are headings or not coded at all, never qualifiers: no coding can agree with them.
COMPARED = frozenset(name for names in QUALIFIERS.values() for name in names)
Extractor = Callable[[str], set[str]]


def gold(mesh: str, implied: bool = True) -> set[str] | None:
    """Attributes that the codings of a report (joined by ';') give its opacities; None where none is coded in the lung.

    'focal' and 'multiple' in one coding are how coders wrote multifocal. Right and left are bilateral, as in the reader. Without
    `implied` the lingula has no side, to the letter of the coding.
    """
    found, coded = set(), False
    for coding in mesh.lower().split(";"):
        heading, *qualifiers = (part.strip() for part in coding.split("/"))
        if heading not in HEADINGS or ELSEWHERE & set(qualifiers):
            continue
        coded = True
        names = {
            name for q in qualifiers for name in QUALIFIERS.get(q, ())[: None if implied else 1]
        }
        if {"focal", "multiple"} <= set(qualifiers):
            names -= {"kind:focal"}
        found |= names
    return set(one_side(found)) if coded else None


def sentence_words(text: str) -> set[str]:
    """For comparison, the attributes of all words of every sentence with a current finding, whatever they describe."""
    said = [attribute_words(s) for s in plain()(text) if any(f.current for f in findings(s))]
    return set(one_side(frozenset().union(*said)))


def half(reports: pd.DataFrame, odd: bool) -> pd.DataFrame:
    """The reports of OpenI (study, text, mesh) with text and an odd, or even, number."""
    number = reports["study"].astype(int)
    kept = reports[(number % 2 == int(odd)) & (reports["text"].str.strip() != "")]
    return kept.reset_index(drop=True)


def outcomes(
    reports: pd.DataFrame, extract: Extractor = extract_attributes, implied: bool = True
) -> pd.DataFrame:
    """One row per report and attribute that is coded or extracted: study, group, attribute, coded, extracted; and whether the report has a coding.

    `extract` gives the attributes of a text; those that no coding can express are left out.
    """
    rows = []
    for study, text, mesh in reports[["study", "text", "mesh"]].itertuples(index=False):
        wanted, given = gold(mesh, implied), set(extract(text)) & COMPARED
        for name in sorted((wanted or set()) | given):
            rows.append(
                (
                    study,
                    name.split(":")[0],
                    name,
                    name in (wanted or ()),
                    name in given,
                    wanted is not None,
                )
            )
    return pd.DataFrame(
        rows, columns=["study", "group", "attribute", "coded", "extracted", "has_coding"]
    )


def agreement(
    reports: pd.DataFrame,
    extract: Extractor = extract_attributes,
    *,
    every: bool = False,
    implied: bool = True,
    seed: int = 0,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Micro-averaged F1 per group, with 95% intervals by resampling reports: group, reports, coded, precision, recall, f1, low, high.

    Over the reports with an opacity coded in the lung; with `every`, over all of `reports`, where no such coding counts as
    nothing coded (coders left out opacities that they coded under another heading, so that this is the harder reading).
    """
    coded = np.array([every or gold(mesh) is not None for mesh in reports["mesh"]], dtype=bool)
    kept = reports[coded].reset_index(drop=True)
    found = outcomes(kept, extract, implied)
    place = {study: row for row, study in enumerate(kept["study"])}
    drawn = weights(len(kept), resamples, seed)
    rows = []
    for group in GROUPS:
        part = found[found["group"] == group]
        counts = np.zeros((len(kept), 3))
        cells = np.where(part["coded"] & part["extracted"], 0, np.where(part["extracted"], 1, 2))
        np.add.at(counts, (part["study"].map(place).to_numpy(int), cells), 1)
        hits, extra, missed = counts.sum(0)
        low, high = interval(_f1(drawn @ counts))
        rows.append(
            (
                group,
                len(kept),
                int(hits + missed),
                _share(hits, hits + extra),
                _share(hits, hits + missed),
                float(_f1(counts.sum(0))),
                low,
                high,
            )
        )
    return pd.DataFrame(
        rows, columns=["group", "reports", "coded", "precision", "recall", "f1", "low", "high"]
    )


def _f1(counts: np.ndarray) -> np.ndarray:
    """F1 of hits, extras and misses [..., 3]; 1 where there is nothing to find and nothing is found."""
    hits, extra, missed = np.moveaxis(np.asarray(counts, float), -1, 0)
    total = 2 * hits + extra + missed
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0


def normals(reports: pd.DataFrame, extract: Extractor = extract_attributes) -> tuple[int, int]:
    """How many reports coded `normal` get any attribute, and how many are coded so."""
    texts = reports.loc[reports["mesh"].str.lower() == "normal", "text"]
    return sum(bool(extract(text)) for text in texts), len(texts)


def errors(reports: pd.DataFrame) -> pd.DataFrame:
    """Every disagreement of the reader with the codings, with its kind and the rule that decided it: study, attribute, error, kind.

    Over the reports with an opacity coded in the lung. What is missed and what is extra in the same group of one report is a
    matter of vocabulary ('mid lung' coded as lingula). A missed attribute for which the text has no word at all, and an extra one that a current
    opacity has as its own and that no coding mentions, are disagreements of the gold with the text. The rest is ours.
    """
    kept = reports[[gold(mesh) is not None for mesh in reports["mesh"]]]
    texts, meshes = (dict(zip(kept["study"], kept[c], strict=True)) for c in ("text", "mesh"))
    found = outcomes(kept)
    wrong = found[found["coded"] != found["extracted"]]
    rows = []
    for (study, _), part in wrong.groupby(["study", "group"], sort=False):
        swapped = part["coded"].any() and part["extracted"].any()
        for row in part.itertuples():
            kind = (
                _missed(row.attribute, texts[study], swapped)
                if row.coded
                else _extra(row.attribute, meshes[study], swapped)
            )
            rows.append((study, row.attribute, "missed" if row.coded else "extra", kind))
    return pd.DataFrame(rows, columns=["study", "attribute", "error", "kind"])


def _missed(name: str, text: str, swapped: bool) -> str:
    if name not in attribute_words(text) and not (
        name == "side:bilateral" and {"side:right", "side:left"} <= attribute_words(text)
    ):
        return "vocabulary" if swapped else "gold disagrees: no word for it"
    inside = [f for s in plain()(text) for f in findings(s) if name in attribute_words(s)]
    if not inside:
        return "missed finding"
    return "attached to a neighbour" if any(f.current for f in inside) else "wrong assertion"


def _extra(name: str, mesh: str, swapped: bool) -> str:
    if swapped:
        return "vocabulary"
    others = [c for c in mesh.lower().split(";") if c.split("/")[0].strip() not in HEADINGS]
    named = {n for c in others for q in c.split("/")[1:] for n in QUALIFIERS.get(q.strip(), ())}
    return "attached to a neighbour" if name in named else "gold disagrees: said, not coded"
