"""How attenuation becomes a picture: scatter, noise, film curve, markers."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy import ndimage

from phantoms.anatomy import Variant

WATER = 0.0185  # attenuation of water per millimetre at the tube's effective energy


def develop(variant: Variant, added: np.ndarray, rng: Generator) -> np.ndarray:
    """The picture uint8 [S, S] of a variant with `added` millimetres of water; white is dense."""
    side = len(added)
    intensity = np.exp(-WATER * (variant.path + added))
    blurred = ndimage.gaussian_filter(intensity[::4, ::4], side / 40)
    scatter = ndimage.zoom(blurred, 4, order=1, mode="nearest", grid_mode=True)
    intensity = intensity + rng.uniform(0.2, 0.7 if variant.portable else 0.45) * scatter
    photons = rng.uniform(2.5e4, 9e4) * (0.5 if variant.portable else 1.0)
    noise = rng.normal(0, 1, intensity.shape) * np.sqrt(intensity / photons)
    dense = -np.log(np.clip(intensity + noise, 1e-5, None))
    dense = ndimage.gaussian_filter(dense, rng.uniform(0.3, 0.8))
    edges = dense - ndimage.gaussian_filter(dense, side / 50)
    dense = dense + rng.uniform(0.3, 1.0) * edges  # as detectors enhance them
    inner = dense[side // 12 : -side // 12, side // 12 : -side // 12]
    low, high = np.quantile(inner, [rng.uniform(0.005, 0.03), rng.uniform(0.93, 0.99)])
    shade = np.clip((dense - low) / (high - low), 0, 1.15)
    curve = 1 / (1 + np.exp(-rng.uniform(3.2, 4.8) * (shade - rng.uniform(0.42, 0.55))))
    curve = (curve - curve.min()) / max(curve.max() - curve.min(), 1e-6)
    grey = (curve * rng.uniform(215, 250) + rng.uniform(0, 12)).clip(0, 255).astype(np.uint8)
    return _marked(grey, rng) if rng.random() < 0.5 else grey


def _marked(grey: np.ndarray, rng: Generator) -> np.ndarray:
    """A lead letter in an upper corner: L on the right of the picture, R on the left."""
    letter, side = str(rng.choice(["L", "R"])), len(grey)
    image = Image.fromarray(grey)
    column = rng.uniform(0.88, 0.94) if letter == "L" else rng.uniform(0.03, 0.08)
    ImageDraw.Draw(image).text((column * side, rng.uniform(0.02, 0.12) * side), letter, fill=245)
    return np.asarray(image)
