"""Many image files through a localizer, into a folder of tables and overlays.

boxes.csv       a row per box; an image without any has a row without corners
attributes.csv  a row per image and attribute
failures.csv    a row per image that cannot be read
*.overlay.png   the images with their boxes
.localize.jsonl a line per image, added as soon as it is done

The tables are written from these lines, again and again while they grow, each at once: nobody sees
half of one. A command that is started again in the folder skips images that are done.
"""

import csv
import hashlib
import json
import operator
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from pandas import DataFrame
from PIL.Image import Image

from pnloc import __version__
from pnloc.errors import PnlocError
from pnloc.files import append, atomic, check_path, digest, make_folder, write_table, write_text
from pnloc.images import Letterbox, header, in_threads, oddities, read_gray
from pnloc.localizer import Localizer, Proposals, checkpoint_folder
from pnloc.parallel import bar
from pnloc.view import overlays

BATCH = 16
PAUSE = 5.0  # seconds between two writes of the tables, and at least 20 times what one takes
CORNERS = ["x1", "y1", "x2", "y2"]
HEAD = ["image", "file"]  # the path as it is given, and its last part
COLUMNS = {
    "boxes": [*HEAD, "width", "height", *CORNERS, "score", "label", "overlay", "warning"],
    "attributes": [*HEAD, "attribute", "probability", "reason"],
    "failures": [*HEAD, "error"],
}
TEXT = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}  # any file name
NOTE = "Research only, not a medical device."


class Outcome(NamedTuple):
    """Numbers of images: asked for, done before this command, and not readable."""

    images: int
    before: int
    failed: int


@dataclass(frozen=True)
class Picture:
    """An image file, decoded: square input, way back, what an overlay shows; or why it is not."""

    image: str
    stamp: str = ""  # of the file, before it was read
    square: np.ndarray | None = None
    letterbox: Letterbox | None = None
    shown: Image | None = None
    oddities: tuple[str, ...] = ()
    error: str = ""


def localize(
    checkpoint: str | Path,
    images: list[str],
    out: str | Path,
    complain: Callable[[str], None],
    phrases: list | None = None,
) -> Outcome:
    """Write tables and overlays of image files into `out`; what is done there is skipped.

    phrases: of the report of a single image (pnloc.reports.phrases), which go to phrases.csv; then
    the image is not skipped. `complain` is called with a line for each image that cannot be read,
    and for each with a warning. Ctrl-C raises KeyboardInterrupt with a message. PnlocError where
    another process writes to the folder, or where it cannot be written to.
    """
    localizer, out = Localizer.load(checkpoint), make_folder(out)
    images = list(dict.fromkeys(images))
    with _locked(out):
        results = Results(out, _fingerprint(checkpoint), complain)
        waiting = [image for image in images if phrases is not None or not results.holds(image)]
        before, failed = len(images) - len(waiting), 0
        names = {image: name for image, (_, name) in results.done.items() if name}
        new = [image for image in waiting if image not in names]
        names |= overlays.names(new, names.values())
        decode = partial(_decode, side=localizer.detector.config.side)
        try:
            with (
                closing(in_threads(decode, waiting)) as decoded,
                bar(total=len(images), initial=before, desc="localize", unit="image") as progress,
            ):
                while batch := list(islice(decoded, BATCH)):
                    entries, remarks = _read(localizer, batch, names, out, phrases)
                    results.add(entries)
                    failed += sum(picture.error != "" for picture in batch)
                    with progress.external_write_mode():
                        for remark in remarks:
                            complain(remark)
                    progress.update(len(batch))
            results.write()
        except KeyboardInterrupt:
            results.write()
            done = f"stopped: {sum(map(results.holds, images))} of {len(images)} images are done"
            further = "the same command goes on with the others"
            raise KeyboardInterrupt(f"{done} and in {out / 'boxes.csv'}; {further}") from None
    return Outcome(len(images), before, failed)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Inside the block no other process localizes into the folder; freed if this one dies."""
    try:
        lock = FileLock(folder / ".localize.lock").acquire(timeout=0)
    except Timeout:
        advice = "wait for it, or choose another folder"
        raise PnlocError(f"{folder}: another localize writes to this folder; {advice}") from None
    with lock:
        yield


def _fingerprint(checkpoint: str | Path) -> str:
    """Digest of the files of a checkpoint and of the package's version."""
    sha = hashlib.sha256(__version__.encode())
    for path in sorted(checkpoint_folder(checkpoint).iterdir()):
        if path.suffix in (".json", ".safetensors"):
            sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()[:16]


def _stamp(image: str) -> str:
    """Digest of a file's name, size and time of change; '' for none."""
    try:
        return digest(Path(image))
    except OSError:
        return ""


def _decode(image: str, side: int) -> Picture:
    """Decode an image file once, or twice if what a side needs is too small to be shown."""
    try:
        check_path(image, "file")
        stamp, letterbox = _stamp(image), Letterbox(*header(image)[:2], side)
        gray = read_gray(image, near=side)
        square, size = letterbox.image(gray), (letterbox.width, letterbox.height)
        if max(gray.shape) < min(max(size), overlays.LONGEST):
            gray = read_gray(image, near=overlays.LONGEST)
        shown, odd = overlays.canvas(gray, *size), oddities(image, gray)
        return Picture(image, stamp, square, letterbox, shown, tuple(odd))
    except PnlocError as error:
        return Picture(image, error=str(error))


