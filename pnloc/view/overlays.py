"""Images with their boxes drawn on them, as PNG files, and names for these files.

Pillow draws an overlay in a tenth of the time that matplotlib takes. It is one byte per pixel: a
shade of grey or, from `_SHADES` on, a blend of the boxes' colour with the white of their scores.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pnloc.files import atomic, digest
from pnloc.view import OURS

LONGEST, SHORTEST = 900, 60  # pixels: the longer side, and the least of either
_SHADES = 128  # half of the bytes: fewer shades make smaller files, and faster
_WHITE, _COLOUR, _COLOURED_WHITE = _SHADES - 1, _SHADES, 255
_RGB = [[0, 0, 0], [255, 255, 255]], [[int(OURS[i : i + 2], 16) for i in (1, 3, 5)], [255] * 3]
_BLENDS = [np.linspace(*ends, n) for ends, n in zip(_RGB, (_SHADES, 256 - _SHADES), strict=True)]
_PALETTE = np.concatenate(_BLENDS).round().astype(int).ravel().tolist()
_TO_SHADES = [value * _WHITE // 255 for value in range(256)]
_DARKER = [value // 4 for value in range(256)]
_NOTE, _SCORE, _MARK = (ImageFont.load_default(size) for size in (13, 17, 30))


def canvas(gray: np.ndarray, width: int, height: int) -> Image.Image:
    """A grey image uint8, perhaps a reduced decode, at the size of the overlay of its file."""
    scale = LONGEST / max(width, height)
    size = tuple(max(1, round(extent * scale)) for extent in (width, height))
    shown = Image.fromarray(gray).resize(size, Image.Resampling.BILINEAR).point(_TO_SHADES)
    whole = Image.new("L", tuple(max(extent, SHORTEST) for extent in size))
    whole.paste(shown, tuple((w - s) // 2 for w, s in zip(whole.size, size, strict=True)))
    return whole


def draw(
    picture: Image.Image,
    width: int,
    height: int,
    boxes: Sequence[Sequence[float]],
    path: str | Path,
    notes: Iterable[str] = (),
    sides: bool = True,
) -> None:
    """Write the overlay of a `canvas` with boxes: rows x1, y1, x2, y2 in pixels of the file, score.

    sides: with R and L, the patient's right and left in a frontal radiograph as it is shown.
    """
    scale = LONGEST / max(width, height)
    offset = [
        (extent - side * scale) / 2
        for extent, side in zip(picture.size, (width, height), strict=True)
    ]
    pen = ImageDraw.Draw(picture)
    _write_notes(picture, pen, notes)
    for text, x, anchor in (("R", 12, "lt"), ("L", picture.width - 12, "rt")) if sides else ():
        halo = {"stroke_width": 2, "stroke_fill": 0}
        pen.text((x, 12), text, _WHITE, _MARK, anchor, **halo)
    rows = np.reshape(np.asarray(boxes, dtype=float), (-1, 5))
    corners = (rows[:, :4] * scale + np.tile(offset, 2)).clip(2, np.tile(picture.size, 2) - 3)
    corners = corners.round().astype(int).tolist()
    for x1, y1, x2, y2 in corners:
        for margin, line, shade in ((2, 5, 0), (1, 3, _COLOUR)):
            outer = (x1 - margin, y1 - margin, max(x1, x2) + margin, max(y1, y2) + margin)
            pen.rectangle(outer, outline=shade, width=line)
    for (x, y, _, _), score in zip(corners, rows[:, 4], strict=True):
        text = f"{score:.2f}"
        right, low = (int(extent) for extent in pen.textbbox((0, 0), text, _SCORE)[2:])
        x, y = min(max(x - 1, 0), picture.width - right - 10), y - low - 8
        y = y if y >= 0 else y + low + 9
        pen.rectangle((x, y, x + right + 9, y + low + 6), fill=_COLOUR)
        pen.text((x + 5, y + 2), text, _COLOURED_WHITE, _SCORE)
    picture.putpalette(_PALETTE)
    with atomic(path) as temporary:
        picture.save(temporary, "png", compress_level=1)


def _write_notes(picture: Image.Image, pen: ImageDraw.ImageDraw, notes: Iterable[str]) -> None:
    """Notes, a line or more each, on a dark strip at the bottom, as many lines as there is room."""
    letters = max(20, int((picture.width - 20) / _NOTE.getlength("average") * len("average")))
    lines = [line for note in notes for line in wrap(note, letters)][: picture.height // 60]
    if lines:
        top = picture.height - 18 * len(lines) - 8
        strip = picture.crop((0, top, *picture.size)).point(_DARKER)
        picture.paste(strip, (0, top))
        pen.multiline_text((10, top + 4), "\n".join(lines), _WHITE, _NOTE, spacing=5)


def names(images: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """A file name for the overlay of each image, unlike each other and the names `taken`.

    It is the image's own name; with its suffix, and then with the folders above it, where several
    would be the same.
    """
    result, waiting, taken = {}, list(images), {name.casefold() for name in taken}
    for depth in range(5):
        spelt = {image: _name(image, depth) for image in waiting}
        counts = Counter(name.casefold() for name in spelt.values())
        for image, name in spelt.items():
            plain = name.casefold()
            if counts[plain] == 1 and plain not in taken and len(os.fsencode(name)) <= 200:
                result[image] = name
        taken |= {name.casefold() for name in result.values()}
        waiting = [image for image in waiting if image not in result]
    for image in waiting:
        result[image] = f"{Path(image).stem[:40]}-{digest(image)}.overlay.png"
    return result


def _name(image: str, depth: int) -> str:
    """0: a.overlay.png; 1: a-jpg.overlay.png; 2: folder-a-jpg.overlay.png; and so on."""
    if depth == 0:
        return f"{Path(image).stem}.overlay.png"
    parts = [part for part in Path(image).parts[-depth:] if part not in ("/", "..")]
    return f"{'-'.join(parts).replace('.', '-')}.overlay.png"
