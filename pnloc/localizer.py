"""A trained localizer as one keeps it in a folder, and one image file in its hands: detector, word vectors and cross-attention together."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from pnloc.boxes import fuse, group
from pnloc.config import DetectorConfig, ModelConfig, RegionConfig
from pnloc.errors import PnlocError
from pnloc.files import read_json, write_json
from pnloc.images import Letterbox, load
from pnloc.localize import Choice, image_mass, name_vectors, phrase_mass, pick
from pnloc.model import PNEUMONIA, CrossAttention
from pnloc.regions import Regions, extract, feature_size
from pnloc.reports.phrases import ASSERTED, CELLS, padded, phrases
from pnloc.reports.words import WordVectors
from pnloc.train import device, load_module, save_module

if TYPE_CHECKING:
    from pnloc.detector import Detector


@dataclass(frozen=True)
class Look:
    """What the detector saw in one image file: the square input uint8 [S, S], its regions, and the way back to the file's pixels."""

    picture: np.ndarray
    regions: Regions
    letterbox: Letterbox


@dataclass(frozen=True)
class Localizer:
    """A trained detector with a cross-attention on top, as one saves and loads it."""

    detector: "Detector"
    model: CrossAttention
    names: tuple[str, ...]
    vectors: WordVectors
    choice: Choice
    regions: RegionConfig

    def save(self, folder: str | Path, **facts: object) -> None:
        """Write detector.safetensors, model.safetensors, words.safetensors and config.json; `facts` join the latter."""
        folder = Path(folder)
        save_module(folder / "detector.safetensors", self.detector)
        save_module(folder / "model.safetensors", self.model)
        self.vectors.save(folder / "words.safetensors")
        config = {
            "detector": asdict(self.detector.config),
            "regions": asdict(self.regions),
            "choice": asdict(self.choice),
            "names": list(self.names),
            **facts,
        }
        write_json(folder / "config.json", config)

    @staticmethod
    def load(folder: str | Path) -> "Localizer":
        """Read what `save` wrote; `folder` may also be the run's folder that holds `checkpoint/`."""
        folder = Path(folder)
        if (folder / "checkpoint" / "config.json").exists():
            folder = folder / "checkpoint"
        if not (folder / "config.json").exists():
            raise PnlocError(
                f"{folder}: no checkpoint here (no config.json); train one with `python -m pnloc train`"
            )
        from pnloc.detector import Detector

        config = read_json(folder / "config.json")
        try:
            sizes = config["detector"]
            sizes |= {key: tuple(map(tuple, sizes[key])) for key in ("anchor_sizes",)}
            sizes |= {"aspect_ratios": tuple(sizes["aspect_ratios"])}
            detector = Detector(DetectorConfig(**sizes))
            regions, choice = RegionConfig(**config["regions"]), Choice(**config["choice"])
            names, attention = tuple(config["names"]), ModelConfig(**config["model"])
        except (KeyError, TypeError) as error:
            raise PnlocError(
                f"{folder / 'config.json'}: not a checkpoint of this version ({error})"
            ) from None
        vectors = WordVectors.load(folder / "words.safetensors")
        features = feature_size(detector.config.pyramid)
        model = CrossAttention(
            features, torch.from_numpy(vectors.vectors), name_vectors(names, vectors), attention
        )
        load_module(folder / "detector.safetensors", detector)
        load_module(folder / "model.safetensors", model)
        where = device()
        return Localizer(
            detector.to(where, memory_format=torch.channels_last).eval(),
            model.to(where).eval(),
            names,
            vectors,
            choice,
            regions,
        )

    def look(self, path: str | Path) -> Look:
        """Decode an image file and run the detector on it: the costly part, once for boxes and for a report's phrases."""
        picture, letterbox = load(path, self.detector.config.side)
        return Look(picture, extract(self.detector, picture[None], self.regions), letterbox)

    def __call__(self, image: str | Path | Look) -> tuple[pd.DataFrame, pd.Series]:
        """One image (a file, or what `look` saw in it) -> boxes (x1, y1, x2, y2 in its own pixels, score) and attribute probabilities.

        A box's score is the probability of a pneumonia times the box's share of the best region's score.
        """
        seen = image if isinstance(image, Look) else self.look(image)
        regions, letterbox = seen.regions, seen.letterbox
        mass, probabilities = image_mass(self.model, regions)
        boxes, scores = pick(regions, mass, self.choice)[0]
        best = scores.max(initial=0.0)
        relative = scores / best if best > 0 else scores
        table = pd.DataFrame(letterbox.inverse(boxes), columns=["x1", "y1", "x2", "y2"])
        table["score"] = relative * probabilities[0, self.names.index(PNEUMONIA)]
        return table, pd.Series(probabilities[0], index=list(self.names))

    def ground(self, image: str | Path | Look, report: str) -> pd.DataFrame:
        """Where the phrases of a report lie in its image: phrase, assertion, x1, y1, x2, y2 (pixels of the file), score.

        One row per finding of the opacity family, two where it is on both sides. Only what the report asserts, hedged or not, gets a
        box: the mean (pnloc.boxes.fuse) of the regions around the one whose group (regions of IoU 0.5 and more) has the most of the phrase's
        attention gamma times the detector's score; the score is the group's share of gamma, 0 to 1.
        """
        seen = image if isinstance(image, Look) else self.look(image)
        regions, letterbox = seen.regions, seen.letterbox
        said = phrases(report)
        asserted = [p for p in said if p.assertion in ASSERTED]
        places = padded(
            [np.array([p.cells for p in asserted], dtype=np.float32).reshape(-1, len(CELLS))]
        )
        gamma = iter(phrase_mass(self.model, regions, places)[0])
        n = int(regions.valid[0].sum())
        boxes, scores = (
            regions.boxes[0, :n].numpy().astype(np.float64),
            regions.scores[0, :n].numpy(),
        )
        rows = []
        for phrase in said:
            place = (float("nan"),) * 5
            if phrase.assertion in ASSERTED and n:
                mass = next(gamma)[:n]
                grouped = group(boxes, mass, scores)
                best = int(np.argmax(grouped))
                share = group(boxes, mass, np.ones(n))[best]
                place = (*letterbox.inverse(fuse(boxes, grouped, [best]))[0], share)
            rows.append((phrase.text, phrase.assertion, *place))
        return pd.DataFrame(rows, columns=["phrase", "assertion", "x1", "y1", "x2", "y2", "score"])
