"""Reports, written from the truth: many templates, synonyms, negations, hedges, other findings, and now and then a slip.

`write` gives a report with sections as a hospital has them, `note` the free clinical note of a collection; `Said` keeps which
opacities were really reported and on which side, so that tests can tell a slip from an error.
"""

from dataclasses import dataclass

import numpy as np

from pnloc.data.demo.lesions import Case, Finding
from pnloc.data.demo.rates import Rates

NOUNS = {
    "patchy": (
        "patchy opacity",
        "patchy airspace opacity",
        "patchy consolidation",
        "patchy infiltrate",
        "ill-defined opacity",
    ),
    "focal": ("focal opacity", "focal consolidation", "focal infiltrate", "focal airspace opacity"),
    "consolidation": (
        "consolidation",
        "airspace consolidation",
        "dense consolidation",
        "consolidative opacity",
    ),
    "ground glass": (
        "ground-glass opacity",
        "hazy opacity",
        "ground glass opacities",
        "hazy ground-glass opacity",
    ),
    "interstitial": (
        "interstitial opacities",
        "reticular interstitial opacity",
        "interstitial infiltrate",
    ),
}
PLAIN = ("opacity", "airspace opacity", "infiltrate", "airspace disease")
PLACES = {
    "upper": ("upper lobe", "upper zone", "upper lung", "apical region"),
    "middle": ("mid lung", "mid zone", "middle zone"),
    "lower": ("lower lobe", "lower zone", "base", "lower lung"),
}
GRADES = {
    "mild": ("mild", "subtle", "faint", "minimal"),
    "moderate": ("moderate",),
    "severe": ("severe", "extensive", "marked"),
}
FRAMES = (
    "There is {what} in the {where}.",
    "{What} in the {where}.",
    "{What} is seen in the {where}.",
    "New {what} in the {where}.",
    "{What} is present in the {where}.",
    "Increasing {what} is noted in the {where}.",
    "Again seen is {what} in the {where}.",
)
HEDGES = (
    "Possible {what} in the {where}.",
    "{What} in the {where} may represent pneumonia.",
    "{What} in the {where}, which could represent infection.",
    "Probable {what} in the {where}.",
    "{What} in the {where}, concerning for pneumonia.",
)
NORMAL = (
    "No focal consolidation.",
    "Lungs are clear.",
    "No focal airspace disease.",
    "No opacity or consolidation is seen.",
    "No evidence of pneumonia.",
)
FREE = (
    "No consolidation on the {side}.",
    "The {side} lung is clear.",
    "No focal opacity in the {side} lung.",
)
GENERAL = (
    "Heart size is normal.",
    "The cardiomediastinal silhouette is unremarkable.",
    "No pneumothorax.",
    "No pleural effusion or pneumothorax.",
    "Osseous structures are intact.",
    "Heart size is top normal.",
    "The mediastinal contours are normal.",
)
OTHERS = {
    "nodule": (
        "A small nodule projects over the {side} lung.",
        "Nodular density in the {side} lung, nodule not excluded.",
    ),
    "atelectasis": (
        "Linear atelectasis at the {side} base.",
        "Minimal {side} basilar atelectasis.",
    ),
    "effusion": (
        "Small {side} pleural effusion.",
        "Blunting of the {side} costophrenic angle, small effusion.",
    ),
    "scar": ("Scarring at the {side} apex.", "Apical scar on the {side}."),
    "device": (
        "Lines and tubes are in place.",
        "A catheter projects over the mediastinum.",
        "Monitoring leads overlie the chest.",
    ),
}
INDICATIONS = (
    "Cough and fever, evaluate for pneumonia.",
    "Shortness of breath.",
    "Fever.",
    "Hypoxia, question of pneumonia.",
    "Follow-up.",
)


@dataclass(frozen=True)
class Said:
    """A report, the opacities that it reports, and whether it named a wrong side."""

    text: str
    reported: tuple[Finding, ...]
    slipped: bool


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]


def _where(rng: np.random.Generator, finding: Finding, side: str, rates: Rates) -> str:
    if rng.random() < rates.says_zone:
        return f"{side} {_pick(rng, PLACES[finding.zone])}"
    return f"{side} lung"


def _opacity(
    rng: np.random.Generator, finding: Finding, side: str, grade: str, rates: Rates
) -> str:
    noun = _pick(rng, NOUNS[finding.kind] if rng.random() < rates.says_kind else PLAIN)
    what = f"{_pick(rng, GRADES[grade])} {noun}" if rng.random() < rates.says_severity else noun
    frame = _pick(rng, HEDGES if rng.random() < rates.hedged else FRAMES)
    return frame.format(
        what=what, What=what[0].upper() + what[1:], where=_where(rng, finding, side, rates)
    )


def sentences(
    case: Case, rng: np.random.Generator, rates: Rates
) -> tuple[list[str], list[Finding], bool]:
    """Sentences on opacities and other findings; which opacities they report; whether a side slipped."""
    reported = [o for o in case.opacities if rng.random() >= rates.omitted]
    slipped = len({o.side for o in reported}) == 1 and rng.random() < rates.wrong_side
    swap = {"left": "right", "right": "left"} if slipped else {"left": "left", "right": "right"}
    found = [_opacity(rng, o, swap[o.side], case.severity, rates) for o in reported]
    if not reported:
        found.append(_pick(rng, NORMAL))
    elif rng.random() < 0.4:
        free = [
            s for s in ("left", "right") if s not in {swap[o.side] for o in reported}
        ]  # never against its own words
        found += [_pick(rng, FREE).format(side=side) for side in free]
    found += [
        _pick(rng, OTHERS[o.kind]).format(side=o.side)
        for o in case.others
        if rng.random() < rates.says_distractor
    ]
    return found, reported, slipped


def write(case: Case, rng: np.random.Generator, rates: Rates) -> Said:
    """A report with the sections that hospitals use."""
    found, reported, slipped = sentences(case, rng, rates)
    general = [GENERAL[i] for i in rng.permutation(len(GENERAL))[: rng.integers(1, 4)]]
    if any(o.kind == "effusion" for o in case.others):
        general = [g for g in general if "effusion" not in g]
    if reported:
        closing = (
            _pick(
                rng,
                (
                    "Findings are concerning for pneumonia.",
                    "Pneumonia.",
                    "Findings compatible with pneumonia.",
                    "Recommend follow-up to resolution.",
                ),
            )
            + " "
            + found[0]
        )
    else:
        closing = _pick(
            rng,
            (
                "No acute cardiopulmonary process.",
                "No evidence of pneumonia.",
                "No acute findings.",
            ),
        )
    head = f"                                 FINAL REPORT\n EXAMINATION:  CHEST RADIOGRAPH\n\n INDICATION:  {_pick(rng, INDICATIONS)}\n\n COMPARISON:  None.\n\n"
    if rng.random() < rates.impression_only:
        return Said(f"{head} IMPRESSION:  {' '.join(found)}\n", tuple(reported), slipped)
    mixed = [*found, *general] if rng.random() < 0.7 else [*general, *found]
    return Said(
        f"{head} FINDINGS:  {' '.join(mixed)}\n\n IMPRESSION:  {closing}\n",
        tuple(reported),
        slipped,
    )


def note(case: Case, rng: np.random.Generator, rates: Rates) -> str:
    """A free clinical note, as those of the COVID-19 collection."""
    found, _, _ = sentences(case, rng, rates)
    opening = _pick(
        rng,
        (
            "Admitted with fever and cough.",
            "Five days of dyspnea.",
            "Presented with fever.",
            "Dry cough for a week.",
        ),
    )
    return f"{opening} {' '.join(found)}"
