"""Every rate of the generator in one place.

Size and density of the opacities were set so that boxes are about as large as those of real RSNA images (median 6.7% of the picture), and not
brighter against the mirrored place; no rate was set by looking at what a model makes of it, and none is touched once methods are compared.

The sets differ as the real ones do: the RSNA-like set is mixed AP and PA with about half of its images positive (RSNA was enriched), the
MIMIC-like set is mostly portable AP and consists of studies whose report is about pneumonia more often than not, the NIH-like one is measured
only. `as_dict()` is written beside the data as rates.json.
"""

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class SetRates:
    """Rates of one set."""

    positive: float  # share of images with a pneumonia
    portable: float  # share of AP views: larger heart, less contrast, shallower breath
    distractor: float  # mean number of findings beside pneumonia (Poisson, 3 at the most)
    density: tuple[float, float]  # range of a lesion's density: 0 is air, 1 soft tissue


@dataclass(frozen=True)
class Rates:
    """Rates of all sets, of findings and of reports."""

    # RSNA chose about a quarter positive; half is taken here so that 700 images give enough boxes.
    rsna: SetRates = SetRates(0.5, 0.45, 0.7, (0.4, 1.0))
    # A cohort of studies whose report mentions pneumonia or opacity: most are positive, the others rule it out.
    mimic: SetRates = SetRates(0.7, 0.75, 0.9, (0.35, 0.95))
    # Boxed NIH images are all positive; a few negatives go into Data_Entry without a box.
    chestxray8: SetRates = SetRates(0.85, 0.4, 0.7, (0.4, 1.0))
    # Severity needs the whole range from none to white lungs.
    covid: SetRates = SetRates(0.9, 0.65, 0.3, (0.28, 1.0))
    # One opacity is the rule; two or three, mostly on both sides, are common in real pneumonia (RSNA: 1.59 boxes per positive).
    opacities: tuple[float, float, float] = (0.55, 0.33, 0.12)
    # Viral pneumonia is multifocal: number of opacities of a COVID-like image.
    covid_opacities: tuple[float, ...] = (0.15, 0.25, 0.25, 0.2, 0.15)
    # Lower lobes are affected most: left upper, left lower, right upper, right middle, right lower lobe.
    lobes: tuple[float, ...] = (0.14, 0.29, 0.16, 0.12, 0.29)
    kinds: dict[str, float] = field(
        default_factory=lambda: {
            "patchy": 0.34,
            "focal": 0.24,
            "consolidation": 0.2,
            "ground glass": 0.14,
            "interstitial": 0.08,
        }
    )
    # Findings that an opacity detector also fires on.
    distractors: dict[str, float] = field(
        default_factory=lambda: {
            "atelectasis": 0.3,
            "effusion": 0.25,
            "nodule": 0.15,
            "scar": 0.12,
            "device": 0.18,
        }
    )
    # RSNA's readers boxed suspicious opacities: some atelectases and effusions among them, nodules rarely.
    boxed: dict[str, float] = field(
        default_factory=lambda: {
            "atelectasis": 0.3,
            "effusion": 0.15,
            "nodule": 0.1,
            "scar": 0.05,
            "device": 0.0,
        }
    )
    # Words: how often a report hedges, leaves an opacity out, mistakes its side, is without FINDINGS, names the zone, severity, kind.
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
