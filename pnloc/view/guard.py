"""Mark every notebook output that shows credentialed data.

`install` gives the kernel a formatter that adds {'pnloc': 'credentialed'} to the metadata of such outputs, so that no notebook
has to; book._ext.publish refuses pages with the mark.
"""

from IPython import get_ipython
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pnloc import access


class Guard(DisplayFormatter):
    """IPython's formatter of outputs, which also marks the credentialed ones."""

    def format(
        self, obj: object, include: object = None, exclude: object = None
    ) -> tuple[dict, dict]:
        """Data and metadata of an output by MIME type."""
        data, metadata = super().format(obj, include, exclude)
        if kind(obj, data) == access.CREDENTIALED:
            metadata = {**metadata, "pnloc": access.CREDENTIALED}
        return data, metadata


def install() -> None:
    """Let the running kernel mark its outputs from now on; nothing happens outside of IPython or the second time."""
    shell = get_ipython()
    if shell is not None and not isinstance(shell.display_formatter, Guard):
        # The formatters themselves stay: matplotlib has registered with them.
        shell.display_formatter = Guard(parent=shell, formatters=shell.display_formatter.formatters)


def kind(shown: object, data: dict) -> str:
    """'credentialed' if an object or its representations (by MIME type) show a credentialed image, text or row, else ''."""
    texts = [value for value in data.values() if isinstance(value, str)]
    images = [i for ax in shown.axes for i in ax.images] if isinstance(shown, Figure) else []
    credentialed = any(_image_class(i) == access.CREDENTIALED for i in images) or any(
        access.MARK in text or access.named(text) for text in texts
    )
    return access.CREDENTIALED if credentialed else ""


def _image_class(drawn: AxesImage) -> str:
    """The access class that pnloc.view.figures gave an image; an unlabelled one counts as a radiograph if grey or RGB."""
    if drawn.get_gid() in access.CLASSES:
        return drawn.get_gid()
    array = drawn.get_array()
    photograph = array is not None and (
        array.ndim == 3 or drawn.get_cmap().name.startswith(("gray", "grey", "Grey"))
    )
    return access.of(None) if photograph else ""
