"""Reports, written from the truth with the words of wording.toml.

There are synonyms, negations, hedges, other findings, and now and then a slip. `write` gives a
report with sections as a hospital has them, `note` the free clinical note of a collection.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from numpy.random import Generator

from pnloc.data.demo.case import Case, Finding
from pnloc.data.demo.rates import Rates

WORDS = tomllib.loads(Path(__file__).with_name("wording.toml").read_text(encoding="utf-8"))
OPPOSITE = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Report:
    """A text, the opacities that it reports, and whether it names the wrong side."""

    text: str
    reported: tuple[Finding, ...]
    slipped: bool


def _pick(rng: Generator, options: list[str]) -> str:
    return options[rng.integers(len(options))]


def _opacity(rng: Generator, finding: Finding, side: str, grade: str, rates: Rates) -> str:
    """A sentence on an opacity, said to lie on a side."""
    nouns = WORDS["nouns"][finding.kind] if rng.random() < rates.says_kind else WORDS["plain"]
    what = _pick(rng, nouns)
    if rng.random() < rates.says_severity:
        what = f"{_pick(rng, WORDS['grades'][grade])} {what}"
    frame = _pick(rng, WORDS["hedges" if rng.random() < rates.hedged else "frames"])
    zoned = rng.random() < rates.says_zone
    place = _pick(rng, WORDS["places"][finding.zone]) if zoned else "lung"
    return frame.format(what=what, What=what[0].upper() + what[1:], where=f"{side} {place}")


def _sentences(case: Case, rng: Generator, rates: Rates) -> tuple[list[str], list[Finding], bool]:
    """Sentences on all findings; which opacities they report; whether the side is wrong."""
    reported = [o for o in case.opacities if rng.random() >= rates.omitted]
    slipped = len({o.side for o in reported}) == 1 and rng.random() < rates.wrong_side
    sides = [OPPOSITE[o.side] if slipped else o.side for o in reported]
    lines = [
        _opacity(rng, o, side, case.severity, rates)
        for o, side in zip(reported, sides, strict=True)
    ]
    if not reported:
        lines.append(_pick(rng, WORDS["normal"]))
    elif rng.random() < 0.4:
        # Never against the report's own words.
        free = [side for side in OPPOSITE if side not in sides]
        lines += [_pick(rng, WORDS["free"]).format(side=side) for side in free]
    lines += [
        _pick(rng, WORDS["others"][o.kind]).format(side=o.side)
        for o in case.others
        if rng.random() < rates.says_distractor
    ]
    return lines, reported, slipped


def write(case: Case, rng: Generator, rates: Rates) -> Report:
    """A report with the sections that hospitals use."""
    lines, reported, slipped = _sentences(case, rng, rates)
    general = [WORDS["general"][i] for i in rng.permutation(len(WORDS["general"]))]
    general = general[: rng.integers(1, 4)]
    if any(o.kind == "effusion" for o in case.others):
        general = [g for g in general if "effusion" not in g]
    impression = _pick(rng, WORDS["closings_positive" if reported else "closings_negative"])
    if reported:
        impression = f"{impression} {lines[0]}"
    indication, findings = _pick(rng, WORDS["indications"]), ""
    if rng.random() < rates.impression_only:
        impression = " ".join(lines)
    else:
        mixed = [*lines, *general] if rng.random() < 0.7 else [*general, *lines]
        findings = f" FINDINGS:  {' '.join(mixed)}\n\n"
    text = WORDS["report"].format(indication=indication, findings=findings, impression=impression)
    return Report(text, tuple(reported), slipped)


def note(case: Case, rng: Generator, rates: Rates) -> str:
    """A free clinical note, as those of the COVID-19 collection."""
    lines, _, _ = _sentences(case, rng, rates)
    return f"{_pick(rng, WORDS['openings'])} {' '.join(lines)}"
