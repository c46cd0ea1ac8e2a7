"""Reports: sections, findings of the opacity family with their assertion, and their attributes. Rules only, no download.

A report is cut into sections and sentences (`pnloc.reports.sentences`), its words are tagged (`pnloc.reports.lexicon`), and `pnloc.reports.scope` says which cue
and which attribute belongs to which finding. `findings` gives the full record, `extract_attributes` what the report asserts,
`attribute_values` three values per attribute. Every step is linear in the length of the report.
"""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pnloc.reports import scope
from pnloc.reports.lexicon import ATTRIBUTES, BOTH, GROUPS
from pnloc.reports.sentences import Splitter, plain, tokens

__all__ = [
    "ATTRIBUTES",
    "ASSERTIONS",
    "GROUPS",
    "Finding",
    "asserting_words",
    "attribute_values",
    "attribute_words",
    "describe",
    "extract_attributes",
    "findings",
    "forget",
    "has_opacity",
    "one_side",
    "sections",
    "sentences",
    "tokens",
]

Assertion = Literal["affirmed", "hedged", "negated", "past", "hypothetical"]
ASSERTIONS: tuple[Assertion, ...] = ("affirmed", "hedged", "negated", "past", "hypothetical")
ASKING_SECTIONS = {
    "INDICATION",
    "INDICATIONS",
    "HISTORY",
    "CLINICAL HISTORY",
    "CLINICAL INFORMATION",
    "REASON FOR EXAM",
    "REASON FOR EXAMINATION",
    "REASON FOR STUDY",
    "CLINICAL INDICATION",
}
SILENT_SECTIONS = ASKING_SECTIONS | {
    "COMPARISON",
    "COMPARISONS",
    "TECHNIQUE",
    "EXAMINATION",
    "EXAM",
    "STUDY",
    "PROCEDURE",
    "VIEWS",
    "WET READ",
    "NOTIFICATION",
}
LONGEST = 2_000  # characters of a sentence that are read at once; OpenI's longest has 274
_HEADER = re.compile(r"(?:^|(?<=\s))([A-Z][A-Z /&-]{3,40}):")
_RULE = re.compile(r"\n[^\S\n]*_{5,}[^\S\n]*(?=\n)")


@dataclass(frozen=True)
class Finding:
    """One mention of an opacity: its phrase, the number of its sentence, its assertion, attributes and the sentence's words.

    `span` is where the phrase stands in the report (start, end in characters), `marks` where the words stand that give it attributes,
    each with the attributes given. Sentences count over the sections that assert something; a mention in the indication
    is 'hypothetical', and its sentence is -1.
    """

    phrase: str
    sentence: int
    assertion: Assertion
    attributes: frozenset[str]
    words: tuple[str, ...]
    section: str = ""
    span: tuple[int, int] = (0, 0)
    marks: tuple[tuple[int, int, frozenset[str]], ...] = ()

    @property
    def current(self) -> bool:
        """Whether it is asserted of today's image, hedged or not."""
        return self.assertion in ("affirmed", "hedged")


def _parts(text: str) -> list[tuple[str, int, int]]:
    """Name, start and end of each part of a report, in order; a name may stand twice."""
    found, name, start = [], "", 0
    for match in [*_HEADER.finditer(text), None]:
        end = match.start() if match else len(text)
        for rule in _RULE.finditer(text, start, end):
            found.append((name, start, rule.start()))
            name, start = "", rule.end()
        found.append((name, start, end))
        if match:
            name, start = " ".join(match.group(1).split()), match.end()
    return [part for part in found if not text[part[1] : part[2]].isspace() and part[2] > part[1]]


def sections(text: str) -> dict[str, str]:
    """Sections by upper-case header ('FINDINGS', ...); text before the first header, or without any, is under ''.

    A header that stands twice (an addendum on top) has its texts joined. A line of underscores ends a section.
    """
    found: dict[str, str] = {}
    for name, start, end in _parts(text):
        found[name] = (found.get(name, "") + "\n" + text[start:end].strip()).strip()
    return found


def sentences(text: str, splitter: Splitter | None = None) -> list[str]:
    """Sentences of a text, with their white space made single; an empty text has none."""
    return (splitter or plain())(text)


def findings(text: str, splitter: Splitter | None = None) -> list[Finding]:
    """Every mention of an opacity, in order; `splitter` is a Punkt model of the corpus (`pnloc.reports.sentences.train`).

    A sentence of more than `LONGEST` characters is read in parts.
    """
    splitter, lowered, found, number = splitter or plain(), text.lower(), [], 0
    if len(lowered) != len(text):  # a few letters of other scripts change their length
        lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    for name, begin, stop in _parts(text):
        if name in SILENT_SECTIONS - ASKING_SECTIONS:
            continue
        asking = name in ASKING_SECTIONS
        for start, end in splitter.spans(text, begin, stop):
            words = None
            for place, part in _cut(lowered, start, end):
                for phrase, assertion, attributes, (first, last), marks in _mentions(part):
                    words = words or tuple(tokens(text[start:end]))
                    found.append(
                        Finding(
                            phrase,
                            -1 if asking else number,
                            "hypothetical" if asking else assertion,
                            attributes,
                            words,
                            name,
                            (place + first, place + last),
                            tuple((place + a, place + b, names) for a, b, names in marks),
                        )
                    )
            number += not asking
    return found


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    """The parts of text[start:end], each with its place, of at most LONGEST characters and cut at white space where there is some."""
    while end - start > LONGEST:
        space = text.rfind(" ", start + 1, start + LONGEST)
        stop = space if space > 0 else start + LONGEST
        yield start, text[start:stop]
        start = stop
    yield start, text[start:end]


