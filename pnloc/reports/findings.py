"""Findings of the opacity family in a report, with assertion and attributes, by rules.

A report is cut into sections and list items (`pnloc.reports.layout`) and into sentences
(`pnloc.reports.sentences`), its words are tagged (`pnloc.reports.lexicon`, `pnloc.reports.cues`),
and `pnloc.reports.scope` decides which cue and which attribute belongs to which finding. `findings`
gives the full record, `extract_attributes` what the report asserts, and `attribute_values` three
values per attribute. Every step is linear in the length of the report.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from pnloc.reports import scope
from pnloc.reports.cues import Item
from pnloc.reports.layout import is_english, parts, statements, straightened
from pnloc.reports.lexicon import ATTRIBUTES, BOTH
from pnloc.reports.sentences import Splitter, plain, tokens

ASSERTIONS = ("affirmed", "hedged", "negated", "past", "hypothetical")
LONGEST = 2_000  # characters of a sentence that are read at once; OpenI's longest has 274


@dataclass(frozen=True)
class Finding:
    """One mention of an opacity.

    `words` are those of its sentence. `span` is where the phrase stands in the report (start, end
    in characters), and `marks` are the spans of the words that give it attributes, each with those
    attributes. Sentences are numbered over the sections that assert something; a mention in the
    indication is 'hypothetical', and its sentence is -1.
    """

    phrase: str
    sentence: int
    assertion: str  # one of ASSERTIONS
    attributes: frozenset[str]
    words: tuple[str, ...]
    section: str = ""
    span: tuple[int, int] = (0, 0)
    marks: tuple[tuple[int, int, frozenset[str]], ...] = ()

    @property
    def current(self) -> bool:
        """Whether it is asserted of today's image, hedged or not."""
        return self.assertion in ("affirmed", "hedged")


def findings(text: str, splitter: Splitter | None = None) -> list[Finding]:
    """Every mention of an opacity, in order; none, and a warning, if a text is not in English.

    `splitter` is a Punkt model of the corpus (`pnloc.reports.sentences.train`). A sentence of more
    than `LONGEST` characters is read in parts.
    """
    if not is_english(text):
        warnings.warn("a report is not in English: nothing is read from it", stacklevel=2)
        return []
    splitter, result, number = splitter or plain(), [], 0
    plain_text, places = straightened(text)
    lowered = plain_text.lower()
    for section in parts(plain_text):
        if section.kind in ("skipped", "exam"):
            continue
        asking = section.kind == "asking"
        listed = statements(plain_text, section.start, section.end)
        for start, end in (span for item in listed for span in splitter.spans(plain_text, *item)):
            sentence, words = -1 if asking else number, None
            for place, part in _cut(lowered, start, end):
                for item, assertion, names, givers in scope.read(part):
                    words = words or tuple(tokens(lowered[start:end]))
                    phrase = " ".join(part[item.start : item.end].split())
                    assertion = "hypothetical" if asking else assertion
                    claim = (phrase, sentence, assertion, one_side(names), words, section.name)
                    marks = tuple((*_span(places, place, i), n) for i, n in givers)
                    result.append(Finding(*claim, _span(places, place, item), marks))
            number += not asking
    return result


def _span(places: Sequence[int], place: int, item: Item) -> tuple[int, int]:
    """Where an item of the sentence part at `place` stands in the report as it came."""
    return places[place + item.start], places[place + item.end - 1] + 1


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    """The parts of text[start:end] of at most LONGEST characters, each with its place.

    It is cut at white space where there is some.
    """
    while end - start > LONGEST:
        space = text.rfind(" ", start + 1, start + LONGEST)
        stop = space if space > 0 else start + LONGEST
        yield start, text[start:stop]
        start = stop
    yield start, text[start:end]


def one_side(names: Set[str]) -> frozenset[str]:
    """Attributes with right and left together made bilateral.

    So is a plural ('lower lobes') with no side named beside it.
    """
    names, sides = frozenset(names), names & {"side:right", "side:left"}
    bilateral = "side:bilateral" in names or len(sides) == 2 or (BOTH in names and not sides)
    return names - {BOTH} - sides | {"side:bilateral"} if bilateral else names - {BOTH}


def _asserted(found: Iterable[Finding]) -> frozenset[str]:
    return one_side(frozenset().union(*(f.attributes for f in found if f.current)))


def extract_attributes(text: str, splitter: Splitter | None = None) -> set[str]:
    """Attributes ('side:right', ...) of the opacities that a report asserts, hedged or not."""
    return set(_asserted(findings(text, splitter)))


def attribute_values(text: str, splitter: Splitter | None = None) -> dict[str, bool | None]:
    """Per attribute: True if a current opacity has it, False if the report denies it, else None.

    Denied are the attributes of a denied finding where all are of one group ('no focal
    consolidation', but not 'no left lower lobe opacity', which denies neither left nor lower), and
    all attributes where opacities are denied without any qualification and none is asserted.
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
    values = dict.fromkeys(ATTRIBUTES) | dict.fromkeys(denied, False) | dict.fromkeys(present, True)
    return {name: values[name] for name in ATTRIBUTES}


def has_opacity(text: str, splitter: Splitter | None = None) -> float:
    """1.0 if a report asserts a current opacity, 0.0 if not, NaN if empty or not in English."""
    if not text.strip() or not is_english(text):
        return float("nan")
    return float(any(f.current for f in findings(text, splitter)))


def asserting_words(text: str, splitter: Splitter | None = None) -> list[str]:
    """Words of the sentences that assert a current opacity, each sentence once, in order."""
    sentences = {f.sentence: f.words for f in findings(text, splitter) if f.current}
    return [word for number in sorted(sentences) for word in sentences[number]]


def describe(name: str, text: str, splitter: Splitter | None = None) -> str:
    """What a report says, for a terminal: its findings one by one, then a summary."""
    if not text.strip():
        return f"{name}\n  an empty report"
    if not is_english(text):
        return f"{name}\n  not in English: nothing is read from it"
    found, values = findings(text, splitter), attribute_values(text, splitter)
    lines = [name]
    for f in found:
        line = f"line {text.count(chr(10), 0, f.span[0]) + 1}"
        attributes = f" [{', '.join(sorted(f.attributes))}]" if f.attributes else ""
        lines.append(f"  {line:<9} {f.assertion:<12} {f.phrase}{attributes}")
    for word, value in (("present", True), ("absent", False)):
        names = [a for a in ATTRIBUTES if values[a] is value]
        every = "every attribute" if len(names) == len(ATTRIBUTES) else ""
        lines.append(f"  {word:<9} {every or ', '.join(names) or 'none'}")
    return "\n".join([*lines, f"  opacity   {'yes' if any(f.current for f in found) else 'no'}"])
