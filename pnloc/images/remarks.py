"""What is odd about an image as a frontal radiograph of a chest: short phrases.

By the DICOM header, which also tells what was guessed to read the pixels, and by the pixels.
"""

import re

import numpy as np
from pydicom.dataset import Dataset

from pnloc.images.dicom import number, text

RADIOGRAPHY = ("", "CR", "DX", "DR", "RG", "XR", "OT", "SC")  # OT and SC: converted from elsewhere
OTHER_CLASS = re.compile(r"\b(CT|MR|Ultrasound|Nuclear|Positron|Mammography|Angiographic)\b")
CHEST = re.compile(r"CHEST|THORA|TORA|LUNG|PULMO|RIB|UNKNOWN|UNDEFINED|OTHER|\bN/?A\b|NONE")
FRONTAL = re.compile(r"\b(A\W*P|P\W*A|FRONTAL|(ANTERO|POSTERO)\W*(ANTERIOR|POSTERIOR))\b")
LATERAL = re.compile(r"\b(LAT|LATERAL|LL|RL|LLD|RLD|LLO|RLO|LAO|RAO|LPO|RPO|OBL\w*|DECUB\w*)\b")
# Directions of the patient as (to the right, down) in a frontal picture, as it is hung.
DIRECTIONS = {"L": (1, 0), "R": (-1, 0), "F": (0, 1), "H": (0, -1)}


# Sides in pixels, ratio of sides, range of grey, share of black or of white.
SMALLEST, LONGEST, FLAT, SATURATED = 64, 1.8, 16, 0.6
COLOURED, COLOURED_SHARE = 40, 0.2  # a difference of colours, and the share of pixels with it
NEGATIVE = 0.4  # standard deviations by which the lungs are brighter than what is between them
LUNGS, BETWEEN = ((0.22, 0.38), (0.62, 0.78)), (0.45, 0.55)  # of the width


def of_header(data: Dataset) -> list[str]:
    """What a header says against a frontal radiograph of a chest, and what was guessed."""
    lines = []
    modality, body = text(data, "Modality").upper(), text(data, "BodyPartExamined").upper()
    kind = getattr(data.get("SOPClassUID"), "name", "") if not modality else f"Modality {modality}"
    if modality not in RADIOGRAPHY or (not modality and OTHER_CLASS.search(kind)):
        lines.append(f"{kind} is not radiography")
    if body and not CHEST.search(body):
        lines.append(f"BodyPartExamined is {body}, not the chest")
    return [*lines, *_view_remarks(data), *_orientation_remarks(data), *_guesses(data)]


def _view_remarks(data: Dataset) -> list[str]:
    """Whether the view is another one than AP or PA."""
    view, series = text(data, "ViewPosition"), text(data, "SeriesDescription")
    if not view and data.get("ViewCodeSequence"):
        view = text(data.ViewCodeSequence[0], "CodeMeaning")
    name, shown = ("ViewPosition", view) if view else ("SeriesDescription", series)
    words = shown.upper().replace("_", " ")
    frontal, lateral = FRONTAL.search(words), LATERAL.search(words)
    if lateral and not (frontal and name == "SeriesDescription"):
        return [f"not a frontal view ({name} {shown})"]
    return [f"perhaps not a frontal view ({name} {view})"] if view and not frontal else []


def _orientation_remarks(data: Dataset) -> list[str]:
    """Whether the picture is mirrored or turned, or no frontal one, by its PatientOrientation."""
    shown = text(data, "PatientOrientation").upper()
    first = [direction[:1] for direction in shown.split("\\")]
    if len(first) != 2 or not set(first) <= {*DIRECTIONS, "A", "P"} or first == ["L", "F"]:
        return []
    if {"A", "P"} & set(first):
        return [f"not a frontal view (PatientOrientation {shown})"]
    (across, down), (right, below) = (DIRECTIONS[direction] for direction in first)
    turn = across * below - down * right
    how = {1: "turned", -1: "mirrored"}.get(turn, "contradictory")
    return [f"{how} (PatientOrientation {shown}): left and right are not those of the patient"]


def _guesses(data: Dataset) -> list[str]:
    """What was guessed to read the pixels, or is left out."""
    lines = []
    colour, shape = text(data, "PhotometricInterpretation"), text(data, "PresentationLUTShape")
    if not colour:
        lines.append("no PhotometricInterpretation: black and white may be exchanged")
    if (colour, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        lines.append(f"PresentationLUTShape {shape} contradicts {colour}: read as inverted")
    if number(data, "PixelRepresentation") is None:
        lines.append("no PixelRepresentation: read as numbers without a sign")
    if (frames := number(data, "NumberOfFrames") or 1) > 1:
        lines.append(f"{frames:.0f} frames, of which the first is read")
    return lines


def of_pixels(gray: np.ndarray, width: int, height: int) -> list[str]:
    """What is odd about grey pixels uint8 [h, w] of a file of width x height.

    On a negative the lungs are brighter than what is between them. That is said of 69 to 91% of the
    negatives of four real sets, and of .4% of their 3,558 images: negatives, and chests aside.
    """
    lines, (short, long) = [], sorted((width, height))
    if short < SMALLEST:
        lines.append(f"only {width} x {height} pixels")
    if long > LONGEST * short:
        lines.append(f"unusual proportions ({width} x {height} pixels)")
    step = max(1, min(gray.shape) // 256)
    gray = gray[::step, ::step]
    low, high = np.percentile(gray, (1, 99))
    if high - low < FLAT:
        return [*lines, "flat: nearly all pixels have one grey"]
    if short < SMALLEST or min(gray.shape) < 16:
        return lines
    extremes = {"black": (gray <= 5).mean(), "white": (gray >= 250).mean()}
    lines += [f"{share:.0%} is {grey}" for grey, share in extremes.items() if share > SATURATED]
    columns = gray[int(0.2 * len(gray)) : int(0.6 * len(gray))].mean(0)
    middle, *lungs = (
        columns[int(left * len(columns)) : int(right * len(columns))].mean()
        for left, right in (BETWEEN, *LUNGS)
    )
    if min(lungs) - middle > NEGATIVE * gray.std():
        lines.append(
            "a negative, or a chest out of the middle: the lungs would be brighter than the heart"
        )
    return lines


def of_colours(colours: np.ndarray) -> list[str]:
    """Whether pixels uint8 [h, w, 3] have colours, beyond a mark and a faint tint."""
    share = (np.ptp(colours, axis=2) > COLOURED).mean()
    return ["coloured: a photograph, or a tinted film"] if share > COLOURED_SHARE else []
