"""pnloc: pneumonia localization by cross-attention between chest radiographs and their reports.

A runnable companion of Bhalodia et al., *Improving Pneumonia Localization via Cross-Attention on
Medical Images and Reports*, MICCAI 2021 (arXiv 2110.03094). Research software, not a medical
device.
"""

from importlib import import_module

__version__ = "0.1.0"
_MODULES = {  # imported when first used, since torch takes a second to import
    "CrossAttention": "model",
    "Detector": "detector",
    "Localizer": "localizer",
    "ModelConfig": "config",
    "preset": "config",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'pnloc' has no attribute {name!r}")
    return getattr(import_module(f"pnloc.{_MODULES[name]}"), name)
