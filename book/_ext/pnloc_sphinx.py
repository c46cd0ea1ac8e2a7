"""A Sphinx extension for this book: equations need no network, and no page loads Thebe.

MathJax comes from the package sphinx-mathjax-offline, of which a twentieth is needed.
"""

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

MATHJAX = ("tex-chtml.js", "output/chtml/fonts")


def without_thebe(app, page: str, template: str, context: dict, doctree: object) -> None:
    """Drop Thebe's scripts from a page: live code would need a server, and this book has none."""
    for key in ("script_files", "css_files"):
        files = {f: f"{f} {getattr(f, 'attributes', '')}".lower() for f in context.get(key, [])}
        context[key] = [f for f, text in files.items() if "thebe" not in text]


def add_mathjax(app, error: Exception | None) -> None:
    """Put MathJax and its fonts beside the pages."""
    if error or app.builder.format != "html":
        return
    try:
        package = distribution("sphinx-mathjax-offline")
    except PackageNotFoundError:
        hint = "pip install 'pnloc[notebooks]', or make env"
        raise RuntimeError(f"equations need sphinx-mathjax-offline: {hint}") from None
    source = Path(package.locate_file("sphinx-mathjax-offline/static/mathjax"))
    target = Path(app.outdir) / "_static" / "mathjax"
    for part in MATHJAX:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copyfile(source / part, target / part)


def setup(app) -> dict[str, bool]:
    """Connect both to the build."""
    app.connect("html-page-context", without_thebe, priority=900)
    app.connect("build-finished", add_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
