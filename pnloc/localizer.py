"""Save, load and run a trained localizer on one image file.

Image file -> square input -> detector -> regions -> attention over the regions -> boxes. Nothing on
that way reads a report; what does says so: `phrase_attention`, `rank_with_report` and
`Localizer.ground`, which take phrases as places (pnloc.model.PLACES).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, logit

from pnloc.boxes import fuse, group, select
from pnloc.config import DetectorConfig, ModelConfig, RegionConfig, frozen
from pnloc.detector import Detector
from pnloc.errors import PnlocError
from pnloc.files import load_module, load_tensors, read_json, save_module, save_tensors, write_json
from pnloc.images import Letterbox, load
from pnloc.model import PLACES, PNEUMONIA, Batch, CrossAttention
from pnloc.parallel import device
from pnloc.regions import Regions, appearance, concatenate, extract, feature_size

Boxes = list[tuple[np.ndarray, np.ndarray]]  # of each image: boxes [n, 4], scores [n], best first
BOX = "box"  # a box's score, among the curves of `Experience`


@dataclass(frozen=True)
class Choice:
    """How region scores become boxes, tuned on validation images (pnloc.run.evidence).

    Of the boxes left by non-maximum suppression, at most `most` whose score is at least `share` of
    the best one's; `grouped` scores overlapping regions together and averages their boxes.
    """

    share: float = 0.5
    most: int = 2
    grouped: bool = True


def make_batch(
    regions: Regions,
    words: np.ndarray | None = None,
    phrases: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Batch:
    """A Batch on the device from regions of B images and arrays [B, W], [B, P, K], [B, A], [B, A].

    Arrays left out are empty.
    """
    where, count = device(), len(regions)
    log_scores = regions.scores.clamp_min(1e-4).log()
    features = regions.features.to(where).float()
    tensors = [features, log_scores, regions.valid, regions.centres]
    shapes = (count, 0), (count, 0, len(PLACES)), (count, 0), (count, 0)
    kinds = torch.int64, torch.float32, torch.float32, torch.float32
    for array, shape, kind in zip((words, phrases, labels, weights), shapes, kinds, strict=True):
        tensors.append(torch.as_tensor(np.zeros(shape) if array is None else array, dtype=kind))
    return Batch(*(tensor.to(where) for tensor in tensors))


@torch.no_grad()
def image_attention(model: CrossAttention, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
    """From images alone: the pneumonia's beta [N, R], and the attributes' probabilities [N, A]."""
    beta, logits = model.image_only(make_batch(regions))
    return beta[:, 0].cpu().numpy(), torch.sigmoid(logits).cpu().numpy()


@torch.no_grad()
def phrase_attention(model: CrossAttention, regions: Regions, phrases: np.ndarray) -> np.ndarray:
    """gamma [N, P, R] of each phrase [N, P, K] of an image's report; 0 for padding."""
    return model.phrase_attention(make_batch(regions, phrases=phrases))[0].cpu().numpy()


def normalized_scores(regions: Regions) -> np.ndarray:
    """The detector's scores [N, R], normalised to sum to 1 per image."""
    scores = regions.scores.numpy()
    return scores / np.maximum(scores.sum(1, keepdims=True), 1e-9)


def rank_regions(regions: Regions, attention: np.ndarray, grouped: bool) -> np.ndarray:
    """Scores [N, R] to rank regions by, from attention over them [N, R]; 0 for padding.

    grouped: the attention of overlapping regions times the detector's score (pnloc.boxes.group);
    else the attention itself. Raises FloatingPointError where a score is not finite.
    """
    scores = np.where(regions.valid.numpy(), attention, 0.0).astype(np.float64)
    if grouped:
        for row, n in enumerate(regions.valid.sum(1).tolist()):
            boxes, own = regions.boxes[row, :n].numpy(), regions.scores[row, :n].numpy()
            scores[row, :n] = group(boxes, attention[row, :n], own)
    if not np.isfinite(scores).all():
        count = (~np.isfinite(scores)).any(1).sum()
        raise FloatingPointError(f"{count} images have region scores that are not finite")
    return scores


