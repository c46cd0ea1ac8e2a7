"""The words of chest radiology: what each means for an opacity, as the tags over which `pnloc.reports.scope` has its rules.

A word has one `Tag`: its roles (letters, below) and the attributes that it names. Words are expressions, phrases are words with spaces
between them; a hyphen counts as a space ('ground-glass' is 'ground glass'). Places and kinds follow the Fleischner glossary (Hansell
et al. 2008), cues NegEx and ConText (Chapman et al. 2001, Harkema et al. 2009).
"""

import re
from functools import lru_cache
from typing import NamedTuple

GROUPS = {
    "side": ("right", "left", "bilateral"),
    "zone": ("upper", "middle", "lower", "lingula", "perihilar", "retrocardiac"),
    "severity": ("mild", "moderate", "severe"),
    "kind": (
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
    ),
}
ATTRIBUTES: tuple[str, ...] = tuple(
    f"{group}:{value}" for group, values in GROUPS.items() for value in values
)

# Roles. A word may have several: 'or' joins and hedges, 'may' hedges and links.
FINDING, DENSITY, LUNG, OTHER, LANDMARK, MODIFIER = (
    "F",
    "D",
    "U",
    "O",
    "M",
    "A",
)  # D: findings only if of the lung
NEGATION, NOT, DENIED, FREE = "N", "n", "d", "f"  # free: 'no change in', which negates nothing
HEDGE, HEDGED, PAST, RESOLVED, PERSISTS, HYPOTHETICAL = "H", "h", "P", "r", "S", "Y"
BREAK, EXISTS, JOIN, OR, COMMA, WITH, PLACE, LINK, VERB, FOREIGN, REDACTED = (
    "T",
    "E",
    "&",
    "/",
    ",",
    "W",
    "L",
    "V",
    "v",
    "B",
    "_",
)


BOTH = "side:both"  # a plural that means both sides where none is named: 'in the lower lobes', but not 'in the right middle and lower lobes'
GROUND_GLASS = frozenset({"kind:ground glass"})


class Tag(NamedTuple):
    """The roles of a word or phrase and the attributes that it names."""

    roles: str
    names: frozenset[str] = frozenset()


