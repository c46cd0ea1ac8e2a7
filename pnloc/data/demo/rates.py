"""Every rate of the generator in one place; `as_dict()` is written beside the data as rates.json.

Size and density of the opacities were set so that boxes are about as large as those of real RSNA
images (median 6.7% of the picture), and not brighter against the mirrored place. No rate was set
by looking at what a model makes of it, and none is touched once methods are compared.

The sets differ as the real ones do: the RSNA-like set is mixed AP and PA with about half of its
images positive (RSNA was enriched), the MIMIC-like set is mostly portable AP, its reports about
pneumonia more often than not; the NIH-like one is measured only.
"""

from dataclasses import asdict, dataclass, field

KINDS = {
    "patchy": 0.34,
    "focal": 0.24,
    "consolidation": 0.2,
    "ground glass": 0.14,
    "interstitial": 0.08,
}
# Findings that an opacity detector also fires on.
DISTRACTORS = {"atelectasis": 0.3, "effusion": 0.25, "nodule": 0.15, "scar": 0.12, "device": 0.18}
# RSNA's readers boxed suspicious opacities: some atelectases and effusions, rarely a nodule.
BOXED = {"atelectasis": 0.3, "effusion": 0.15, "nodule": 0.1, "scar": 0.05, "device": 0.0}


@dataclass(frozen=True)
class SetRates:
    """Rates of one set."""

    positive: float  # share of images with a pneumonia
    portable: float  # share of AP views: larger heart, less contrast, shallower breath
    distractor: float  # mean number of findings beside pneumonia (Poisson, at most 3)
    density: tuple[float, float]  # range of a lesion's density: 0 is air, 1 soft tissue


@dataclass(frozen=True)
class Rates:
    """Rates of all sets, of findings and of reports."""

    # RSNA has about a quarter positive; half is taken so that 700 images give enough boxes.
    rsna: SetRates = SetRates(0.5, 0.45, 0.7, (0.4, 1.0))
    # Studies whose report mentions pneumonia or opacity: most are positive, others rule it out.
    mimic: SetRates = SetRates(0.7, 0.75, 0.9, (0.35, 0.95))
    # Boxed NIH images are all positive; a few negatives go into Data_Entry without a box.
    chestxray8: SetRates = SetRates(0.85, 0.4, 0.7, (0.4, 1.0))
    # Severity needs the whole range from none to white lungs.
    covid: SetRates = SetRates(0.9, 0.65, 0.3, (0.28, 1.0))
    # Number of opacities: mostly one; two or three are common (RSNA: 1.59 boxes per positive).
    opacities: tuple[float, float, float] = (0.55, 0.33, 0.12)
    # The same of a COVID-like image: viral pneumonia is multifocal.
    covid_opacities: tuple[float, ...] = (0.15, 0.25, 0.25, 0.2, 0.15)
    # By lobe, lower ones most: left upper, left lower, right upper, right middle, right lower.
    lobes: tuple[float, ...] = (0.14, 0.29, 0.16, 0.12, 0.29)
    kinds: dict[str, float] = field(default_factory=KINDS.copy)
    distractors: dict[str, float] = field(default_factory=DISTRACTORS.copy)
    boxed: dict[str, float] = field(default_factory=BOXED.copy)
    # How often a report hedges, leaves an opacity out, mistakes its side, has no FINDINGS section,
    # and names zone, severity, kind and distractors.
    hedged: float = 0.25
    omitted: float = 0.05
    wrong_side: float = 0.02
    impression_only: float = 0.1
    says_zone: float = 0.85
    says_severity: float = 0.45
    says_kind: float = 0.7
    says_distractor: float = 0.85

    def as_dict(self) -> dict:
        """Plain values for rates.json."""
        return asdict(self)


RATES = Rates()
# Shares of anatomical variants in the pools of train, validate and test.
POOLS = (0.56, 0.14, 0.30)
