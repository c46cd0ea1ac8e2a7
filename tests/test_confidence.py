"""What a checkpoint knows of itself: unlike images, calibrated scores, attributes left out."""

from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.special import expit, logit
from test_trained import TINY

from pnloc.config import ModelConfig, RegionConfig
from pnloc.detector import Detector
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.bootstrap import Patients
from pnloc.evaluation.calibration import LEAST, calibration, platt
from pnloc.files import read_json, write_json
from pnloc.images import Letterbox
from pnloc.localizer import BOX, Choice, Experience, Localizer, Proposals
from pnloc.model import PNEUMONIA, CrossAttention
from pnloc.regions import appearance, extract, feature_size
from pnloc.run import experience
from pnloc.run.sets import NAMES

MODEL = ModelConfig(width=16)
REGIONS = RegionConfig(count=6, components=2)
DRAWS = {"resamples": 200, "seed": 0}


def pictures(count: int, seed: int, fine: bool = False) -> np.ndarray:
    """Smooth or fine-grained noise, uint8 [N, 64, 64]."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, 64, 64))
    smooth = ndimage.gaussian_filter(noise, (0, 6, 6)) * 12
    return ((noise if fine else smooth) * 30 + 120).clip(1, 255).astype(np.uint8)


@cache
def untrained() -> Localizer:
    """Untrained networks that have looked at smooth pictures."""
    torch.manual_seed(0)
    detector = Detector(TINY).eval()
    words, names = torch.randn(3, 8), torch.randn(len(NAMES), 8)
    model = CrossAttention(feature_size(TINY.pyramid), words, names, MODEL).eval()
    seen = [
        appearance(p, extract(detector, p, REGIONS)) for p in (pictures(80, 0), pictures(40, 1))
    ]
    known = Experience({"demo-x": {"images": 80, "generated": True}})
    known = replace(known, looks=experience.fit_looks(seen[0]))
    limit = np.quantile(known.distances(seen[1]), experience.QUANTILE)
    known = replace(known, limit=float(limit), reasons={NAMES[3]: "never seen in training"})
    known = replace(known, curves={BOX: (0.5, -1.0), PNEUMONIA: (2.0, 0.5)})
    return Localizer(detector, model, NAMES, Choice(), REGIONS, known)


def proposals(images: np.ndarray) -> list[Proposals]:
    """What the localizer proposes on such pictures."""
    return untrained().propose_all([(image, Letterbox(64, 64, 64)) for image in images])


# Images unlike those of training -------------------------------------------------------------


def test_images_of_another_kind_are_warned_of_and_further_ones_of_the_same_kind_are_not():
    same = [untrained().unlike(one) for one in proposals(pictures(30, 2))]
    other = [untrained().unlike(one) for one in proposals(pictures(30, 3, fine=True))]
    flat = untrained().unlike(proposals(np.full((1, 64, 64), 90, np.uint8))[0])
    assert sum(map(bool, same)) <= 2 and all(other) and flat
    assert "80 generated of demo-x" in flat and "\n" not in flat


def test_a_checkpoint_keeps_what_it_knows_and_an_older_one_says_that_it_does_not_know(tmp_path):
    untrained().save(tmp_path, model=asdict(MODEL))
    again, (one,) = Localizer.load(tmp_path), proposals(pictures(1, 4, fine=True))
    assert again.unlike(one) == untrained().unlike(one) != ""
    for table, same in zip(*again.read([one]), *untrained().read([one]), strict=True):
        pd.testing.assert_frame_equal(table, same)
    config = read_json(tmp_path / "config.json")
    del config["experience"]
    write_json(tmp_path / "config.json", config)
    (tmp_path / "looks.safetensors").unlink()
    old = Localizer.load(tmp_path)
    assert "does not say what it was trained on" in old.unlike(one)
    assert old.read([one])[0][1]["probability"].between(0, 1).all()


def test_the_looks_of_few_or_alike_images_are_finite():
    images = np.ones((3, 30)) + np.eye(3, 30)
    known = Experience(looks=experience.fit_looks(images))
    assert np.isfinite(known.distances(images)).all()
    assert known.distances(images + 5).min() > known.distances(images).max()


# Calibration ---------------------------------------------------------------------------------

scores_and_truth = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@given(scores_and_truth)
def test_calibration_never_changes_a_ranking(rng):
    scores = rng.random(60) ** rng.uniform(0.2, 5)
    right = rng.random(60) < expit(rng.normal(0, 3) * logit(scores) + rng.normal())
    curve = platt(scores, right)
    if min(right.sum(), (~right).sum()) < LEAST:
        assert curve is None
        return
    probability = Experience(curves={BOX: curve}).calibrated(BOX, scores)
    assert curve[0] > 0 and ((probability > 0) & (probability < 1)).all()
    assert (np.argsort(probability) == np.argsort(scores)).all()


def test_the_curve_of_scores_that_are_too_sure_is_recovered():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.05, 0.95, 8000)
    right = (rng.random(8000) < expit(0.5 * logit(scores) - 1)).astype(float)
    fitted, held = slice(0, 4000), slice(4000, None)
    curve = platt(scores[fitted], right[fitted])
    assert curve == pytest.approx((0.5, -1), abs=0.1)
    table = pd.DataFrame({"image": "a", "score": scores[held], "right": right[held]})
    known = Experience(curves={BOX: curve})
    after = table.assign(score=known.calibrated(BOX, table["score"]))
    errors = [calibration(boxes, {"a": "p"}, **DRAWS)[1].value for boxes in (table, after)]
    assert errors[1] < 0.04 < 0.15 < errors[0]


def test_scores_that_rank_the_wrong_way_become_the_share_of_right_ones():
    scores = np.linspace(0.1, 0.9, 100)
    curve = platt(scores, scores < 0.3)
    probability = Experience(curves={BOX: curve}).calibrated(BOX, scores)
    assert probability == pytest.approx(0.25, abs=0.03) and (np.diff(probability) > 0).all()


def test_the_boxes_of_an_image_have_calibrated_scores_in_the_same_places():
    boxes, _ = untrained().read(proposals(pictures(1, 6)))[0]
    raw, _ = replace(untrained(), experience=Experience()).read(proposals(pictures(1, 6)))[0]
    assert len(boxes) and boxes[metrics.CORNERS].equals(raw[metrics.CORNERS])
    expected = expit(0.5 * logit(raw["score"].to_numpy(float)) - 1)
    assert boxes["score"].to_numpy() == pytest.approx(expected)


# Attributes ----------------------------------------------------------------------------------


def studies(count: int = 120) -> dict[str, np.ndarray]:
    """Validation studies; the score of attribute 1 tells it, that of all others tells nothing."""
    rng = np.random.default_rng(2)
    labels = (rng.random((count, len(NAMES))) < 0.4).astype(float)
    scores = rng.uniform(0.2, 0.8, labels.shape)
    scores[:, 1] = np.where(labels[:, 1] > 0, scores[:, 1] ** 0.5, scores[:, 1] ** 2)
    arrays = {"labels": labels, "weights": np.ones_like(labels), "scores": scores}
    return arrays | {"patients": np.arange(count), "present": np.full(len(NAMES), 50)}


def test_only_what_training_saw_and_validation_supports_has_a_curve():
    data = studies()
    data["present"][4], data["present"][5] = 0, 3
    data["labels"][:, 6] = np.arange(120) < LEAST - 1
    data["weights"][:, 7] = 0
    curves, reasons = experience.attribute_curves(**data, **DRAWS)
    assert NAMES[1] in curves and set(curves) | set(reasons) == set(NAMES)
    assert not set(curves) & set(reasons)
    assert len(curves) <= 3, "of 18 attributes left to chance hardly one passes"
    assert "never seen" in reasons[NAMES[4]] and "3 training" in reasons[NAMES[5]]
    assert f"{LEAST - 1} of 120" in reasons[NAMES[6]] and "0 of 0" in reasons[NAMES[7]]


@pytest.mark.parametrize(("gap", "given"), [(2.0, True), (0.0, False), (-2.0, False)])
def test_an_attribute_is_left_out_unless_its_interval_is_above_chance(gap, given):
    rng = np.random.default_rng(3)
    truth = np.arange(60) % 2
    scores = expit(rng.normal(size=60) + gap * truth)
    reason = experience.why_not(100, truth, scores, Patients(np.arange(60), **DRAWS))
    assert (reason == "") == given and given == ("chance" not in reason)
