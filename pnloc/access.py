"""Access classes: recognise credentialed images, texts and identifiers before they are shown.

Every set of records is generated, open or credentialed. Once a process holds credentialed records
(`hold`, called by pnloc.data.records.Records), all that it shows counts as credentialed unless it
is known not to be: an image or a text carries its class (`tag`), and a table or a line of text is
searched for the names of credentialed images, studies and patients.
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
_known: set[str] = set()  # their values; filled when first needed


class Image(np.ndarray):
    """An array with an access class, which its parts inherit."""

    access = ""

    def __array_finalize__(self, parent: object) -> None:
        self.access = getattr(parent, "access", "")


class Text(str):
    """A report with an access class, which its parts do not inherit."""

    access = ""


def hold(name: str, images: pd.DataFrame) -> None:
    """Record that this process holds a credentialed set, with the names of its images."""
    if name not in _held or len(images) > len(_held[name]):
        _held[name] = images.reindex(columns=list(NAMES))
        _known.clear()


def tag(content: np.ndarray | str, kind: str) -> "Image | Text":
    """An array or a text with its access class."""
    tagged = content.view(Image) if isinstance(content, np.ndarray) else Text(content)
    tagged.access = kind
    return tagged


def of(content: object) -> str:
    """The access class of an image or a text; without its own, that of the process."""
    return getattr(content, "access", "") or (CREDENTIALED if _held else "")


def identifiers(images: pd.DataFrame) -> set[str]:
    """Names of images, patients and studies as texts spell them, of at least six characters."""
    names: set[str] = set()
    for column in (c for c in NAMES if c in images):
        values = images[column].dropna().astype(str)
        names |= set(values) | set(values.str.rpartition(":")[2])
    return {name for name in names if len(name) > 5}


def named(text: str, known: Iterable[str] | None = None) -> str:
    """The first credentialed name in a text, '' if none; by default of this process's sets."""
    if known is None:
        if _held and not _known:
            _known.update(*(identifiers(images) for images in _held.values()))
        known = _known
    for word in _NAME.findall(text) if known else ():
        # A name may stand in a path, before a suffix, or after a set's name.
        for part in (word, word.split(".")[0], word.rpartition(":")[2]):
            if part in known:
                return part
    return ""
