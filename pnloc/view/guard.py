"""What a notebook shows: every figure with an alternative text, every output of credentialed data with a mark.

`install` wraps IPython's formatter, once per kernel, so that no notebook has to think of it. The mark is the output's metadata
{'pnloc': 'credentialed'}, which book._ext.publish refuses.
"""

from functools import wraps

from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pnloc import access
from pnloc.alt import describe

PNG = "image/png"


def install() -> None:
    """Describe and mark whatever this kernel shows from now on; outside of IPython, and a second time, nothing happens."""
    try:
        from IPython import get_ipython
    except ModuleNotFoundError:
        return
    shell = get_ipython()
    formatter = getattr(shell, "display_formatter", None)
    if formatter is None or hasattr(formatter.format, "__wrapped__"):
        return
    formatter.format = _marking(formatter.format)


def _marking(format: object) -> object:
    """IPython's `format(obj, include, exclude)` -> (data, metadata), with what this module adds to the metadata."""

    @wraps(format)
    def formatted(
        shown: object, include: object = None, exclude: object = None
    ) -> tuple[dict, dict]:
        data, metadata = format(shown, include=include, exclude=exclude)
        if isinstance(shown, Figure) and PNG in data:
            metadata = {**metadata, PNG: {**metadata.get(PNG, {}), "alt": describe(shown)}}
        if data and kind(shown, data) == access.CREDENTIALED:
            metadata = {**metadata, "pnloc": access.CREDENTIALED}
        return data, metadata

    return formatted


def kind(shown: object, data: dict) -> str:
    """'credentialed' where an object, or what became of it (texts by MIME type), shows a credentialed image, text or row; else ''."""
    if isinstance(shown, Figure) and any(
        _picture(i) == access.CREDENTIALED for ax in shown.axes for i in ax.images
    ):
        return access.CREDENTIALED
    texts = [value for value in data.values() if isinstance(value, str)]
    if any(access.MARK in text for text in texts) or any(access.named(text) for text in texts):
        return access.CREDENTIALED
    return ""


def _picture(drawn: AxesImage) -> str:
    """Access class of a picture in a figure: what pnloc.view.figures wrote on it; without that, a grey or a colour picture has none of its own."""
    if drawn.get_gid() in access.CLASSES:
        return drawn.get_gid()
    array = drawn.get_array()
    photograph = array is not None and (
        array.ndim == 3 or drawn.get_cmap().name.lower().startswith(("gray", "grey"))
    )
    return access.of(None) if photograph else ""
