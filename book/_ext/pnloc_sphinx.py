"""A Sphinx extension for this book (`sphinx.extra_extensions` in _config.yml): figures get their alternative texts, equations need no network.

MathJax comes from the package sphinx-mathjax-offline, of which a twentieth is needed. myst-nb stores a figure under the digest of its bytes and knows nothing of its metadata. So the text that pnloc.view.guard put there is
looked up by this digest.
"""

import hashlib
import json
import shutil
from binascii import a2b_base64
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

from pnloc.errors import PnlocError

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MATHJAX = ("tex-chtml.js", "output/chtml/fonts")
IMAGES = ("image/png", "image/jpeg")


def alternatives(notebook: Path) -> dict[str, str]:
    """The alternative text of each figure of a notebook that has one, by the SHA-256 of the figure's bytes."""
    found = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            for kind in IMAGES:
                alt = output.get("metadata", {}).get(kind, {}).get("alt")
                if alt and kind in output.get("data", {}):
                    data = output["data"][kind]
                    data = data if isinstance(data, str) else "".join(data)
                    found[hashlib.sha256(a2b_base64(data)).hexdigest()] = alt
    return found


def give_alternatives(app: "Sphinx", doctree: nodes.document) -> None:
    """Put them on the images of a page."""
    source = Path(app.env.doc2path(app.env.docname))
    if source.suffix == ".ipynb":
        known = alternatives(source)
        for image in doctree.findall(nodes.image):
            alt = known.get(Path(image["uri"]).stem)
            if alt:
                image["alt"] = alt


def without_thebe(
    app: "Sphinx", page: str, template: str, context: dict, doctree: nodes.document | None
) -> None:
    """Live code needs Thebe from elsewhere, and this book has none; its scripts would stand on every page, twice."""
    for key in ("script_files", "css_files"):
        context[key] = [
            f
            for f in context.get(key, [])
            if "thebe" not in f"{f} {getattr(f, 'attributes', '')}".lower()
        ]


def add_mathjax(app: "Sphinx", error: Exception | None) -> None:
    """Put MathJax and its fonts beside the pages."""
    if error or app.builder.format != "html":
        return
    try:
        source = Path(
            distribution("sphinx-mathjax-offline").locate_file(
                "sphinx-mathjax-offline/static/mathjax"
            )
        )
    except PackageNotFoundError:
        told = "equations need the package sphinx-mathjax-offline: pip install 'pnloc[notebooks]', or make env"
        raise PnlocError(told) from None
    target = Path(app.outdir) / "_static" / "mathjax"
    for part in MATHJAX:
        if not (target / part).exists():
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (source / part).is_dir() else shutil.copyfile)(
                source / part, target / part
            )


def setup(app: "Sphinx") -> dict:
    """What Sphinx calls."""
    app.connect("doctree-read", give_alternatives)
    app.connect("html-page-context", without_thebe, priority=900)
    app.connect("build-finished", add_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
