"""Published numbers that stand beside ours, each with its source. Nothing here is computed by this project's models."""

import pandas as pd

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
# Wang et al. 2017 (arXiv 1705.02315), Table 7: accuracy at T(IoU) for pneumonia, 120 boxes of ChestX-ray8.
WANG_2017 = (0.6333, 0.3500, 0.1666, 0.0750, 0.0333, 0.0166, 0.0083)
# The boxes of RSNA's readers against the NIH box of the same image, 38 images of both sets: what humans agree on.
READERS = (0.97, 0.90, 0.82, 0.71, 0.58, 0.34, 0.16)


def lines() -> pd.DataFrame:
    """Accuracy lines for ChestX-ray8's pneumonia boxes: line, threshold, value."""
    named = {"Wang et al. 2017, 120 boxes": WANG_2017, "RSNA readers against NIH box, n=38": READERS}
    return pd.DataFrame([(line, t, v) for line, values in named.items() for t, v in zip(THRESHOLDS, values, strict=True)],
                        columns=["line", "threshold", "value"])  # fmt: skip