def _read(
    localizer: Localizer,
    batch: list[Picture],
    names: dict[str, str],
    out: Path,
    phrases: list | None,
) -> tuple[list[dict], list[str]]:
    """Entries of a batch of images, whose overlays are drawn here, and remarks on them."""
    whole = [picture for picture in batch if not picture.error]
    loaded = [(picture.square, picture.letterbox) for picture in whole]
    proposals = localizer.propose_all(loaded) if loaded else []
    readings = iter(zip(proposals, localizer.read(proposals) if loaded else [], strict=True))
    entries, remarks, drawings = [], [], []
    for picture in batch:
        entry = {"image": picture.image, "stamp": picture.stamp, "overlay": ""}
        entries.append(entry)
        if picture.error:
            entry["failures"] = [[picture.error]]
            remarks.append(picture.error)
            continue
        proposal, reading = next(readings)
        warnings, name = _warnings(localizer, picture, proposal), names[picture.image]
        boxes, attributes = _rows(*reading)
        size, remark = [picture.letterbox.width, picture.letterbox.height], "; ".join(warnings)
        entry["boxes"] = [[*size, *row, name, remark] for row in boxes or [[""] * 6]]
        entry |= {"overlay": name, "attributes": attributes}
        remarks += [f"{picture.image}: {remark}"] if warnings else []
        drawings.append(partial(_overlay, picture, boxes, warnings, out / name))
        if phrases is not None:
            grounded = localizer.ground(proposal, phrases)
            grounded = grounded.round({**dict.fromkeys(CORNERS, 1), "score": 4})
            write_table(out / "phrases.csv", grounded)
    deque(in_threads(operator.call, drawings), maxlen=0)
    return entries, remarks


def _warnings(localizer: Localizer, picture: Picture, proposals: Proposals) -> list[str]:
    """Why the results of an image are not to be relied on, a phrase each."""
    unlike = localizer.unlike(proposals)
    return [*picture.oddities, *([unlike] if unlike else [])]


def _rows(located: DataFrame, attributes: DataFrame) -> tuple[list[list], list[list]]:
    """Rows x1, y1, x2, y2, score, label of the boxes of an image, and rows of its attributes."""
    values = located.to_numpy(float)
    corners, scores = values[:, :4].round(1).tolist(), values[:, 4].round(4).tolist()
    boxes = [[*box, score, "pneumonia"] for box, score in zip(corners, scores, strict=True)]
    columns = (attributes[name].tolist() for name in COLUMNS["attributes"][len(HEAD) :])
    named = zip(*columns, strict=True)  # no probability, NaN, comes with a reason
    return boxes, [[name, "" if why else round(value, 4), why] for name, value, why in named]


def _overlay(picture: Picture, boxes: list[list], warnings: list[str], path: Path) -> None:
    """Draw an image with its boxes and notes."""
    size, notes = (picture.letterbox.width, picture.letterbox.height), [NOTE]
    if max(size) != overlays.LONGEST:
        drawn, whole = (f"{w} x {h}" for w, h in (picture.shown.size, size))
        notes[0] += f" Drawn at {drawn}; boxes.csv counts the {whole} pixels of the file."
    notes += [f"Warning: {warning}." for warning in warnings]
    marked = not picture.oddities  # what is odd may be which side is which
    overlays.draw(picture.shown, *size, [row[:5] for row in boxes], path, notes, marked)


class Results:
    """The lines and tables of a folder, of images localized by one checkpoint."""

    def __init__(self, folder: Path, checkpoint: str, complain: Callable[[str], None]) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.path = folder / ".localize.jsonl"
        self.lines: dict[str, str] = {}  # by image
        self.done: dict[str, tuple[str, str]] = {}  # stamp and overlay
        self.due = 0.0
        others = set()
        for line in self.path.read_text("utf-8").splitlines() if self.path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if entry["checkpoint"] == checkpoint:
                self._keep(entry, line)
            else:
                others.add(entry["image"])
        if others:
            text = "images were localized by another checkpoint; their rows are left out"
            complain(f"{folder}: {len(others)} {text}")
        write_text(self.path, "".join(f"{line}\n" for line in self.lines.values()))

    def _keep(self, entry: dict, line: str) -> None:
        """Put an entry in the place of an earlier one of its image."""
        self.lines[entry["image"]] = line
        self.done[entry["image"]] = (entry["stamp"], entry["overlay"])

    def holds(self, image: str) -> bool:
        """Whether an image is done, its file has not changed since, and its overlay is there."""
        stamp, overlay = self.done.get(image, ("", ""))
        return stamp != "" and stamp == _stamp(image) and (self.folder / overlay).exists()

    def add(self, entries: list[dict]) -> None:
        """Add entries to the lines; the tables follow when it is time."""
        for entry in entries:
            entry["checkpoint"] = self.checkpoint
        lines = [json.dumps(entry) for entry in entries]
        append(self.path, lines)
        for entry, line in zip(entries, lines, strict=True):
            self._keep(entry, line)
        if time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Write the tables, in the order in which images were done."""
        began = time.monotonic()
        with ExitStack() as stack:
            writers = {}
            for name, columns in COLUMNS.items():
                temporary = stack.enter_context(atomic(self.folder / f"{name}.csv"))
                stream = stack.enter_context(open(temporary, "w", **TEXT))
                writers[name] = csv.writer(stream, lineterminator="\n")
                writers[name].writerow(columns)
            for image, line in self.lines.items():
                entry, head = json.loads(line), [image, Path(image).name]
                for name, writer in writers.items():
                    writer.writerows([*head, *row] for row in entry.get(name, []))
        now = time.monotonic()
        self.due = now + max(PAUSE, 20 * (now - began))
