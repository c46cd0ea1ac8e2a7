"""Severity: read-outs by hand, statistics against scipy and scikit-learn, patients kept together."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from pnloc import severity
from pnloc.errors import PnlocError

LEVELS = ["severity:mild", "severity:moderate", "severity:severe"]


def study(images: int = 24, patients: int = 9, seed: int = 0) -> tuple[pd.Series, pd.Series, pd.Series]:
    """A read-out with ties, a score that follows it, and the patient of each image."""
    rng = np.random.default_rng(seed)
    index = [f"i{n:02d}" for n in range(images)]
    readout = rng.integers(0, 8, images) / 4
    score = np.round(2 * readout + rng.normal(0, 1, images))
    return (
        pd.Series(readout, index),
        pd.Series(score, index),
        pd.Series([f"p{n % patients}" for n in range(images)], index),
    )


def rows_of(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    return {(r.fit, r.statistic): r.value for r in table.itertuples()}


# Read-outs ------------------------------------------------------------------------------------------------


def test_expected_severity_by_hand():
    table = pd.DataFrame(
        [(0.5, 0.2, 0.2, 0.4), (1.0, 0.0, 0.0, 0.3), (1.0, 0.7, 0.0, 0.0), (0.0, 0.1, 0.1, 0.9), (0.8, 0.0, 0.0, 0.0)],
        columns=["pneumonia", *LEVELS],
    )
    # (.2 * 1 + .2 * 2 + .4 * 3) / .8 = 2.25, times .5.
    assert severity.expected_severity(table).tolist() == pytest.approx([1.125, 3, 1, 0, 0])
    mixed = severity.expected_severity(table[[LEVELS[2], "pneumonia", LEVELS[0], LEVELS[1]]])
    assert mixed.tolist() == pytest.approx([1.125, 3, 1, 0, 0])


def test_box_area_by_hand():
    sizes = pd.DataFrame({"image": ["b", "none", "a"], "width": [100, 10, 10], "height": [50, 10, 20]})
    found = pd.DataFrame(
        [("a", 0, 0, 10, 20, 0.25), ("b", 0, 0, 50, 50, 0.8), ("b", 10, 10, 20, 20, 0.5)],
        columns=["image", "x1", "y1", "x2", "y2", "score"],
    )
    area = severity.box_area(found, sizes)
    # b: half of the picture times .8, and 2% of it times .5.
    assert area.index.tolist() == ["b", "none", "a"] and area.tolist() == pytest.approx([0.41, 0.0, 0.25])
    assert severity.box_area(found[:0], sizes).tolist() == [0, 0, 0]


def test_brightness_by_hand_on_two_tones():
    picture = np.full((64, 64), 60, dtype=np.uint8)
    picture[:, 32:] = 180
    left, right, both = [[0, 0, 0.5, 1]], [[0.5, 0, 1, 1]], [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    values = [severity.brightness(picture[None], np.array(where))[0] for where in (left, right, both)]
    # Two equally frequent tones are spread to the ends of the range.
    assert values == pytest.approx([0, 1, 0.5])
    quarter = severity.brightness(picture[None], np.array([[0.25, 0, 0.625, 1]]))
    assert quarter == pytest.approx([1 / 3])


def test_brightness_does_not_depend_on_exposure_nor_on_black_bars():
    rng = np.random.default_rng(0)
    picture = (rng.random((64, 64)) * 80 + np.arange(64) + 10).astype(np.uint8)
    darker = (picture // 2 + 1).astype(np.uint8)
    where = np.array([[0.5, 0.25, 1, 0.75]])
    one, other = severity.brightness(np.stack([picture, darker]), where)
    assert one == pytest.approx(other, abs=0.02) and 0.55 < one < 0.9
    barred = picture.copy()
    barred[:16] = 0
    inside = barred > 0
    equalized = np.asarray(ImageOps.equalize(Image.fromarray(barred), mask=Image.fromarray(inside)))
    assert severity.brightness(barred[None], where)[0] == pytest.approx(equalized[16:48, 32:].mean() / 255)
    assert severity.brightness(barred[None], where)[0] == pytest.approx(one, abs=0.03)


def test_brightness_of_a_flat_image_and_of_no_place():
    flat = np.full((1, 8, 8), 51, dtype=np.uint8)
    assert severity.brightness(flat, np.array([[0, 0, 1, 1]])) == pytest.approx([0.2])
    assert severity.brightness(np.zeros((1, 8, 8), np.uint8), np.array([[0, 0, 1, 1]])) == pytest.approx([0])
    with pytest.raises(PnlocError, match="no area"):
        severity.brightness(flat, np.array([[0.5, 0, 0.5, 1]]))


# Statistics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_weighted_statistics_are_those_of_the_repeated_sample(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 5, 15) / 2.0, rng.integers(0, 6, 15).astype(float)
    weights = rng.multinomial(15, np.full(15, 1 / 15), size=6).astype(float)
    pearson, spearman = severity._pearson(x, y, weights), severity._spearman(x, y, weights)
    r2, mae = severity._r2(y, x, weights), severity._mae(y, x, weights)
    assert weights.max() > 1 and pearson.shape == spearman.shape == r2.shape == mae.shape == (6,)
    for row, w in enumerate(weights.astype(int)):
        xs, ys = np.repeat(x, w), np.repeat(y, w)
        assert pearson[row] == pytest.approx(stats.pearsonr(xs, ys).statistic)
        assert spearman[row] == pytest.approx(stats.spearmanr(xs, ys).statistic)
        assert r2[row] == pytest.approx(r2_score(ys, xs))
        assert mae[row] == pytest.approx(mean_absolute_error(ys, xs))


def test_what_does_not_vary_has_no_correlation():
    one, moving = np.full(5, 0.1), np.arange(5.0)
    weights = np.array([[1.0, 1, 1, 1, 1], [5, 0, 0, 0, 0]])
    assert np.isnan(severity._pearson(one, moving, weights)).all()
    assert np.isnan(severity._spearman(moving, one, weights)).all()
    # The second sample is one image five times.
    assert severity._pearson(moving, moving, weights)[0] == pytest.approx(1)
    assert np.isnan(severity._pearson(moving, moving, weights)[1])
    assert np.isnan(severity._r2(moving, moving, weights)[1]) and np.isnan(severity._r2(one, moving, weights)).all()


def test_leaving_one_patient_out_agrees_with_scikit_learn():
    readout, score, patients = study()
    x, y, who = readout.to_numpy(), score.to_numpy(), np.unique(patients, return_inverse=True)[1]
    expected = cross_val_predict(LinearRegression(), x[:, None], y, groups=who, cv=LeaveOneGroupOut())
    assert severity.leave_one_patient_out(x, y, who) == pytest.approx(expected)
    # Leaving one image out is something else.
    alone = cross_val_predict(LinearRegression(), x[:, None], y, groups=np.arange(len(y)), cv=LeaveOneGroupOut())
    assert np.abs(alone - expected).max() > 0.01


# Associations ---------------------------------------------------------------------------------------------


def test_associations_are_those_of_scipy_and_scikit_learn():
    readout, score, patients = study()
    table = severity.associations(readout, score, patients, resamples=200)
    found = rows_of(table)
    fitted = cross_val_predict(
        LinearRegression(), readout.to_numpy()[:, None], score, groups=patients, cv=LeaveOneGroupOut()
    )
    assert found["zero-shot", "pearson"] == pytest.approx(stats.pearsonr(readout, score).statistic)
    assert found["zero-shot", "spearman"] == pytest.approx(stats.spearmanr(readout, score).statistic)
    assert found["leave-one-patient-out", "pearson"] == pytest.approx(stats.pearsonr(fitted, score).statistic)
    assert found["leave-one-patient-out", "spearman"] == pytest.approx(stats.spearmanr(fitted, score).statistic)
    assert found["leave-one-patient-out", "r2"] == pytest.approx(r2_score(score, fitted))
    assert found["leave-one-patient-out", "mae"] == pytest.approx(mean_absolute_error(score, fitted))
    assert {s for fit, s in found if fit == "cohen-50-50"} == {"pearson", "r2", "mae"}
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()
    assert (table["n"] == 24).all() and len(table) == 9
    pd.testing.assert_frame_equal(table, severity.associations(readout, score, patients, resamples=200))


def test_images_are_matched_by_name_and_unscored_ones_left_out():
    readout, score, patients = study()
    expected = severity.associations(readout, score, patients, resamples=20)
    more = pd.concat([readout, pd.Series([9.0], ["other"])]).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(severity.associations(more, score, patients[::-1], resamples=20), expected)


def test_a_perfect_line_is_found_by_every_fit():
    readout, _, patients = study()
    found = rows_of(severity.associations(readout, 3 * readout - 1, patients, resamples=20))
    # Rounding breaks ties of the fitted values: their rank correlation is a little less than one.
    broken = found.pop(("leave-one-patient-out", "spearman"))
    assert broken == pytest.approx(1, abs=0.01)
    assert all(v == pytest.approx(0 if s == "mae" else 1, abs=1e-9) for (_, s), v in found.items())
    turned = rows_of(severity.associations(-readout, 3 * readout - 1, patients, resamples=20))
    assert turned["zero-shot", "pearson"] == pytest.approx(-1)
    assert turned["leave-one-patient-out", "pearson"] == turned["cohen-50-50", "pearson"] == pytest.approx(1)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_readout_has_no_correlation_in_any_fit(constant):
    _, score, patients = study()
    readout = pd.Series(constant, score.index)
    table = severity.associations(readout, score, patients, resamples=50)
    correlations = table[table["statistic"].isin(["pearson", "spearman"])]
    assert len(correlations) == 5 and correlations[["value", "low", "high"]].isna().all(axis=None)
    # Its fit is the mean of the others, as without an image.
    found, without = rows_of(table), rows_of(severity.no_data(score, patients, resamples=50))
    for key in (("leave-one-patient-out", "mae"), ("leave-one-patient-out", "r2"), ("cohen-50-50", "mae")):
        assert found[key] == pytest.approx(without[key])


def test_the_bootstrap_draws_patients():
    readout, score, _ = study(images=12)
    single = pd.Series(score.index, score.index)
    copies = [pd.concat([s.rename(lambda i, n=n: f"{i}-{n}") for n in range(6)]) for s in (readout, score, single)]
    expected = severity.associations(readout, score, single, resamples=200)
    found = severity.associations(*copies, resamples=200)
    columns = ["value", "low", "high"]
    # The halves are drawn by patient, too; only n differs.
    assert found[columns].to_numpy() == pytest.approx(expected[columns].to_numpy())
    as_images = severity.associations(*copies[:2], pd.Series(copies[0].index, copies[0].index), resamples=200)
    width, narrower = (t.loc[0, "high"] - t.loc[0, "low"] for t in (found, as_images))
    assert narrower < 0.6 * width


def test_the_halves_share_no_patient_and_make_up_all(monkeypatch):
    patients = pd.Series([n % 7 for n in range(30)], [f"i{n:02d}" for n in range(30)])
    number = patients.astype(float)
    halves = {"trained": [], "tested": []}
    line, mae = severity._line, severity._mae

    def watched_line(x, y):
        halves["trained"].append(set(y))
        return line(x, y)

    def watched_mae(y, fitted, w):
        halves["tested"].append(set(y))
        return mae(y, fitted, w)

    monkeypatch.setattr(severity, "_line", watched_line)
    monkeypatch.setattr(severity, "_mae", watched_mae)
    severity._halves(number.to_numpy(), number.to_numpy(), patients.to_numpy(), seed=0, correlation=True)
    assert len(halves["trained"]) == len(halves["tested"]) == 50
    for trained, tested in zip(halves["trained"], halves["tested"], strict=True):
        assert not trained & tested and trained | tested == set(range(7)) and len(tested) == 3
    assert len({frozenset(t) for t in halves["tested"]}) > 15, "35 halves are possible"


def test_bad_input_is_named():
    readout, score, patients = study()
    with pytest.raises(PnlocError, match="at least two patients"):
        severity.associations(readout, score, patients.map(lambda _: "one"))
    with pytest.raises(PnlocError, match="^2 images have a read-out or a score that is not a number"):
        severity.associations(readout.drop(["i00", "i05"]), score, patients)
    with pytest.raises(PnlocError, match="^1 images"):
        severity.associations(readout, score.where(score.index != "i03"), patients)


# Without data ---------------------------------------------------------------------------------------------


def test_no_data_by_hand():
    index = ["a", "b", "c"]
    table = severity.no_data(pd.Series([0.0, 3.0, 6.0], index), pd.Series(["p", "q", "r"], index), resamples=50)
    found = rows_of(table)
    # Means of the others: 4.5, 3 and 1.5; squares 20.25 + 0 + 20.25 against 18.
    assert found["leave-one-patient-out", "mae"] == pytest.approx(3)
    assert found["leave-one-patient-out", "r2"] == pytest.approx(1 - 40.5 / 18)
    assert {s for _, s in found} == {"r2", "mae"} and (table["n"] == 3).all()
    # One patient is tested: errors 4.5, 0 or 4.5, of which the percentiles and the mean are taken over 50 splits.
    halves = table[table["fit"] == "cohen-50-50"].set_index("statistic")
    assert halves.loc["mae", ["low", "high"]].tolist() == [0, 4.5] and 2 < halves.loc["mae", "value"] < 4
    assert np.isnan(halves.loc["r2", "value"])