def rank_with_report(
    model: CrossAttention, regions: Regions, phrases: np.ndarray, beta: np.ndarray, grouped: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Scores to rank regions by, and attention over them [N, R], from the phrases [N, P, K] of each
    image's report.

    Each phrase ranks the regions by its gamma, the best one scoring 1; a region gets the greatest
    score that any phrase gives it, so that a report of two places gets a box for each, and the
    greatest gamma. Without a phrase the image alone, its beta [N, R], decides.
    """
    gamma, some = phrase_attention(model, regions, phrases), phrases.any((1, 2))[:, None]
    scores = np.zeros(beta.shape)
    for number in range(phrases.shape[1]):
        own = rank_regions(regions, gamma[:, number], grouped)
        scores = np.maximum(scores, own / own.max(1, keepdims=True).clip(1e-12))
    scores = np.where(some, scores, rank_regions(regions, beta, grouped))
    return scores, np.where(some, gamma.max(1, initial=0.0), beta)


def boxes_of(regions: Regions, scores: np.ndarray, choice: Choice) -> Boxes:
    """Boxes (pixels of the square input) and scores per image, from scores of its regions [N, R].

    Where regions are grouped, a box is the mean of its group by score (pnloc.boxes.fuse).
    """
    result = []
    for row, n in enumerate(regions.valid.sum(1).tolist()):
        boxes, own = regions.boxes[row, :n].numpy().astype(np.float64), scores[row, :n]
        chosen = select(boxes, own, choice.share, choice.most)
        result.append((fuse(boxes, own, chosen) if choice.grouped else boxes[chosen], own[chosen]))
    return result


def pick(regions: Regions, attention: np.ndarray, choice: Choice) -> Boxes:
    """Boxes and scores per image from attention over its regions [N, R]."""
    return boxes_of(regions, rank_regions(regions, attention, choice.grouped), choice)


@dataclass(frozen=True)
class Proposals:
    """One image file as the detector sees it: square input uint8 [S, S], regions, way back."""

    picture: np.ndarray
    regions: Regions
    letterbox: Letterbox


def checkpoint_folder(folder: str | Path) -> Path:
    """The folder of a checkpoint, or the one in a run's folder, which holds `checkpoint/`."""
    inside = Path(folder) / "checkpoint"
    return inside if (inside / "config.json").exists() else Path(folder)


@dataclass(frozen=True)
class Experience:
    """What a checkpoint was trained on, and what its numbers are worth (pnloc.run.experience).

    sets     of each set that trained it, by name: number of 'images', and whether 'generated'
    limit    the greatest distance of an image that looks like them
    looks    'centre' [F] and 'axes' [F, K] of the training images' appearance (pnloc.regions)
    curves   slope and intercept that calibrate the scores of BOX and of attributes, by name
    reasons  why an attribute has no probability, or BOX no curve, by name
    """

    sets: dict[str, dict] = field(default_factory=dict)
    limit: float = 0.0
    looks: dict[str, torch.Tensor] = field(default_factory=dict)
    curves: dict[str, tuple[float, float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Mahalanobis distances [N] of appearances [N, F] from those of the training images."""
        centre, axes = self.looks["centre"].numpy(), self.looks["axes"].numpy()
        return np.linalg.norm((images - centre) @ axes, axis=1)

    def calibrated(self, name: str, scores: np.ndarray) -> np.ndarray:
        """Scores as probabilities, by the curve of that name; the same scores without a curve."""
        if name not in self.curves:
            return scores
        slope, intercept = self.curves[name]
        return expit(slope * logit(np.asarray(scores, dtype=np.float64)) + intercept)

    def attributes(self, names: Sequence[str], scores: np.ndarray) -> pd.DataFrame:
        """attribute, probability (NaN with a reason), reason, from an image's raw scores [A]."""
        rows = []
        for name, score in zip(names, scores, strict=True):
            reason = self.reasons.get(name, "")
            rows.append((name, np.nan if reason else self.calibrated(name, score), reason))
        return pd.DataFrame(rows, columns=["attribute", "probability", "reason"])


@dataclass(frozen=True)
class Localizer:
    """A trained detector with a cross-attention on top; `names` are those of the attributes."""

    detector: Detector
    model: CrossAttention
    names: tuple[str, ...]
    choice: Choice
    regions: RegionConfig
    experience: Experience = Experience()

    def save(self, folder: str | Path, **facts: object) -> None:
        """Write weights and looks as *.safetensors, and config.json, which `facts` join."""
        folder = Path(folder)
        save_module(folder / "detector.safetensors", self.detector)
        save_module(folder / "model.safetensors", self.model)
        save_tensors(folder / "looks.safetensors", self.experience.looks)
        parts = {"detector": self.detector.config, "regions": self.regions, "choice": self.choice}
        config = {name: asdict(part) for name, part in parts.items()} | {"names": list(self.names)}
        config["experience"] = asdict(replace(self.experience, looks={}))
        write_json(folder / "config.json", config | facts)

    @staticmethod
    def load(folder: str | Path) -> "Localizer":
        """Read what `save` wrote; `folder` may also be a run's, which holds `checkpoint/`."""
        folder = checkpoint_folder(folder)
        path = folder / "config.json"
        if not path.exists():
            advice = "(no config.json); train one with `python -m pnloc train`"
            raise PnlocError(f"{folder}: no checkpoint here {advice}")
        config, weights = read_json(path), load_tensors(folder / "model.safetensors")
        try:
            sizes = {name: frozen(value) for name, value in config["detector"].items()}
            detector = Detector(DetectorConfig(**sizes))
            regions, choice = RegionConfig(**config["regions"]), Choice(**config["choice"])
            names, attention = tuple(config["names"]), ModelConfig(**config["model"])
            experience = Experience(**config.get("experience", {}))
            features = feature_size(detector.config.pyramid)
            model = CrossAttention(features, weights["vectors"], weights["names"], attention)
        except (KeyError, TypeError) as error:
            raise PnlocError(f"{path}: not a checkpoint of this version ({error})") from None
        load_module(folder / "detector.safetensors", detector)
        load_module(folder / "model.safetensors", model)
        if experience.sets:
            experience = replace(experience, looks=load_tensors(folder / "looks.safetensors"))
        detector = detector.to(device(), memory_format=torch.channels_last).eval()
        return Localizer(detector, model.to(device()).eval(), names, choice, regions, experience)

    def propose(self, path: str | Path) -> Proposals:
        """Decode an image file and run the detector on it: the costly part, once per image."""
        return self.propose_all([load(path, self.detector.config.side)])[0]

    def propose_all(self, loaded: list[tuple[np.ndarray, Letterbox]]) -> list[Proposals]:
        """Proposals of images as `load` gives them, in one pass of the detector."""
        regions = extract(self.detector, np.stack([square for square, _ in loaded]), self.regions)
        return [
            Proposals(square, regions.rows([row]), letterbox)
            for row, (square, letterbox) in enumerate(loaded)
        ]

    def unlike(self, image: Proposals) -> str:
        """A warning in one line if an image looks unlike the training images, or if these are not
        known, as in older checkpoints; else ''.
        """
        known, kinds = self.experience, ("real", "generated")
        if not known.sets:
            return "this checkpoint does not say what it was trained on; train it again"
        distance = known.distances(appearance(image.picture[None], image.regions))[0]
        names = [f"{s['images']} {kinds[s['generated']]} of {n}" for n, s in known.sets.items()]
        far = f"{', '.join(names)}; distance {distance:.1f}, limit {known.limit:.1f}"
        message = f"unlike the training images ({far}): do not rely on boxes and probabilities"
        return message if distance > known.limit else ""

    def __call__(self, path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Boxes (x1, y1, x2, y2 in the image's pixels, score) and attributes (attribute,
        probability, reason) of an image file.

        A score is the probability that the box is right (pnloc.evaluation.calibration), calibrated
        from the pneumonia's times the box's share of the best score. The reason says why an
        attribute has no probability.
        """
        return self.read([self.propose(path)])[0]

    def read(self, images: list[Proposals]) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
        """The same for several images, in one pass of the attention."""
        regions, known = concatenate([image.regions for image in images]), self.experience
        attention, raw = image_attention(self.model, regions)
        picked, result = pick(regions, attention, self.choice), []
        for image, (boxes, scores), own in zip(images, picked, raw, strict=True):
            best = scores.max(initial=0.0)
            relative = scores / best if best > 0 else scores
            table = pd.DataFrame(image.letterbox.inverse(boxes), columns=["x1", "y1", "x2", "y2"])
            score = relative * own[self.names.index(PNEUMONIA)]
            table["score"] = known.calibrated(BOX, score)
            result.append((table, known.attributes(self.names, own)))
        return result

    def ground(self, image: Proposals, phrases: list) -> pd.DataFrame:
        """Where phrases (pnloc.reports.phrases.Phrase) lie in their image, a row each, in pixels.

        Only an asserted phrase, hedged or not, gets a box: the mean (pnloc.boxes.fuse) of the
        regions around the one whose group (IoU at least 0.5) has most of the phrase's gamma times
        the detector's score; `score` is the group's share of gamma, 0 to 1.
        """
        regions, n = image.regions, int(image.regions.valid[0].sum())
        cells = np.array([p.cells for p in phrases], dtype=np.float32).reshape(-1, len(PLACES))
        gamma = phrase_attention(self.model, regions, cells[None])[0, :, :n]
        boxes = regions.boxes[0, :n].numpy().astype(np.float64)
        scores = regions.scores[0, :n].numpy()
        rows = []
        for phrase, attention in zip(phrases, gamma, strict=True):
            place = (float("nan"),) * 5
            if phrase.asserted and n:
                grouped = group(boxes, attention, scores)
                best = int(np.argmax(grouped))
                share = group(boxes, attention, np.ones(n))[best]
                place = (*image.letterbox.inverse(fuse(boxes, grouped, [best]))[0], share)
            rows.append((phrase.text, phrase.assertion, *place))
        return pd.DataFrame(rows, columns=["phrase", "assertion", "x1", "y1", "x2", "y2", "score"])
