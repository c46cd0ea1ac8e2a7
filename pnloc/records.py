"""Records: the tables that every data set becomes, whatever its layout on disk.

A reader (pnloc.datasets) returns `Records`; everything downstream knows only these columns.

images   image    unique name within the set (dicom_id, patientId, Image Index, filename)
         path     absolute path of the image file
         patient  patient, unique across sets ('nih:12', 'mimic:10000032', 'covid:7')
         study    key into `reports`, or '' where there is none
         view     'AP', 'PA', 'AP Supine', ... or ''
         sex, age 'M', 'F' or ''; years or NaN
         width, height   pixels of the file
         label    1.0 pneumonia (lung opacity), 0.0 none, NaN not known
         split    'train', 'validate', 'test', or '' where the set has none of its own
boxes    image, x1, y1, x2, y2 (pixels of the file), label (the source's own name), text (phrase, or '')
reports  study, text
scores   image, and one column per severity score (geographic_extent, opacity, brixia), NaN where not scored
quarantine  file, row (1-based line of the table it came from, 0 for a whole file), reason
counts   rows = used + missing + excluded + quarantined (image rows of the main table)
"""

import hashlib
from dataclasses import dataclass, field

import pandas as pd

from pnloc.errors import PnlocError

IMAGE_COLUMNS = ["image", "path", "patient", "study", "view", "sex", "age", "width", "height", "label", "split"]
BOX_COLUMNS = ["image", "x1", "y1", "x2", "y2", "label", "text"]
REPORT_COLUMNS = ["study", "text"]
QUARANTINE_COLUMNS = ["file", "row", "reason"]
SPLITS = ("train", "validate", "test")


@dataclass
class Records:
    """One data set as tables; see the head of this module for the columns."""

    name: str
    access: str  # 'generated', 'open' or 'credentialed'
    images: pd.DataFrame
    boxes: pd.DataFrame
    reports: pd.DataFrame
    quarantine: pd.DataFrame
    counts: dict[str, int]
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["image"]))

    def split(self, name: str) -> pd.DataFrame:
        """The image rows of one split."""
        if name not in SPLITS:
            raise PnlocError(f"unknown split '{name}'; use one of {', '.join(SPLITS)}")
        return self.images[self.images["split"] == name].reset_index(drop=True)
