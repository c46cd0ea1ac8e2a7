"""Severity: read-outs by hand, statistics against scipy and scikit-learn, patients kept together."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from pnloc.errors import PnlocError
from pnloc.evaluation import severity

LEVELS = ["severity:mild", "severity:moderate", "severity:severe"]


def study(
    images: int = 24, patients: int = 9, seed: int = 0
) -> tuple[pd.Series, pd.Series, pd.Series]:
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
        [
            (0.5, 0.2, 0.2, 0.4),
            (1.0, 0.0, 0.0, 0.3),
            (1.0, 0.7, 0.0, 0.0),
            (0.0, 0.1, 0.1, 0.9),
            (0.8, 0.0, 0.0, 0.0),
        ],
        columns=["pneumonia", *LEVELS],
    )
    # (.2 * 1 + .2 * 2 + .4 * 3) / .8 = 2.25, times .5.
    assert severity.expected_severity(table).tolist() == pytest.approx([1.125, 3, 1, 0, 0])
    mixed = severity.expected_severity(table[[LEVELS[2], "pneumonia", LEVELS[0], LEVELS[1]]])
    assert mixed.tolist() == pytest.approx([1.125, 3, 1, 0, 0])


def test_box_area_by_hand():
    sizes = pd.DataFrame(
        {"image": ["b", "none", "a"], "width": [100, 10, 10], "height": [50, 10, 20]}
    )
    found = pd.DataFrame(
        [("a", 0, 0, 10, 20, 0.25), ("b", 0, 0, 50, 50, 0.8), ("b", 10, 10, 20, 20, 0.5)],
        columns=["image", "x1", "y1", "x2", "y2", "score"],
    )
    area = severity.box_area(found, sizes)
    # b: half of the picture times .8, and 2% of it times .5.
    assert area.index.tolist() == ["b", "none", "a"] and area.tolist() == pytest.approx(
        [0.41, 0.0, 0.25]
    )
    assert severity.box_area(found[:0], sizes).tolist() == [0, 0, 0]


def test_brightness_by_hand_on_two_tones():
    picture = np.full((64, 64), 60, dtype=np.uint8)
    picture[:, 32:] = 180
    left, right, both = [[0, 0, 0.5, 1]], [[0.5, 0, 1, 1]], [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    values = [
        severity.brightness(picture[None], np.array(where))[0] for where in (left, right, both)
    ]
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
    assert severity.brightness(barred[None], where)[0] == pytest.approx(
        equalized[16:48, 32:].mean() / 255
    )
    assert severity.brightness(barred[None], where)[0] == pytest.approx(one, abs=0.03)


def test_brightness_within_a_mask_is_that_of_the_same_boxes():
    images = np.random.default_rng(0).integers(1, 200, (3, 32, 32)).astype(np.uint8)
    inside = np.zeros((3, 32, 32), dtype=bool)
    inside[:, 8:24, 16:32] = True
    boxed = severity.brightness(images, np.array([[0.5, 0.25, 1, 0.75]]))
    assert severity.brightness_within(images, inside) == pytest.approx(boxed)
    assert np.isnan(severity.brightness_within(images[:1], inside[:1] & False)).all()


def test_brightness_of_a_flat_image_and_of_no_place():
    flat = np.full((1, 8, 8), 51, dtype=np.uint8)
    assert severity.brightness(flat, np.array([[0, 0, 1, 1]])) == pytest.approx([0.2])
    assert severity.brightness(
        np.zeros((1, 8, 8), np.uint8), np.array([[0, 0, 1, 1]])
    ) == pytest.approx([0])
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
    assert (
        np.isnan(severity._r2(moving, moving, weights)[1])
        and np.isnan(severity._r2(one, moving, weights)).all()
    )


def test_leaving_one_patient_out_agrees_with_scikit_learn():
    readout, score, patients = study()
    x, y, who = readout.to_numpy(), score.to_numpy(), np.unique(patients, return_inverse=True)[1]
    expected = cross_val_predict(
        LinearRegression(), x[:, None], y, groups=who, cv=LeaveOneGroupOut()
    )
    assert severity.leave_one_patient_out(x, y, who) == pytest.approx(expected)
    # Leaving one image out is something else.
    alone = cross_val_predict(
        LinearRegression(), x[:, None], y, groups=np.arange(len(y)), cv=LeaveOneGroupOut()
    )
    assert np.abs(alone - expected).max() > 0.01


# Associations ---------------------------------------------------------------------------------------------


def test_associations_are_those_of_scipy_and_scikit_learn():
    readout, score, patients = study()
    table = severity.associations(readout, score, patients, resamples=200)
    found = rows_of(table)
    fitted = cross_val_predict(
        LinearRegression(),
        readout.to_numpy()[:, None],
        score,
        groups=patients,
        cv=LeaveOneGroupOut(),
    )
    assert found["zero-shot", "pearson"] == pytest.approx(stats.pearsonr(readout, score).statistic)
    assert found["zero-shot", "spearman"] == pytest.approx(
        stats.spearmanr(readout, score).statistic
    )
    assert found["leave-one-patient-out", "pearson"] == pytest.approx(
        stats.pearsonr(fitted, score).statistic
    )
    assert found["leave-one-patient-out", "spearman"] == pytest.approx(
        stats.spearmanr(fitted, score).statistic
    )
    assert found["leave-one-patient-out", "r2"] == pytest.approx(r2_score(score, fitted))
    assert found["leave-one-patient-out", "mae"] == pytest.approx(
        mean_absolute_error(score, fitted)
    )
    assert {s for fit, s in found if fit == "cohen-50-50"} == {"pearson", "r2", "mae"}
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()
    assert (table["n"] == 24).all() and len(table) == 9
    pd.testing.assert_frame_equal(
        table, severity.associations(readout, score, patients, resamples=200)
    )


def test_images_are_matched_by_name_and_unscored_ones_left_out():
    readout, score, patients = study()
    expected = severity.associations(readout, score, patients, resamples=20)
    more = pd.concat([readout, pd.Series([9.0], ["other"])]).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        severity.associations(more, score, patients[::-1], resamples=20), expected
    )


def test_a_perfect_line_is_found_by_every_fit():
    readout, _, patients = study()
    found = rows_of(severity.associations(readout, 3 * readout - 1, patients, resamples=20))
    # Rounding breaks ties of the fitted values: their rank correlation is a little less than one.
    broken = found.pop(("leave-one-patient-out", "spearman"))
    assert broken == pytest.approx(1, abs=0.01)
    assert all(v == pytest.approx(0 if s == "mae" else 1, abs=1e-9) for (_, s), v in found.items())
    turned = rows_of(severity.associations(-readout, 3 * readout - 1, patients, resamples=20))
    assert turned["zero-shot", "pearson"] == pytest.approx(-1)
    assert (
        turned["leave-one-patient-out", "pearson"]
        == turned["cohen-50-50", "pearson"]
        == pytest.approx(1)
    )


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_readout_has_no_correlation_in_any_fit(constant):
    _, score, patients = study()
    readout = pd.Series(constant, score.index)
    table = severity.associations(readout, score, patients, resamples=50)
    correlations = table[table["statistic"].isin(["pearson", "spearman"])]
    assert len(correlations) == 5 and correlations[["value", "low", "high"]].isna().all(axis=None)
    # Its fit is the mean of the others, as without an image.
    found, without = rows_of(table), rows_of(severity.no_data(score, patients, resamples=50))
    for key in (
        ("leave-one-patient-out", "mae"),
        ("leave-one-patient-out", "r2"),
        ("cohen-50-50", "mae"),
    ):
        assert found[key] == pytest.approx(without[key])


def test_the_bootstrap_draws_patients():
    readout, score, _ = study(images=12)
    single = pd.Series(score.index, score.index)
    copies = [
        pd.concat([s.rename(lambda i, n=n: f"{i}-{n}") for n in range(6)])
        for s in (readout, score, single)
    ]
    expected = severity.associations(readout, score, single, resamples=200)
    found = severity.associations(*copies, resamples=200)
    columns = ["value", "low", "high"]
    # The halves are drawn by patient, too; only n differs.
    assert found[columns].to_numpy() == pytest.approx(expected[columns].to_numpy())
    as_images = severity.associations(
        *copies[:2], pd.Series(copies[0].index, copies[0].index), resamples=200
    )
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
    severity._halves(
        number.to_numpy(), number.to_numpy(), patients.to_numpy(), seed=0, correlation=True
    )
    assert len(halves["trained"]) == len(halves["tested"]) == 50
    for trained, tested in zip(halves["trained"], halves["tested"], strict=True):
        assert not trained & tested and trained | tested == set(range(7)) and len(tested) == 3
    assert len({frozenset(t) for t in halves["tested"]}) > 15, "35 halves are possible"


def test_bad_input_is_named():
    readout, score, patients = study()
    with pytest.raises(PnlocError, match="at least two patients"):
        severity.associations(readout, score, patients.map(lambda _: "one"))
    with pytest.raises(
        PnlocError, match="^2 images have a read-out or a score that is not a number"
    ):
        severity.associations(readout.drop(["i00", "i05"]), score, patients)
    with pytest.raises(PnlocError, match="^1 images"):
        severity.associations(readout, score.where(score.index != "i03"), patients)


# Without data ---------------------------------------------------------------------------------------------


def test_no_data_by_hand():
    index = ["a", "b", "c"]
    table = severity.no_data(
        pd.Series([0.0, 3.0, 6.0], index), pd.Series(["p", "q", "r"], index), resamples=50
    )
    found = rows_of(table)
    # Means of the others: 4.5, 3 and 1.5; squares 20.25 + 0 + 20.25 against 18.
    assert found["leave-one-patient-out", "mae"] == pytest.approx(3)
    assert found["leave-one-patient-out", "r2"] == pytest.approx(1 - 40.5 / 18)
    assert {s for _, s in found} == {"r2", "mae"} and (table["n"] == 3).all()
    # One patient is tested: errors 4.5, 0 or 4.5, of which the percentiles and the mean are taken over 50 splits.
    halves = table[table["fit"] == "cohen-50-50"].set_index("statistic")
    assert (
        halves.loc["mae", ["low", "high"]].tolist() == [0, 4.5]
        and 2 < halves.loc["mae", "value"] < 4
    )
    assert np.isnan(halves.loc["r2", "value"])


# Differences, confounders, zones --------------------------------------------------------------------------


def test_a_difference_is_that_of_the_two_correlations_and_is_paired():
    readout, score, patients = study()
    noise = pd.Series(np.random.default_rng(1).normal(0, 1, 24), readout.index)
    table = severity.differences(readout, noise, score, patients, resamples=300).set_index(
        "statistic"
    )
    expected = stats.pearsonr(readout, score).statistic - stats.pearsonr(noise, score).statistic
    assert (
        table.loc["pearson", "value"] == pytest.approx(expected) and table.loc["pearson", "low"] > 0
    )
    expected = stats.spearmanr(readout, score).statistic - stats.spearmanr(noise, score).statistic
    assert table.loc["spearman", "value"] == pytest.approx(expected)
    # The same read-out twice differs in no sample.
    same = severity.differences(readout, readout, score, patients, resamples=50)
    assert same[["value", "low", "high"]].to_numpy() == pytest.approx(0)
    back = severity.differences(noise, readout, score, patients, resamples=300).set_index(
        "statistic"
    )
    assert back.loc["pearson", "value"] == pytest.approx(-table.loc["pearson", "value"])


def test_without_an_image_the_difference_is_the_correlation():
    readout, score, patients = study()
    table = severity.differences(readout, readout * 0, score, patients, resamples=200)
    whole = severity.associations(readout, score, patients, resamples=200).query(
        "fit == 'zero-shot'"
    )
    assert table[["value", "low", "high"]].to_numpy() == pytest.approx(
        whole[["value", "low", "high"]].to_numpy()
    )


def test_what_a_confounder_explains_is_taken_out():
    rng = np.random.default_rng(0)
    index = pd.Index([f"i{n}" for n in range(200)])
    group = pd.Series(rng.integers(0, 3, 200), index)
    readout, score = (pd.Series(3.0 * group + rng.normal(0, 1, 200), index) for _ in range(2))
    patients = pd.Series(range(200), index)
    raw = severity.associations(readout, score, patients, resamples=50).query("fit == 'zero-shot'")
    left = severity.partial(
        readout, score, patients, group.map(lambda g: f"view {g}"), resamples=50
    )
    assert (raw["value"] > 0.7).all() and (left["value"].abs() < 0.15).all()
    assert (left["low"] < left["value"]).all() and (left["value"] < left["high"]).all()


def test_a_partial_correlation_is_that_of_the_residuals():
    rng = np.random.default_rng(2)
    readout, score, patients = study()
    other = pd.Series(rng.normal(0, 1, 24) + score.to_numpy(), score.index)
    found = severity.partial(readout, score, patients, other, resamples=10).set_index("statistic")[
        "value"
    ]
    for statistic, order in (("pearson", np.asarray), ("spearman", stats.rankdata)):
        x, y, z = (order(v) for v in (readout, score, other))
        rest = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
        assert found[statistic] == pytest.approx(stats.pearsonr(*rest).statistic)
    # One group for all takes nothing out; one group per image takes out everything.
    plain = severity.partial(readout, score, patients, pd.Series("same", score.index), resamples=5)
    assert plain.loc[0, "value"] == pytest.approx(stats.pearsonr(readout, score).statistic)
    assert (
        severity.partial(
            readout, score, patients, pd.Series(score.index, score.index), resamples=5
        )["value"]
        .isna()
        .all()
    )


def test_zones_pooled_and_within_an_image_by_hand():
    theirs = np.array([[0, 1, 2], [2, 2, 2], [2, 1, 0]], dtype=float)
    ours = np.array([[0.1, 0.2, 0.3], [0.9, 0.1, 0.5], [0.1, 0.2, 0.3]])
    table = severity.zone_associations(ours, theirs, np.array(["p", "q", "r"]), resamples=20)
    rows = table.set_index(["zone", "statistic"])
    assert rows.loc[("all", "pooled"), "value"] == pytest.approx(
        stats.spearmanr(ours.ravel(), theirs.ravel()).statistic
    )
    # The middle image has equal zones and does not count: (1 - 1) / 2.
    assert (
        rows.loc[("all", "within"), ["value", "n"]].tolist() == [0, 2]
        and rows.loc[("all", "pooled"), "n"] == 9
    )
    assert rows.loc[(0, "spearman"), "value"] == pytest.approx(
        stats.spearmanr(ours[:, 0], theirs[:, 0]).statistic
    )
    assert np.isnan(
        severity.zone_associations(ours * 0, theirs, np.array(["p", "q", "r"]), 20)["value"].iloc[0]
    )
    alike = severity.zone_associations(ours, theirs * 0, np.array(["p", "q", "r"]), resamples=20)
    assert "within" not in set(alike["statistic"])


def test_an_image_without_differences_of_ours_counts_as_none():
    theirs = np.array([[0, 1, 2], [0, 1, 2]], dtype=float)
    table = severity.zone_associations(
        np.array([[1, 2, 3], [1, 1, 1.0]]), theirs, np.array([1, 2]), resamples=10
    )
    assert table.set_index("statistic").loc["within", "value"] == pytest.approx(0.5)


def test_limits_of_agreement_by_hand():
    mean, low, high = severity.mean_difference(np.array([1.0, 2, 4]), np.array([0.0, 2, 2]))
    assert (mean, low, high) == pytest.approx((1, 1 - 1.96, 1 + 1.96))
    assert severity.mean_difference(np.array([2.0]), np.array([1.0])) == (1, 1, 1)


def test_classes_are_thirds_of_the_range_and_none():
    score = pd.Series([0, 0.4, 0.5, 2.6, 2.7, 5.3, 5.4, 8])
    expected = ["none", "none", "mild", "mild", "moderate", "moderate", "severe", "severe"]
    assert severity.classes(score, 8).tolist() == expected


def test_calibrated_scores_come_from_the_other_patients():
    readout, score, patients = study()
    fitted = severity.calibrated(readout, score, patients)
    assert fitted.index.equals(score.index)
    changed = score.copy()
    changed[patients == "p3"] += 100
    again = severity.calibrated(readout, changed, patients)
    assert again[patients == "p3"].to_numpy() == pytest.approx(fitted[patients == "p3"].to_numpy())
    assert (again != fitted)[patients != "p3"].all()


# Several read-outs together -------------------------------------------------------------------------------


def test_read_outs_that_make_up_the_score_together_are_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    index, patients = (
        [f"i{n}" for n in range(60)],
        pd.Series([f"p{n % 20}" for n in range(60)], [f"i{n}" for n in range(60)]),
    )
    table = pd.DataFrame(rng.normal(0, 1, (60, 3)), index, ["a", "b", "noise"])
    score = 2 * table["a"] - table["b"] + 4
    found = rows_of(severity.ridge(table, score, patients, resamples=50))
    assert found["leave-one-patient-out", "pearson"] > 0.99 and found["cohen-50-50", "r2"] > 0.95
    assert found["leave-one-patient-out", "mae"] < 0.2 and {f for f, _ in found} == {
        "leave-one-patient-out",
        "cohen-50-50",
    }
    nothing = rows_of(severity.ridge(table[["noise"]], score, patients, resamples=50))
    assert nothing["cohen-50-50", "r2"] < 0.1 and abs(nothing["cohen-50-50", "pearson"]) < 0.4


def test_together_no_fit_sees_the_patients_that_it_is_measured_on():
    """Read-outs that name the patient: they would tell the score, had it been seen."""
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(12), 3)
    index = [f"i{n}" for n in range(36)]
    score = pd.Series(rng.normal(0, 1, 12)[who], index)
    table = pd.DataFrame(np.eye(12)[who], index, [f"p{n}" for n in range(12)])
    found = rows_of(severity.ridge(table, score, pd.Series(who, index), resamples=20))
    assert found["leave-one-patient-out", "r2"] <= 0 and found["cohen-50-50", "r2"] <= 0


def test_zone_differences_are_those_of_the_two_associations():
    rng = np.random.default_rng(3)
    theirs = rng.integers(0, 4, (20, 6)).astype(float)
    good, bad = theirs + rng.normal(0, 0.5, theirs.shape), rng.normal(0, 1, theirs.shape)
    who = np.repeat(np.arange(10), 2)
    found = severity.zone_differences(good, bad, theirs, who, resamples=200).set_index("statistic")
    for first, ours in (("first", good), ("second", bad)):
        whole = severity.zone_associations(ours, theirs, who, resamples=50).set_index("statistic")[
            "value"
        ]
        for statistic in ("pooled", "within"):
            assert found.loc[statistic, first] == pytest.approx(whole[statistic])
    assert (found["value"] == found["first"] - found["second"]).all() and (found["low"] > 0).all()
    nothing = severity.zone_differences(good, good, theirs, who, resamples=50)
    assert (nothing[["value", "low", "high"]] == 0).all(axis=None)
    flat = severity.zone_differences(good, bad, np.zeros_like(theirs), who, resamples=50)
    assert (flat[["first", "second", "value"]] == 0).all(axis=None), (
        "a reader who sees no zone differ tells nothing"
    )