_WORDS: dict[str, str] = {
    FINDING: r"opacit\w*|opacif\w*|infiltrat\w*|(?:broncho)?pneumonias?|pneumonitis|consolidat(?:ions?|ed|ing)|haziness|ggos?",
    DENSITY: r"densit(?:y|ies)",
    LUNG: r"atelecta\w+|scars?|scarring|fibrosis|edema|congestion|collapse|nodules?|nodularity|irregularit\w+|granulomas?|mass|masses|aspiration|contusions?|infections?|"
    r"bronchiectasis|lesions?|tuberculosis|metastas\w+|malignancy|neoplasm|carcinoma|tumou?r|bullae?|blebs?|cavit(?:y|ies|ation)|crowding|markings",
    OTHER: r"effusions?|fluid|pneumothora\w+|hydropneumothora\w+|cardiomegaly|fractures?|catheters?|tubes?|lines?|ports?|pacemaker|leads?|emphysema\w*|"
    r"silhouettes?|calcifications?|vascularity|vasculature|spondylosis|sternotomy|clips?|hernia|blunting|volumes?|aeration|inspiration|scoliosis|osteophytes?|"
    r"stents?|degenerative|deformit\w+|thickening|lymphadenopathy|hyper(?:inflation|expansion)|elevation|heart|thoracotomy|mastectomy|surgery|shift|clear|normal|unremarkable|retraction|fullness|enlargement|engorgement|adenopathy|prominence",
    LANDMARK: r"ribs?|hemidiaphragms?|diaphragms?|clavicles?|aorta|aortic|mediastin\w+|cardiomediastin\w+|cardiac|spine|vertebra\w*|scapula\w*|bones?|bony|osseous|"
    r"vessels?|fissures?|border|chest|thorax|nipples?",
    NEGATION: r"no|without|neither|nor|denies|absence",
    NOT: r"not",
    HEDGE: r"possib\w+|probabl[ey]|may|might|could|likely|suspect\w*|suspicio\w+|suggest\w*|question\w*|concern\w*|consider\w*|differential|perhaps|presum\w+|equivocal|worrisome|or|versus|vs",
    PAST: r"previous|previously|prior|old|past|former|formerly|resolved",
    RESOLVED: r"resolved|cleared",
    PERSISTS: r"unchanged|persist\w*|stable|remain\w*|again|improv\w+|decreas\w+|increas\w+|smaller|larger|worse\w*|residual|resolving|redemonstrat\w+|similar",
    BREAK: r"but|however|although|except|though|whereas|which",
    JOIN: r"and|or|plus|versus|vs|nor",
    OR: r"or|versus|vs",
    WITH: r"with",
    PLACE: r"in|at|within|of|involving|overlying|over|near|along|adjacent|project\w*|on|behind|about|throughout|around|into|superimposed",
    LINK: r"represent\w*|reflect\w*|suggest\w*|suspicious|consistent|compatible|due|secondary|relat\w+|indicat\w+|likely|favor\w*|concerning|worrisome|correspond\w*|obscur\w+|"
    r"may|might|could|caus\w+|suspected|because|since|consider|differential|compar\w+",
    VERB: r"is|are|was|were|has|have|been|seen|noted|identified|present|demonstrates?|shows?|contains?|appears?",
    REDACTED: r"x{3,}|_+",
    FOREIGN: r"mineral\w*|demineral\w*|metallic|radiopaque|contrast|breast|pericardial|soft|fat|fatty|osseous|bony|bones?|nipple",
}
_NAMES: dict[str, str] = {
    "side:bilateral": r"bilateral|bilaterally|bibasilar|bibasal|biapical|bihilar|both",
    "side:right": r"right|rt|rll|rml|rul",
    "side:left": r"left|lt|lll|lul|lingula|lingular",
    BOTH: r"bases|apices|lungs|lobes|hila|hemithoraces",
    "zone:upper": r"upper|apical|apex|apices|biapical|rul|lul",
    "zone:middle": r"middle|mid|midlungs?|midzone|rml",
    "zone:lower": r"lower|basal|basilar|bases?|bibasilar|bibasal|rll|lll|costophrenic|cardiophrenic",
    "zone:lingula": r"lingula|lingular",
    "zone:perihilar": r"perihilar|parahilar|juxtahilar|infrahilar|suprahilar|hilum|hilar|bihilar|hila",
    "zone:retrocardiac": r"retrocardiac",
    "severity:mild": r"mild|mildly|minimal|minimally|subtle|slight|slightly|faint|faintly|small|trace|minor|tiny",
    "severity:moderate": r"moderate|moderately",
    "severity:severe": r"severe|severely|extensive|extensively|marked|markedly|large|massive|substantial",
    "kind:focal": r"focal|locali[sz]ed|segmental|lobar|focus",
    "kind:patchy": r"patchy|patch|patches",
    "kind:multifocal": r"multifocal|multilobar|multiple|scattered|multisegmental|multilobe|foci|few|several|numerous",
    "kind:diffuse": r"diffuse|diffusely|widespread|generali[sz]ed",
    "kind:interstitial": r"interstiti\w+",
    "kind:streaky": r"streak\w*|stringy|strandy|strands|linear",
    "kind:reticular": r"reticul\w+",
    "kind:round": r"round|rounded|nodular|oval|ovoid|reticulonodular|fibronodular",
    "kind:ground glass": r"hazy|haziness|ggos?",
    "kind:consolidation": r"consolidat\w+",
}
_PHRASES: dict[Tag, str] = {
    Tag(
        FINDING
    ): "airspace disease|air space disease|air space process|air space changes|alveolar disease|airspace process|alveolar process|parenchymal disease|parenchymal process|infectious process|"
    "airspace changes|alveolar changes|hazy area|hazy areas|hazy shadow|hazy shadowing|interstitial process",
    Tag(MODIFIER, GROUND_GLASS): "ground glass",
    Tag(MODIFIER, frozenset({"kind:patchy"})): "ill defined|poorly defined|patches of",
    Tag(
        MODIFIER, frozenset({"kind:multifocal"})
    ): "multi focal|multi lobar|foci of|multiple areas of",
    Tag(MODIFIER, frozenset({"kind:focal"})): "focus of",
    Tag(
        MODIFIER, frozenset({"zone:perihilar"})
    ): "peri hilar|para hilar|central lung|central lungs",
    Tag(MODIFIER, frozenset({"zone:retrocardiac"})): "retro cardiac|behind the heart",
    Tag(NEGATION): "free of|clear of|negative for|rather than|resolution of|w / o|instead of",
    Tag(
        FREE + HEDGE
    ): "cannot exclude|can not exclude|cannot rule out|can not rule out|not exclude",
    Tag(FREE): "no change|no changes|no significant change|no interval change|"
    "no significant interval change|not changed|not significantly changed|without change|without significant change|no increase|no improvement|no decrease|"
    "not only|no definite change|no substantial change|no appreciable change",
    Tag(
        DENIED
    ): "not seen|not identified|not present|not visualized|not evident|not demonstrated|not appreciated|not visible|not apparent|not noted|no longer|"
    "is absent|are absent|has resolved|have resolved|has cleared|have cleared|has been excluded|is ruled out|completely resolved|now resolved|"
    "has completely resolved|have completely resolved|has been ruled out",
    Tag(
        HEDGED
    ): "be excluded|not excluded|be ruled out|is possible|is suspected|is questioned|not entirely excluded",
    Tag(PAST): "history of",
    Tag(MODIFIER, frozenset({"severity:mild"})): "small amount of|small amounts of|small volume",
    Tag(
        ""
    ): "upper limits|upper limit|upper normal|upper abdomen|upper quadrant|upper thoracic|lower thoracic|mid thoracic|cardiac apex|"
    "apical lordotic|on this|on today|on the current|on current|area of|areas of|amount of|region of|regions of|previous exam|previous examination|previous examinations|previous exams|previous study|previous studies|previous film|previous films|"
    "previous radiograph|previous radiographs|prior exam|prior examination|prior examinations|prior exams|prior study|prior studies|prior film|prior films|"
    "prior radiograph|prior radiographs|prior chest|previous chest|prior ct|previous ct|prior xxxx|previous xxxx|pneumonia vaccine|pneumonia vaccination|"
    "pneumonia vaccines",
    Tag(
        HYPOTHETICAL
    ): "evaluate for|eval for|evaluation for|evaluation of|rule out|r / o|assess for|if there is|to exclude|clinical concern for|"
    "clinical suspicion of|clinical suspicion for|symptoms of|signs of|risk of|in case of|treatment for|treatment of|treated for|therapy for|follow up of",
    Tag(EXISTS): "there is|there are",
    Tag(
        OTHER
    ): "right heart|left heart|right atrial|right ventricular|left atrial|left ventricular|right ventricle|left ventricle",
    Tag(BREAK): "apart from|aside from|other than|;|:",
    Tag(JOIN + OR): "/|and / or",
    Tag(COMMA): ",",
}

