"""What an image shows, exactly: its findings with their masks, and the severity that follows."""

from dataclasses import dataclass, field

import numpy as np

from phantoms.anatomy import Variant

SEEN = 5.0  # millimetres of water that a finding must add to count as seen


@dataclass(frozen=True)
class Finding:
    """Something in the picture: what, where, and its mask [S, S] bool.

    kind: an opacity's kind or a distractor's name; lobe: label or 0; side: 'left' or 'right';
    zone: 'upper', 'middle' or 'lower'; box: the mask's extent, xyxy in pixels; area: in pixels.
    """

    kind: str
    lobe: int
    side: str
    zone: str
    density: float
    mask: np.ndarray
    box: tuple[float, float, float, float]
    area: int

    @classmethod
    def of(
        cls, variant: Variant, kind: str, side: str, mask: np.ndarray, lobe: int, density: float
    ) -> "Finding":
        """The finding of a mask, which must not be empty."""
        zone = zone_of(mask, variant.sides[side])
        return cls(kind, lobe, side, zone, density, mask, extent_box(mask), int(mask.sum()))

    def __getstate__(self) -> dict:
        """What travels between processes: all but the mask."""
        return self.__dict__ | {"mask": np.zeros((0, 0), dtype=bool)}


Added = tuple[Finding, np.ndarray] | None  # with the millimetres of water [S, S] that it adds


@dataclass
class Case:
    """One image's truth: opacities and other findings.

    Per visible lung also the `share` that opacities cover, and the `degree` of opacity.
    """

    opacities: list[Finding] = field(default_factory=list)
    others: list[Finding] = field(default_factory=list)
    share: dict[str, float] = field(default_factory=dict)
    degree: dict[str, float] = field(default_factory=dict)

    @property
    def extent(self) -> float:
        """Geographic extent, 0 to 8, the sum of `extent_grade` of both lungs."""
        return float(sum(map(extent_grade, self.share.values())))

    @property
    def opacity(self) -> float:
        """Degree of opacity, 0 to 6, the sum of `degree_grade` of both lungs."""
        return float(sum(self.degree.values()))

    @property
    def severity(self) -> str:
        """'mild', 'moderate' or 'severe', from the geographic extent."""
        return "mild" if self.extent <= 2 else "moderate" if self.extent <= 4 else "severe"


def extent_grade(share: float) -> int:
    """Extent in one lung, as defined by Cohen et al. 2020.

    0 (none), 1 (up to 25%), 2 (up to 50%), 3 (up to 75%) or 4 (more).
    """
    return 0 if share <= 0 else 1 + sum(share > limit for limit in (0.25, 0.5, 0.75))


def degree_grade(share: float, density: float) -> int:
    """Degree of opacity in one lung.

    0 (none), 1 (ground glass: thin), 2 (consolidation: dense) or 3 (white-out: dense throughout).
    """
    if share <= 0:
        return 0
    return 1 if density < 0.45 else 3 if share > 0.75 and density > 0.65 else 2


def extent_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """xyxy of a mask's extent, in pixels; the mask must not be empty."""
    rows, columns = np.nonzero(mask)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def zone_of(mask: np.ndarray, lung: np.ndarray) -> str:
    """'upper', 'middle' or 'lower' third of the visible lung, by the mask's centre of mass."""
    rows = np.nonzero(lung.any(1))[0]
    share = (np.nonzero(mask)[0].mean() - rows.min()) / max(rows.max() - rows.min(), 1)
    return "upper" if share < 0.36 else "middle" if share < 0.66 else "lower"
