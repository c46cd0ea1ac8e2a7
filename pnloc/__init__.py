"""pnloc: pneumonia localization by cross-attention between chest radiographs and their reports.

A runnable companion of Bhalodia et al., *Improving Pneumonia Localization via Cross-Attention on
Medical Images and Reports*, MICCAI 2021 (arXiv 2110.03094). Research software, not a medical device.
"""

__version__ = "0.1.0"