_ROLES = [(re.compile(pattern), role) for role, pattern in _WORDS.items()]
_ATTRIBUTES = [(re.compile(pattern), name) for name, pattern in _NAMES.items()]
_NOTHING = Tag("")
# What misspelt words are compared with: the heads, in all their forms.
_HEADS = (
    "opacity",
    "opacities",
    "opacification",
    "infiltrate",
    "infiltrates",
    "infiltration",
    "pneumonia",
    "pneumonias",
    "consolidation",
    "consolidations",
    "atelectasis",
    "effusion",
    "effusions",
    "pneumothorax",
    "cardiomegaly",
    "density",
    "densities",
)
PHRASES: dict[str, list[tuple[tuple[str, ...], Tag]]] = {}
for _tag, _phrases in _PHRASES.items():
    for _phrase in _phrases.split("|"):
        _first, *_rest = _phrase.split()
        PHRASES.setdefault(_first, []).append((tuple(_rest), _tag))
for _listed in PHRASES.values():
    _listed.sort(key=lambda entry: -len(entry[0]))
OPENERS = {
    "airspace",
    "air",
    "alveolar",
    "parenchymal",
    "infectious",
    "interstitial",
    "hazy",
    "ground",
}  # may open a finding's phrase


@lru_cache(1 << 16)
def tag(word: str) -> Tag:
    """The tag of one lower-case word; a misspelt head has that of the word meant ('opactiy', 'consolodation')."""
    roles = "".join(role for pattern, role in _ROLES if pattern.fullmatch(word))
    names = frozenset(name for pattern, name in _ATTRIBUTES if pattern.fullmatch(word))
    if names and FINDING not in roles:
        roles += MODIFIER
    if not roles and len(word) >= 7:
        meant = next((head for head in _HEADS if _misspells(word, head)), None)
        return tag(meant) if meant else _NOTHING
    return Tag(roles, names) if roles else _NOTHING


def _misspells(word: str, meant: str) -> bool:
    """Whether two words begin alike and differ by one letter added, lost, changed, or by two neighbours swapped."""
    if word[0] != meant[0] or abs(len(word) - len(meant)) > 1:
        return False
    same = next(
        (i for i, (a, b) in enumerate(zip(word, meant, strict=False)) if a != b),
        min(len(word), len(meant)),
    )
    one, two = word[same:], meant[same:]
    return (
        one[1:] == two[1:]
        or one[1:] == two
        or one == two[1:]
        or (one[:2] == two[:2][::-1] and one[2:] == two[2:])
    )
