"""What else is known of RSNA's images: its readers' word on which are normal, and the findings that NIH mined from the reports.

RSNA's images are NIH images, so that the fourteen labels of ChestX-ray14 hold for them. torchxrayvision brings NIH's table.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pnloc.data import rsna
from pnloc.data.tables import Quarantine, packaged, read_rows
from pnloc.detector import FINDINGS

TABLE = "Data_Entry_2017_v2020.csv.gz"


def read(folder: Path, images: Sequence[str]) -> np.ndarray:
    """FINDINGS of RSNA images [N, 15] float32: 1 present, 0 absent, NaN unknown. folder: that of the RSNA set.

    The first column is RSNA's 'Normal' (`stage_2_detailed_class_info.csv`), the others are NIH's labels of the image that the mapping to NIH
    names. Unknown is what the folder has no table of. Raises PnlocError where torchxrayvision, which holds NIH's table, is not whole.
    """
    classes, names = rsna.classes(folder, Quarantine()), rsna.mapping(folder, Quarantine())
    path = packaged("torchxrayvision", TABLE, "it holds NIH's labels")
    table = (
        read_rows(path, ["Image Index", "Finding Labels"], compression="gzip")
        .dropna()
        .set_index("Image Index")["Finding Labels"]
    )
    found = np.full((len(images), len(FINDINGS)), np.nan, dtype=np.float32)
    for row, image in enumerate(images):
        if image in classes:
            found[row, 0] = classes[image] == rsna.NORMAL
        if image in names and names[image][0] in table.index:
            said = table[names[image][0]].split("|")
            found[row, 1:] = [name in said for name in FINDINGS[1:]]
    return found
