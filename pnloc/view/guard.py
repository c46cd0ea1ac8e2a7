"""Mark every notebook output that shows credentialed data.

`install` gives the kernel a formatter that adds {'pnloc': 'credentialed'} to the metadata of such
outputs, so that no notebook has to; book._ext.publish refuses pages with the mark.
"""

from IPython import get_ipython
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pnloc import access


class Guard(DisplayFormatter):
    """IPython's formatter of outputs, which also marks the credentialed ones."""

    def format(self, obj: object, include: object = None, exclude: object = None) -> tuple:
        """Data and metadata of an output by MIME type."""
        data, metadata = super().format(obj, include, exclude)
        mark = {"pnloc": access.CREDENTIALED} if kind(obj, data) else {}
        return data, {**metadata, **mark}


def install() -> None:
    """Let the running kernel mark its outputs from now on; does nothing outside of IPython."""
    shell = get_ipython()
    if shell is not None and not isinstance(shell.display_formatter, Guard):
        # The formatters themselves stay: matplotlib has registered with them.
        shell.display_formatter = Guard(parent=shell, formatters=shell.display_formatter.formatters)


def kind(shown: object, data: dict) -> str:
    """'credentialed' if an object or its representations (by MIME type) show credentialed data."""
    texts = [value for value in data.values() if isinstance(value, str)]
    images = [i for ax in shown.axes for i in ax.images] if isinstance(shown, Figure) else []
    marked = any(_image_class(image) == access.CREDENTIALED for image in images)
    named = any(access.MARK in text or access.named(text) for text in texts)
    return access.CREDENTIALED if marked or named else ""


def _image_class(picture: AxesImage) -> str:
    """The class that pnloc.view.figures gave an image; others are radiographs if grey or RGB."""
    if picture.get_gid() in access.CLASSES:
        return picture.get_gid()
    array, colours = picture.get_array(), picture.get_cmap().name.lower()
    photograph = array is not None and (array.ndim == 3 or colours.startswith(("gray", "grey")))
    return access.of(None) if photograph else ""
