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
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from PIL.Image import Image

from pnloc import __version__
from pnloc.errors import PnlocError
from pnloc.files import append, atomic, check_path, digest, make_folder, write_table, write_text
from pnloc.images import Letterbox, header, in_threads, oddities, read_gray
from pnloc.localizer import Localizer, checkpoint_folder
from pnloc.parallel import bar
from pnloc.view import overlays

BATCH = 16
PAUSE = 5.0  # seconds between two writes of the tables, and at least 20 times what one takes
CORNERS = ["x1", "y1", "x2", "y2"]
DIGITS = {**dict.fromkeys(CORNERS, 1), "score": 4, "probability": 4}
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
        done = results.entries.values()
        names = {entry["image"]: entry["overlay"] for entry in done if entry["overlay"]}
        new = [image for image in waiting if image not in names]
        names |= overlays.names(new, names.values())
        decode = partial(_decode, side=localizer.detector.config.side)
        try:
            with (
                closing(in_threads(decode, waiting)) as decoded,
                bar(total=len(images), initial=before, desc="localize", unit="image") as progress,
            ):
                while batch := list(islice(decoded, BATCH)):
                    entries = _read(localizer, batch, names, out, phrases)
                    results.add(entries)
                    failed += sum(picture.error != "" for picture in batch)
                    with progress.external_write_mode():
                        for remark in filter(None, map(_remark, entries)):
                            complain(remark)
                    progress.update(len(batch))
            results.write()
        except KeyboardInterrupt:
            results.write()
            done = f"stopped: {sum(map(results.holds, images))} of {len(images)} images are done"
            further = "the same command goes on with the others"
            raise KeyboardInterrupt(f"{done} and in {out / 'boxes.csv'}; {further}") from None
    return Outcome(len(images), before, failed)


def _locked(folder: Path) -> AcquireReturnProxy:
    """Inside `with` no other process localizes into the folder; freed if this one dies."""
    try:
        return FileLock(folder / ".localize.lock").acquire(timeout=0)
    except Timeout:
        advice = "wait for it, or choose another folder"
        raise PnlocError(f"{folder}: another localize writes to this folder; {advice}") from None


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
) -> list[dict]:
    """Entries of a batch of images, whose overlays are drawn here."""
    loaded = [(picture.square, picture.letterbox) for picture in batch if not picture.error]
    proposals = localizer.propose_all(loaded) if loaded else []
    read = iter(zip(proposals, localizer.read(proposals) if loaded else [], strict=True))
    results = [None if picture.error else next(read) for picture in batch]

    def entry(row: int) -> dict:
        picture, result = batch[row], results[row]
        head = {"image": picture.image, "stamp": picture.stamp, "overlay": ""}
        if result is None:
            return head | {"failures": [[picture.error]]}
        proposal, (boxes, attributes) = result
        if phrases is not None:
            write_table(out / "phrases.csv", localizer.ground(proposal, phrases).round(DIGITS))
        name, unlike = names[picture.image], localizer.unlike(proposal)
        warnings = [*picture.oddities, *([unlike] if unlike else [])]
        rows = boxes.round(DIGITS).to_numpy(float).tolist()
        _overlay(picture, rows, warnings, out / name)
        size, remark = [picture.letterbox.width, picture.letterbox.height], "; ".join(warnings)
        labelled = [[*row, "pneumonia"] for row in rows] or [[""] * 6]
        named = attributes.round(DIGITS).to_numpy().tolist()
        return head | {
            "overlay": name,
            "boxes": [[*size, *row, name, remark] for row in labelled],
            "attributes": [[label, "" if why else value, why] for label, value, why in named],
        }

    return list(in_threads(entry, range(len(batch))))


def _remark(entry: dict) -> str:
    """What is to be said of an image: why it cannot be read, or its warnings; '' for nothing."""
    if "failures" in entry:
        return entry["failures"][0][0]
    warning = entry["boxes"][0][-1]
    return f"{entry['image']}: {warning}" if warning else ""


def _overlay(picture: Picture, boxes: list[list], warnings: list[str], path: Path) -> None:
    """Draw an image with its boxes (x1, y1, x2, y2, score) and notes."""
    size, notes = (picture.letterbox.width, picture.letterbox.height), [NOTE]
    if max(size) != overlays.LONGEST:
        drawn, whole = (f"{w} x {h}" for w, h in (picture.shown.size, size))
        notes[0] += f" Drawn at {drawn}; boxes.csv counts the {whole} pixels of the file."
    notes += [f"Warning: {warning}." for warning in warnings]
    marked = not picture.oddities  # what is odd may be which side is which
    overlays.draw(picture.shown, *size, boxes, path, notes, marked)


class Results:
    """The lines and tables of a folder, of images localized by one checkpoint."""

    def __init__(self, folder: Path, checkpoint: str, complain: Callable[[str], None]) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.path, self.due = folder / ".localize.jsonl", 0.0
        self.entries: dict[str, dict] = {}  # by image
        others = set()
        for line in self.path.read_text("utf-8").splitlines() if self.path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if entry["checkpoint"] == checkpoint:
                self.entries[entry["image"]] = entry
            else:
                others.add(entry["image"])
        if others:
            text = "images were localized by another checkpoint; their rows are left out"
            complain(f"{folder}: {len(others)} {text}")
        write_text(self.path, "".join(f"{json.dumps(one)}\n" for one in self.entries.values()))

    def holds(self, image: str) -> bool:
        """Whether an image is done, its file has not changed since, and its overlay is there."""
        entry = self.entries.get(image, {"stamp": ""})
        same = entry["stamp"] != "" and entry["stamp"] == _stamp(image)
        return same and (self.folder / entry["overlay"]).exists()

    def add(self, entries: list[dict]) -> None:
        """Add entries to the lines; the tables follow when it is time."""
        entries = [entry | {"checkpoint": self.checkpoint} for entry in entries]
        append(self.path, map(json.dumps, entries))
        self.entries |= {entry["image"]: entry for entry in entries}
        if time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Write the tables, in the order in which images were done."""
        began = time.monotonic()
        for name, columns in COLUMNS.items():
            with atomic(self.folder / f"{name}.csv") as path, open(path, "w", **TEXT) as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(columns)
                for image, entry in self.entries.items():
                    rows = entry.get(name, [])
                    writer.writerows([image, Path(image).name, *row] for row in rows)
        now = time.monotonic()
        self.due = now + max(PAUSE, 20 * (now - began))
