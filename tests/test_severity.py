"""Severity: read-outs by hand, statistics against scipy and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from explorer import course
from pnloc.baselines.heatmaps import coverage
from pnloc.errors import PnlocError
from pnloc.evaluation import severity
from pnloc.evaluation.bootstrap import Patients
from pnloc.evaluation.statistics import STATISTICS

LEFT_OUT, HALVES = severity.LEFT_OUT, severity.HALVES


def study(images: int = 24, patients: int = 9) -> tuple[pd.Series, pd.Series, np.ndarray]:
    """A read-out with ties, a score that follows it, and the patient of each image."""
    rng, index = np.random.default_rng(0), [f"i{n:02d}" for n in range(images)]
    readout = rng.integers(0, 8, images) / 4
    score = np.round(2 * readout + rng.normal(0, 1, images))
    who = np.array([f"p{n % patients}" for n in range(images)])
    return pd.Series(readout, index), pd.Series(score, index), who


def drawn(who: np.ndarray, resamples: int = 50) -> Patients:
    return Patients(who, resamples, 0)


def values_of(table: pd.DataFrame) -> dict:
    """Values by fit and statistic, or by whatever stands before 'value'."""
    columns = list(table.columns[: list(table).index("value")])
    return table.set_index(columns if len(columns) > 1 else columns[0])["value"].to_dict()


# Read-outs ----------------------------------------------------------------------------------------


def test_expected_severity_by_hand():
    rows = [(0.5, 0.2, 0.2, 0.4), (1, 0, 0, 0.3), (1, 0.7, 0, 0), (0, 0.1, 0.1, 0.9)]
    rows.append((0.8, 0, 0, 0))
    table = pd.DataFrame(rows, columns=["pneumonia", *severity.LEVELS])
    # (.2 * 1 + .2 * 2 + .4 * 3) / .8 = 2.25, times .5.
    assert severity.expected_severity(table).tolist() == pytest.approx([1.125, 3, 1, 0, 0])
    assert severity.expected_severity(table[table.columns[::-1]])[0] == pytest.approx(1.125)


def brightness(image: np.ndarray, *boxes: list[float]) -> float:
    mask = coverage(np.reshape(boxes, (-1, 4)), np.ones(len(boxes)), len(image)) > 0
    return severity.means_inside([severity.equalized(image)], [mask])[0]


def test_brightness_by_hand_on_two_tones_on_flat_images_and_of_no_place():
    picture = np.full((64, 64), 60, dtype=np.uint8)
    picture[:, 32:] = 180
    # Two equally frequent tones are spread to the ends of the range.
    assert brightness(picture, [0, 0, 0.5, 1]) == 0 and brightness(picture, [0.5, 0, 1, 1]) == 1
    assert brightness(picture, [0, 0, 0.5, 1], [0.5, 0, 1, 1]) == pytest.approx(0.5)
    assert brightness(picture, [0.25, 0, 0.625, 1]) == pytest.approx(1 / 3)
    assert brightness(np.full((8, 8), 51, np.uint8), [0, 0, 1, 1]) == pytest.approx(0.2)
    assert brightness(np.zeros((8, 8), np.uint8), [0, 0, 1, 1]) == 0
    assert np.isnan(brightness(picture, [0.5, 0, 0.5, 1])) and np.isnan(brightness(picture))


def test_brightness_does_not_depend_on_exposure_nor_on_black_bars():
    rng, where = np.random.default_rng(0), [0.5, 0.25, 1, 0.75]
    picture = (rng.random((64, 64)) * 80 + np.arange(64) + 10).astype(np.uint8)
    one = brightness(picture, where)
    assert 0.55 < one < 0.9
    assert brightness((picture // 2 + 1).astype(np.uint8), where) == pytest.approx(one, abs=0.02)
    barred = picture.copy()
    barred[:16] = 0
    assert brightness(barred, where) == pytest.approx(one, abs=0.03)


# Statistics ---------------------------------------------------------------------------------------

REFERENCES = {
    "pearson": lambda x, y: stats.pearsonr(x, y).statistic,
    "spearman": lambda x, y: stats.spearmanr(x, y).statistic,
    "r2": lambda x, y: r2_score(y, x),
    "mae": lambda x, y: mean_absolute_error(y, x),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_weighted_statistics_are_those_of_the_repeated_sample(name):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = rng.integers(0, 5, 15) / 2.0, rng.integers(0, 6, 15).astype(float)
        weights = rng.multinomial(15, np.full(15, 1 / 15), size=6)
        found = STATISTICS[name](x, y, weights.astype(float))
        repeated = [REFERENCES[name](np.repeat(x, w), np.repeat(y, w)) for w in weights]
        assert weights.max() > 1 and found == pytest.approx(repeated)


# Associations -------------------------------------------------------------------------------------


def test_associations_are_those_of_scipy_and_scikit_learn():
    readout, score, who = study()
    table = severity.associations(readout, score, drawn(who, 200))
    found, x = values_of(table), readout.to_numpy()[:, None]
    options = {"groups": who, "cv": LeaveOneGroupOut()}
    fitted = cross_val_predict(LinearRegression(), x, score, **options)
    for name, reference in REFERENCES.items():
        assert found[LEFT_OUT, name] == pytest.approx(reference(fitted, score))
    for name in ("pearson", "spearman"):
        assert found["zero-shot", name] == pytest.approx(REFERENCES[name](readout, score))
    assert {s for fit, s in found if fit == HALVES} == {"pearson", "r2", "mae"}
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()
    assert (table["n"] == 24).all() and len(table) == 9
    # Images are matched by name, and those without a score are left out.
    more = pd.concat([readout, pd.Series([9.0], ["other"])]).sample(frac=1, random_state=0)
    again = severity.associations(more, score, drawn(who, 200))
    pd.testing.assert_frame_equal(again, table)
    fits = severity.calibrated(readout, score, pd.Series(who, score.index))
    assert fits.index.equals(score.index) and fits.to_numpy() == pytest.approx(fitted)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_readout_has_no_correlation_in_any_fit(constant):
    _, score, who = study()
    table = severity.associations(pd.Series(constant, score.index), score, drawn(who))
    correlations = table[table["statistic"].isin(severity.CORRELATIONS)]
    assert len(correlations) == 5 and correlations[["value", "low", "high"]].isna().all(axis=None)
    # Its fit is the mean of the others, as without an image.
    without = values_of(severity.no_data(score, drawn(who)))
    assert {key: values_of(table)[key] for key in without} == pytest.approx(without)


def test_bad_input_is_named():
    readout, score, who = study()
    with pytest.raises(PnlocError, match="at least two patients"):
        severity.associations(readout, score, drawn(["one"] * 24))
    with pytest.raises(PnlocError, match="^2 images have a read-out or a score that is not a num"):
        severity.associations(readout.drop(["i00", "i05"]), score, drawn(who))
    with pytest.raises(PnlocError, match="^1 images"):
        severity.associations(readout, score.where(score.index != "i03"), drawn(who))


def test_without_data_the_training_mean_is_predicted():
    score = pd.Series([0.0, 3, 6], ["a", "b", "c"])
    found = values_of(severity.no_data(score, drawn(["p", "q", "r"])))
    # Left out in turn: errors 4.5, 0 and 4.5; the squares' sum against 18 around the mean.
    assert found[LEFT_OUT, "mae"] == pytest.approx(3)
    assert found[LEFT_OUT, "r2"] == pytest.approx(1 - 40.5 / 18)
    # One patient is tested: errors 4.5, 0 or 4.5.
    assert 2 < found[HALVES, "mae"] < 4 and np.isnan(found[HALVES, "r2"])
    assert {s for _, s in found} == {"r2", "mae"}


# Several read-outs, differences, confounders ------------------------------------------------------


def test_no_fit_has_seen_the_patients_that_it_is_measured_on():
    who, tests = np.repeat(np.arange(12), 3), []

    def fit(test: np.ndarray) -> np.ndarray:
        tests.append(test)
        return np.zeros(test.sum())

    severity.leave_one_patient_out(fit, who)
    tests += severity.halves(who, 0)
    assert len(tests) == 12 + severity.SPLITS
    assert not any({*who[test]} & {*who[~test]} for test in tests)


def test_a_difference_is_that_of_the_two_correlations_and_is_paired():
    readout, score, who = study()
    patients = drawn(who, 300)
    noise = pd.Series(np.random.default_rng(1).normal(0, 1, 24), readout.index)
    for name, value in values_of(severity.differences(readout, noise, score, patients)).items():
        one, other = (REFERENCES[name](x, score) for x in (readout, noise))
        assert value == pytest.approx(one - other)
    same = severity.differences(readout, readout, score, patients)
    assert same[["value", "low", "high"]].to_numpy() == pytest.approx(0)
    # Without an image the difference is the correlation.
    alone = severity.differences(readout, readout * 0, score, patients)
    pd.testing.assert_frame_equal(alone, severity.zero_shot(readout, score, patients))


def test_a_partial_correlation_is_that_of_the_residuals():
    readout, score, who = study()
    other = score + np.random.default_rng(2).normal(0, 1, 24)
    found = values_of(severity.partials(readout, score, drawn(who), other))
    for statistic, order in (("pearson", np.asarray), ("spearman", stats.rankdata)):
        x, y, z = (order(v) for v in (readout, score, other))
        rest = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
        assert found[statistic] == pytest.approx(stats.pearsonr(*rest).statistic)
    # Of groups their means are taken out, which is all where each image is a group.
    group = other.gt(other.median()).map("view {}".format)
    rest = [v - v.groupby(group).transform("mean") for v in (readout, score)]
    table = severity.partials(readout, score, drawn(who), group)
    assert values_of(table)["pearson"] == pytest.approx(stats.pearsonr(*rest).statistic)
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()
    plain = severity.partials(readout, score, drawn(who), pd.Series("same", score.index))
    assert plain.loc[0, "value"] == pytest.approx(REFERENCES["pearson"](readout, score))
    names = pd.Series(score.index, score.index)
    assert severity.partials(readout, score, drawn(who), names)["value"].isna().all()


# Zones and grades ---------------------------------------------------------------------------------


def test_zones_pooled_and_within_an_image_by_hand():
    theirs = np.array([[0, 1, 2], [2, 2, 2], [2, 1, 0.0]])
    ours = np.array([[0.1, 0.2, 0.3], [0.9, 0.1, 0.5], [0.1, 0.2, 0.3]])
    patients, spearman = drawn(["p", "q", "r"]), REFERENCES["spearman"]
    table = severity.zone_associations(ours, theirs, patients)
    rows = table.set_index(["zone", "statistic"])
    pooled = spearman(ours.ravel(), theirs.ravel())
    assert rows.loc[("all", "pooled"), "value"] == pytest.approx(pooled)
    # The middle image has equal zones and does not count: (1 - 1) / 2.
    assert rows.loc[("all", "within"), ["value", "n"]].tolist() == [0, 2]
    assert rows.loc[("all", "pooled"), "n"] == 9
    assert rows.loc[(0, "spearman"), "value"] == pytest.approx(spearman(ours[:, 0], theirs[:, 0]))
    assert np.isnan(severity.zone_associations(ours * 0, theirs, patients)["value"].iloc[0])
    alike = severity.zone_associations(ours, theirs * 0, patients)
    assert "within" not in set(alike["statistic"])
    # An image whose zones are alike for us counts as no correlation.
    ours = np.array([[1, 2, 3], [1, 1, 1.0]])
    table = severity.zone_associations(ours, theirs[[0, 0]], drawn([1, 2]))
    assert table.set_index("statistic").loc["within", "value"] == pytest.approx(0.5)


def test_zone_differences_are_those_of_the_two_associations():
    rng, patients = np.random.default_rng(3), drawn(np.repeat(np.arange(10), 2), 200)
    theirs = rng.integers(0, 4, (20, 6)).astype(float)
    good, bad = theirs + rng.normal(0, 0.5, theirs.shape), rng.normal(0, 1, theirs.shape)
    found = severity.zone_differences(good, bad, theirs, patients).set_index("statistic")
    for column, ours in (("first", good), ("second", bad)):
        whole = values_of(severity.zone_associations(ours, theirs, patients))
        for statistic in ("pooled", "within"):
            assert found.loc[statistic, column] == pytest.approx(whole["all", statistic])
    assert (found["value"] == found["first"] - found["second"]).all() and (found["low"] > 0).all()
    # A reader for whom no zone differs says nothing.
    flat = severity.zone_differences(good, bad, np.zeros_like(theirs), patients)
    assert (flat[["first", "second", "value"]] == 0).all(axis=None)


# Over time ----------------------------------------------------------------------------------------


def test_the_sign_of_a_change_is_compared_from_one_day_of_a_patient_to_the_next():
    rows = [("p", 0, 1.0, 2.0), ("p", 4, 3.0, 4.0), ("p", 4, 1.0, 4.0), ("p", 9, 5.0, 3.0)]
    rows += [("q", 1, 2.0, 5.0), ("q", 2, 1.0, 4.0), ("q", 3, 0.0, 4.0)] + [("r", 0, 0.0, 1.0)] * 9
    table = pd.DataFrame(rows, columns=["patient", "day", "value", "opacity"])
    words = ["improved", "worse, then better", "stable", "no change", "a new opacity"]
    assert [course.told(text) for text in words[::2]][:2] == [-1, 0]
    assert np.isnan([course.told(words[1]), course.told(words[4])]).all()
    changes = course.steps(table.assign(told=np.nan))
    assert changes[["start", "end"]].to_numpy().tolist() == [[0, 4], [4, 9], [1, 2], [2, 3]]
    assert changes["value"].tolist() == [1, 3, -1, -1], "two radiographs of a day are averaged"
    (row,) = course.agreement(changes, resamples=50).to_dict("records")
    assert (row["against"], row["value"], row["n"]) == ("opacity", 2 / 3, 3)
    assert row["worse"] == 1 / 3 and row["low"] <= row["value"] <= row["high"]
