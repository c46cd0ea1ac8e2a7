"""Reports: sections, sentences, findings of the opacity family with their assertion, and their attributes. Rules only.

A finding's assertion and attributes are read within its clause, in the manner of ConText (Harkema et al. 2009): a
cue reaches forward until a termination ("but", "however", a new finding with words of its own); enumerations ("no effusion
or focal consolidation") stay under one cue. Every step is linear in the length of the report. No download is needed:
Punkt runs with its default parameters and an abbreviation list, tokens come from a regular expression.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from nltk.tokenize import RegexpTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

SILENT_SECTIONS = {"INDICATION", "HISTORY", "CLINICAL HISTORY", "CLINICAL INFORMATION", "COMPARISON", "TECHNIQUE", "EXAMINATION", "EXAM",
                   "REASON FOR EXAM", "REASON FOR EXAMINATION", "STUDY", "PROCEDURE", "VIEWS", "WET READ", "NOTIFICATION"}  # fmt: skip
SIDES = ("right", "left", "bilateral")
ZONES = ("upper", "middle", "lower", "lingula", "perihilar", "retrocardiac")
SEVERITIES = ("mild", "moderate", "severe")
KINDS = (
    "focal",
    "patchy",
    "multifocal",
    "diffuse",
    "interstitial",
    "streaky",
    "reticular",
    "round",
    "ground glass",
    "consolidation",
)
ATTRIBUTES: tuple[str, ...] = tuple(
    f"{group}:{value}"
    for group, values in (("side", SIDES), ("zone", ZONES), ("severity", SEVERITIES), ("kind", KINDS))
    for value in values
)

_FINDING = re.compile(
    r"\b(?:(?:air[- ]?space|alveolar|parenchymal|interstitial) (?:disease|process|opacit\w+|infiltrat\w+|changes?|thickening)|"
    r"ground[- ]?glass(?: opacit\w+| attenuation| densit\w+)?|ggos?|opacit\w+|opacif\w+|consolidat\w+|infiltrat\w+|"
    r"(?:broncho)?pneumoni(?:a|as|c)\b(?! vaccin)|pneumonitis|(?:air[- ]?space|focal|hazy|patchy|basilar|lobe|zone|lung) densit\w+|haziness|"
    r"hazy (?:area|shadow)\w*)"
)
_NEGATION = re.compile(
    r"\b(?:no|not|without|neither|nor|free of|absence of|negative for|clear of|denies|ruled? out|rather than|resolution of)\b"
)
_NEGATED_AFTER = re.compile(
    r"^[\w ,-]{0,25}?\b(?:(?:is|are|was|were) (?:not|no longer) (?:seen|identified|present|visualized|evident|demonstrated)|not (?:seen|identified)|(?:is|are) absent|(?:has|have) (?:resolved|cleared))"
)
_HEDGE = re.compile(
    r"\b(?:possibl[ey]|probabl[ey]|may|might|could|likely|suspected|suspicious|suggest\w*|questionable|cannot (?:be )?exclude\w*|concern\w*|versus|vs|or)\b"
)
_PAST = re.compile(r"\b(?:previous(?:ly)?|prior|history of|resolved|old|past|interval resolution|cleared)\b")
_HYPOTHETICAL = re.compile(r"\b(?:evaluate for|eval for|rule out|r/o|assess for|if there is|question of)\b")
_BREAK = re.compile(
    r"\b(?:but|however|although|except|though|whereas|which|apart from|aside from|(?<!if )there (?:is|are))\b|[;:]"
)
_OTHER = re.compile(
    r"\b(?:effusions?|pneumothora\w+|cardiomegaly|nodules?|mass(?:es)?|fractures?|atelecta\w+|scar\w*|granuloma\w*|heart|mediastin\w+|catheters?|"
    r"tubes?|lines?|edema|congestion|emphysema|hilar|hila|bones?|silhouette|hemidiaphragm|calcifi\w+|pleural thickening)\b"
)
_WORDS = {
    "side:bilateral": r"bilateral(?:ly)?|both (?:lungs?|sides?|bases?|lower|upper)|(?:lungs|bases) bilaterally|bibasilar|bibasal|biapical",
    "side:right": r"right(?:[- ]sided)?|right-?middle|rll|rml|rul",
    "side:left": r"left(?:[- ]sided)?|lll|lul|lingula\w*|retrocardiac",
    "zone:upper": r"upper|apical|apex|apices|suprahilar|rul|lul|biapical",
    "zone:middle": r"middle|mid(?:[- ]?(?:lung|zone))?|rml|midlung",
    "zone:lower": r"lower|basal|basilar|bas(?:e|es)|bibasilar|bibasal|infrahilar|rll|lll|costophrenic",
    "zone:lingula": r"lingula\w*",
    "zone:perihilar": r"peri-?hilar|parahilar|central",
    "zone:retrocardiac": r"retro-?cardiac",
    "severity:mild": r"mild(?:ly)?|minimal(?:ly)?|subtle|slight(?:ly)?|faint|small|trace|minor|tiny",
    "severity:moderate": r"moderate(?:ly)?|moderately",
    "severity:severe": r"severe(?:ly)?|extensive(?:ly)?|marked(?:ly)?|large|dense|massive|substantial",
    "kind:focal": r"focal|localized|segmental|lobar",
    "kind:patchy": r"patch(?:y|es)|ill[- ]defined",
    "kind:multifocal": r"multi-?focal|multi-?lobar|multiple|scattered",
    "kind:diffuse": r"diffuse(?:ly)?|widespread|generalized",
    "kind:interstitial": r"interstiti\w+",
    "kind:streaky": r"streaky|linear|band-?like",
    "kind:reticular": r"reticul\w+|reticulonodular",
    "kind:round": r"round(?:ed)?|nodular",
    "kind:ground glass": r"ground[- ]?glass|ggos?|hazy|haziness",
    "kind:consolidation": r"consolidat\w+",
}
_ATTRIBUTE = {name: re.compile(rf"(?<!multi)(?<!multi-)\b(?:{pattern})\b") for name, pattern in _WORDS.items()}
REACH = 500  # characters to either side of a finding in which its cues and attributes may stand
_HEADER = re.compile(r"(?:^|(?<=\s))([A-Z][A-Z /&-]{3,40}):")
_TOKENS = RegexpTokenizer(r"[a-z]+(?:[-'][a-z]+)*|_+|\d+(?:\.\d+)?")
_ABBREVIATIONS = {"dr", "vs", "e.g", "i.e", "approx", "cm", "mm", "no", "pt", "a.m", "p.m", "ca", "resp"}


@dataclass(frozen=True)
class Finding:
    """One mention of an opacity: its phrase, the number of its sentence, its assertion, attributes and the sentence's words.

    assertion is 'affirmed', 'hedged', 'negated' or 'past'.
    """

    phrase: str
    sentence: int
    assertion: str
    attributes: frozenset[str]
    words: tuple[str, ...]


@lru_cache(1)
def _punkt() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


def sections(text: str) -> dict[str, str]:
    """Sections by upper-case header ('FINDINGS', ...); text before the first header, or without any, is under ''.

    A header that stands twice (an addendum on top) has its texts joined. A line of underscores ends a section.
    """
    found: dict[str, str] = {}
    name, start = "", 0
    matches = [*_HEADER.finditer(text), None]
    for match in matches:
        body = text[start : match.start() if match else len(text)]
        for place, part in enumerate(re.split(r"\n[^\S\n]*_{5,}[^\S\n]*(?=\n)", body)):
            key = name if place == 0 else ""
            if part.strip():
                found[key] = (found.get(key, "") + "\n" + part.strip()).strip()
        if match:
            name, start = " ".join(match.group(1).split()), match.end()
    return found


def sentences(text: str) -> list[str]:
    """Sentences of a text, with their white space made single; an empty text has none."""
    plain = " ".join(text.split())
    return [s for s in _punkt().tokenize(plain) if re.search(r"\w", s)] if plain else []


def tokens(sentence: str) -> list[str]:
    """Lower-case words and numbers; de-identification marks (___, XXXX) stay as words of their own."""
    return _TOKENS.tokenize(sentence.lower())


def _asserting_sentences(text: str) -> list[str]:
    """Sentences of the sections in which a radiologist asserts something."""
    return [s for name, body in sections(text).items() if name not in SILENT_SECTIONS for s in sentences(body)]


def _clauses(sentence: str) -> list[str]:
    """A sentence cut where a new statement begins: at terminations, and at a comma or 'and' before a new negation."""
    cut = re.sub(r",\s+(?:and\s+)?(?=(?:no|without)\b)|\s+and\s+(?=(?:no|without)\b)", ";", sentence)
    parts, start = [], 0
    for match in _BREAK.finditer(cut):
        parts.append(cut[start : match.start()])
        start = match.start() if match.group(0) not in ";:" else match.end()
    return [p for p in (*parts, cut[start:]) if p.strip()]


def _affirmation_cut(clause: str, start: int) -> str:
    """What stands before a finding and can negate it: from the last affirmed item after a comma on.

    'No effusion, right lower lobe opacity' affirms the opacity: an item after a comma that carries a side or zone of its own and no 'or'
    begins anew; 'no effusion, pneumothorax, or focal consolidation' does not.
    """
    before = clause[:start]
    comma = before.rfind(",")
    if comma >= 0:
        item = before[comma + 1 :]
        placed = any(_ATTRIBUTE[n].search(item) for n in ATTRIBUTES if n.startswith(("side", "zone")))
        if placed and not re.search(r"\b(?:or|nor)\b", item):
            return item
    return before


def _assertion(clause: str, start: int, end: int) -> str:
    before, after = _affirmation_cut(clause, start), clause[end:]
    if _HYPOTHETICAL.search(before):
        return "past"
    if _NEGATION.search(before) and not re.search(
        r"\b(?:cannot|can not|not (?:be )?exclud\w+|no change in|not significantly changed|no significant change)\b",
        before,
    ):
        return "negated"
    if _NEGATED_AFTER.search(after):
        return "negated"
    if _PAST.search(before[-40:]) or re.match(r"[\w ]{0,20}\bresolved\b", after):
        return "past"
    if _HEDGE.search(before) or re.search(
        r"^[\w ,]{0,20}\b(?:cannot be excluded|not excluded|is possible|is suspected)\b", after
    ):
        return "hedged"
    return "affirmed"


def _own_part(clause: str, start: int, end: int) -> str:
    """The part of a clause that describes the finding at start:end, without that which describes another finding.

    To the left it reaches back to the last other finding (and past the word that joins them) or to the comma after a negated one,
    to the right to the next one, less the words that lead up to it.
    """
    item = start - len(_affirmation_cut(clause, start))
    left = item if _NEGATION.search(clause, 0, item) else 0
    for match in _OTHER.finditer(clause, left, start):
        left = match.end()
    right = len(clause)
    following = _OTHER.search(clause, end)
    if following:
        joint = re.search(r"\b(?:with|and|or)\b|,", clause[end : following.start()])
        right = end + joint.start() if joint else following.start()
    return clause[left:right]


def _attributes(clause: str, start: int, end: int) -> frozenset[str]:
    own = _own_part(clause, start, end)
    found = {name for name, pattern in _ATTRIBUTE.items() if pattern.search(own)}
    if {"side:right", "side:left"} <= found or re.search(r"\b(?:both|bilaterally)\b", own):
        found = found - {"side:right", "side:left"} | {"side:bilateral"}
    if "side:bilateral" in found:
        found -= {"side:right", "side:left"}
    if re.search(r"\bbasilar atelecta", own):
        found -= {"zone:lower"} if not re.search(r"\blower\b", own) else set()
    return frozenset(found)


def findings(text: str) -> list[Finding]:
    """Every mention of an opacity in the sections where the report asserts something, in order."""
    found = []
    for number, sentence in enumerate(_asserting_sentences(text)):
        lowered, words = sentence.lower(), None
        for clause in _clauses(lowered):
            for match in _FINDING.finditer(clause):
                words = words or tuple(tokens(sentence))
                low = max(0, match.start() - REACH)
                near = clause[low : match.end() + REACH], match.start() - low, match.end() - low
                found.append(Finding(match.group(0), number, _assertion(*near), _attributes(*near), words))
    return found


def _current(text: str) -> list[Finding]:
    return [f for f in findings(text) if f.assertion in ("affirmed", "hedged")]


def extract_attributes(text: str) -> set[str]:
    """Attributes ('side:right', 'zone:lower', ...) of the opacities that a report asserts, hedged ones included."""
    found = set().union(*(f.attributes for f in _current(text)))
    if {"side:right", "side:left"} <= found:
        found = found - {"side:right", "side:left"} | {"side:bilateral"}
    return found - {"side:right", "side:left"} if "side:bilateral" in found else found


def has_opacity(text: str) -> float:
    """1.0 if a report asserts a current opacity, 0.0 if it negates or does not mention one, NaN if it is empty."""
    if not text.strip():
        return float("nan")
    return 1.0 if _current(text) else 0.0


def asserting_words(text: str) -> list[str]:
    """Words of the sentences that assert a current opacity, each sentence once, in order."""
    seen: dict[int, tuple[str, ...]] = {f.sentence: f.words for f in _current(text)}
    return [word for number in sorted(seen) for word in seen[number]]
