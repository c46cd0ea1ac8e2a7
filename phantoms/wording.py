"""Reports, written from the truth with the words of wording.toml.

There are synonyms, negations, hedges, other findings, and now and then a slip. `write` gives a
report with sections as a hospital has them, `note` the free clinical note of a collection.
"""

from numpy.random import Generator

from phantoms.case import Case, Finding
from phantoms.rates import RATES, table

WORDS = table("wording")
OPPOSITE = {"left": "right", "right": "left"}


def _pick(rng: Generator, options: list[str]) -> str:
    return options[rng.integers(len(options))]


def _happens(rng: Generator, rate: str) -> bool:
    return rng.random() < RATES[rate]


def _opacity(rng: Generator, finding: Finding, side: str, grade: str) -> str:
    """A sentence that places an opacity on a side."""
    nouns = WORDS["nouns"][finding.kind] if _happens(rng, "says_kind") else WORDS["plain"]
    what = _pick(rng, nouns)
    if _happens(rng, "says_severity"):
        what = f"{_pick(rng, WORDS['grades'][grade])} {what}"
    frame = _pick(rng, WORDS["hedges" if _happens(rng, "hedged") else "frames"])
    zoned = _happens(rng, "says_zone")
    place = _pick(rng, WORDS["places"][finding.zone]) if zoned else "lung"
    return frame.format(what=what, What=what[0].upper() + what[1:], where=f"{side} {place}")


def _sentences(case: Case, rng: Generator) -> tuple[list[str], list[Finding], bool]:
    """Sentences on all findings; which opacities they report; whether the side is wrong."""
    reported = [o for o in case.opacities if not _happens(rng, "omitted")]
    slipped = len({o.side for o in reported}) == 1 and _happens(rng, "wrong_side")
    sides = [OPPOSITE[o.side] if slipped else o.side for o in reported]
    placed = zip(reported, sides, strict=True)
    lines = [_opacity(rng, o, side, case.severity) for o, side in placed]
    if not reported:
        lines.append(_pick(rng, WORDS["normal"]))
    elif rng.random() < 0.4:
        # Never against the report's own words.
        free = [side for side in OPPOSITE if side not in sides]
        lines += [_pick(rng, WORDS["free"]).format(side=side) for side in free]
    for o in case.others:
        if _happens(rng, "says_distractor"):
            lines.append(_pick(rng, WORDS["others"][o.kind]).format(side=o.side))
    return lines, reported, slipped


def write(case: Case, rng: Generator) -> tuple[str, list[Finding], bool]:
    """A report with the sections that hospitals use.

    Beside the text: the opacities that it reports, and whether it names the wrong side.
    """
    lines, reported, slipped = _sentences(case, rng)
    general = rng.permutation(WORDS["general"])[: rng.integers(1, 4)].tolist()
    if any(o.kind == "effusion" for o in case.others):
        general = [g for g in general if "effusion" not in g]
    impression = _pick(rng, WORDS["closings_positive" if reported else "closings_negative"])
    if reported:
        impression = f"{impression} {lines[0]}"
    indication, findings = _pick(rng, WORDS["indications"]), ""
    if _happens(rng, "impression_only"):
        impression = " ".join(lines)
    else:
        mixed = [*lines, *general] if rng.random() < 0.7 else [*general, *lines]
        findings = f" FINDINGS:  {' '.join(mixed)}\n\n"
    text = WORDS["report"].format(indication=indication, findings=findings, impression=impression)
    return text, reported, slipped


def note(case: Case, rng: Generator) -> str:
    """A free clinical note like those of the COVID-19 collection."""
    lines, _, _ = _sentences(case, rng)
    return f"{_pick(rng, WORDS['openings'])} {' '.join(lines)}"
