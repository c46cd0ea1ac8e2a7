"""Published numbers, each with its source; none is computed by this project's models."""

import pandas as pd

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
ACCURACY = {  # at T(IoU), for the pneumonia boxes of ChestX-ray8
    # Wang et al. 2017 (arXiv 1705.02315), Table 7.
    "Wang et al. 2017, 120 boxes": (0.6333, 0.3500, 0.1666, 0.0750, 0.0333, 0.0166, 0.0083),
    # The boxes of RSNA's readers on 38 images of both sets: what humans agree on.
    "RSNA readers against NIH box, n=38": (0.97, 0.90, 0.82, 0.71, 0.58, 0.34, 0.16),
}
# Geographic extent of the 94 scored images of the COVID-19 collection. Cohen et al. 2020: 50 splits
# in halves by patient, with their standard deviation; without an image the mean absolute error is
# 2.07. BS-Net (Signoroni et al. 2021): n=93.
COHEN = {"pearson": 0.81, "r2": 0.60, "mae": 1.16}
COHEN_DEVIATION = 0.04  # of the correlation
BS_NET = 0.874


def lines() -> pd.DataFrame:
    """ACCURACY as a table: line, threshold, value."""
    table = pd.DataFrame(ACCURACY, index=pd.Index(THRESHOLDS, name="threshold")).reset_index()
    return table.melt("threshold", var_name="line")[["line", "threshold", "value"]]