@lru_cache(1 << 14)  # reports repeat themselves: 'no focal consolidation, effusion or pneumothorax'
def _mentions(
    sentence: str,
) -> tuple[tuple[str, Assertion, frozenset[str], tuple[int, int], tuple], ...]:
    """Phrase, assertion, attributes, span and marks of each finding of a lower-case sentence; places count from its start."""
    return tuple(
        (
            " ".join(sentence[item.start : item.end].split()),
            assertion,
            one_side(frozenset().union(*(names for _, names in givers))),
            (item.start, item.end),
            tuple((i.start, i.end, names) for i, names in givers if i is not item),
        )
        for item, assertion, givers in scope.read(sentence, 0, len(sentence))
    )


def forget() -> None:
    """Drop what is remembered of sentences that were read before, so that a measurement begins anew."""
    _mentions.cache_clear()


def one_side(names: Set[str]) -> frozenset[str]:
    """Right and left together are bilateral, and so is a plural ('lower lobes') beside which no side is named."""
    names = frozenset(names)
    if BOTH in names:
        named = names & {"side:right", "side:left"}
        names = names - {BOTH} | (frozenset() if named else {"side:bilateral"})
    if "side:bilateral" in names or {"side:right", "side:left"} <= names:
        return names - {"side:right", "side:left"} | {"side:bilateral"}
    return names


def _asserted(found: list[Finding]) -> frozenset[str]:
    return one_side(frozenset().union(*(f.attributes for f in found if f.current)))


def extract_attributes(text: str, splitter: Splitter | None = None) -> set[str]:
    """Attributes ('side:right', 'zone:lower', ...) of the opacities that a report asserts, hedged ones included."""
    return set(_asserted(findings(text, splitter)))


def attribute_values(text: str, splitter: Splitter | None = None) -> dict[str, bool | None]:
    """Per attribute: True where a current opacity has it, False where the report denies it, None where it says neither.

    Denied are the attributes of a denied finding where all are of one group ('no focal consolidation', not 'no left lower lobe opacity', which
    denies neither left nor lower), and all attributes where opacities are denied without any qualification and none is asserted.
    """
    found = findings(text, splitter)
    present = _asserted(found)
    denied: set[str] = set()
    for finding in found:
        if finding.assertion == "negated":
            groups = {name.split(":")[0] for name in finding.attributes}
            if len(groups) == 1:
                denied |= finding.attributes
            if groups <= {"kind"} and not any(f.current for f in found):
                denied |= set(ATTRIBUTES)
    return {
        name: True if name in present else False if name in denied else None for name in ATTRIBUTES
    }


def has_opacity(text: str, splitter: Splitter | None = None) -> float:
    """1.0 if a report asserts a current opacity, 0.0 if it negates or does not mention one, NaN if it is empty."""
    if not text.strip():
        return float("nan")
    return float(any(f.current for f in findings(text, splitter)))


def asserting_words(text: str, splitter: Splitter | None = None) -> list[str]:
    """Words of the sentences that assert a current opacity, each sentence once, in order."""
    seen = {f.sentence: f.words for f in findings(text, splitter) if f.current}
    return [word for number in sorted(seen) for word in seen[number]]


def attribute_words(text: str) -> set[str]:
    """Attributes for which a text has a word anywhere, whatever the word describes."""
    found = frozenset().union(*(i.names for i in scope.items(text.lower(), 0, len(text))))
    return set(found - {BOTH} | ({"side:bilateral"} if BOTH in found else set()))


def describe(name: str, text: str, splitter: Splitter | None = None) -> str:
    """What a report says, to be read on a terminal: each finding with its assertion and attributes, then the report as a whole."""
    found = findings(text, splitter)
    lines = [name]
    for f in found:
        where = f"line {text.count(chr(10), 0, f.span[0]) + 1}"
        lines.append(
            f"  {where:<9} {f.assertion:<12} {f.phrase}"
            + (f" [{', '.join(sorted(f.attributes))}]" if f.attributes else "")
        )
    values = attribute_values(text, splitter)
    for word, value in (("present", True), ("absent", False)):
        chosen = [a for a in ATTRIBUTES if values[a] is value]
        lines.append(
            f"  {word:<9} {'every attribute' if len(chosen) == len(ATTRIBUTES) else ', '.join(chosen) or 'none'}"
        )
    if not text.strip():
        return f"{name}\n  an empty report"
    return "\n".join([*lines, f"  opacity   {'yes' if any(f.current for f in found) else 'no'}"])
