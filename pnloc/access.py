"""Who may see what: credentialed images, texts and names of images are recognised wherever they are about to be shown.

Every set of records has an access class: generated, open or credentialed. As soon as a process holds records that are credentialed
(`hold`, called by pnloc.data.records.Records), whatever it shows is credentialed unless it is known to be something else: an image or a
text carries its class (`tag`), and a table or a line of text is searched for names of credentialed images, studies and patients.
"""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

CLASSES = ("generated", "open", "credentialed")
CREDENTIALED = "credentialed"
MARK = 'data-access="credentialed"'  # of an element of HTML
NAMES = ("image", "patient", "study")  # columns that name a person's data
_NAME = re.compile(r"[\w.:-]+")
_held: dict[str, pd.DataFrame] = {}  # by set: the columns NAMES of its images
_known: set[str] = set()  # their values; made when first needed


class Image(np.ndarray):
    """An array that knows its access class, and so do its parts."""

    access = ""

    def __array_finalize__(self, parent: object) -> None:
        self.access = getattr(parent, "access", "")


class Text(str):
    """A report that knows its access class; what is cut out of it does not."""

    access = ""


def hold(name: str, images: pd.DataFrame) -> None:
    """Remember that this process holds a credentialed set, and what its images, patients and studies are called."""
    if name not in _held or len(images) > len(_held[name]):
        _held[name] = images.reindex(columns=list(NAMES))
        _known.clear()


def release() -> None:
    """Forget all credentialed sets, as at the start of a process."""
    _held.clear()
    _known.clear()


def tag(content: np.ndarray | str, kind: str) -> "Image | Text":
    """An array or a text with its access class."""
    made = content.view(Image) if isinstance(content, np.ndarray) else Text(content)
    made.access = kind
    return made


def of(content: object) -> str:
    """The access class of an image or a text: its own; where it has none, credentialed in a process that holds such a set, else ''."""
    return getattr(content, "access", "") or (CREDENTIALED if _held else "")


def identifiers(images: pd.DataFrame) -> set[str]:
    """Names of images, patients and studies of some image rows, as they would stand in a text; none shorter than six characters."""
    found: set[str] = set()
    for column in (c for c in NAMES if c in images):
        values = images[column].dropna().astype(str)
        found |= set(values) | set(values.str.rpartition(":")[2])
    return {name for name in found if len(name) > 5}


def named(text: str, known: Iterable[str] | None = None) -> str:
    """The first name of a credentialed image, patient or study in a text ('' if none); by default of the sets that this process holds."""
    if known is None:
        if _held and not _known:
            _known.update(*(identifiers(images) for images in _held.values()))
        known = _known
    if not known:
        return ""
    # A name may stand in a path, before a suffix, or after a set's name.
    words = (
        part
        for word in _NAME.findall(text)
        for part in (word, word.split(".")[0], word.rpartition(":")[2])
    )
    return next((word for word in words if word in known), "")
