"""Sources, licences and lung boxes of the COVID-19 collection."""

import json

import pytest

from pnloc.data import covid19
from pnloc.errors import PnlocError

HEADER = "patientid,finding,view,modality,date,filename,doi,url,license"


def metadata(folder, *rows: str):
    (folder / "metadata.csv").write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    return covid19.sources(folder).set_index("image")


@pytest.mark.parametrize(
    ("licence", "shown"),
    [
        ("CC0", True),
        ("CC BY", True),
        ("CC BY 4.0", True),
        ("cc by-sa", True),
        ("CC BY-NC-SA", True),
        ("CC-BY-NC-SA 4.0", True),
        ("", False),
        ("CC BY-NC-ND", False),
        ("CC BY-NC-ND 4.0", False),
        ("CC BY-ND", False),
        ("Apache 2.0", False),
        ("listed as authorized for everyone", False),
        ("CC BY or what the publisher says", False),
        ("all rights reserved", False),
    ],
)
def test_only_plainly_free_licences_let_an_image_be_drawn(tmp_path, licence, shown):
    table = metadata(tmp_path, f"1,COVID-19,PA,X-ray,2020,a.png,,https://x.org/1,{licence}")
    assert table.loc["a.png", "shown"] == shown and table.loc["a.png", "licence"] == licence


@pytest.mark.parametrize(
    ("fields", "credit", "source"),
    [
        ("10.1/x,https://www.sirm.org/a,CC BY", "a.png, https://www.sirm.org/a, CC BY", "sirm.org"),
        ("10.1/x,,CC BY", "a.png, https://doi.org/10.1/x, CC BY", "unknown"),
        (",,", "a.png, source not named, licence not named", "unknown"),
    ],
)
def test_the_credit_names_file_page_and_licence(tmp_path, fields, credit, source):
    table = metadata(tmp_path, f"1,COVID-19,PA,X-ray,,a.png,{fields}")
    assert table.loc["a.png", ["credit", "source"]].tolist() == [credit, source]


def test_years_are_read_from_any_date(tmp_path):
    dates = ["2020", '"January 22, 2020"', "2019-11-03", "unknown", ""]
    table = metadata(tmp_path, *(f"{n},x,PA,X-ray,{d},{n}.png,,," for n, d in enumerate(dates)))
    assert table["year"].fillna(0).tolist() == [2020, 2020, 2019, 0, 0]


def test_sources_of_a_table_without_these_columns_are_unknown_and_not_shown(tmp_path):
    (tmp_path / "metadata.csv").write_text(
        "patientid,finding,view,modality,filename\n1,x,PA,X-ray,a.png\n", encoding="utf-8"
    )
    table = covid19.sources(tmp_path)
    assert (
        table["source"].tolist() == ["unknown"]
        and table["shown"].tolist() == [False]
        and table["year"].isna().all()
    )


def lungs(folder, told: object):
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "lung-boxes.json").write_text(json.dumps(told), encoding="utf-8")
    return covid19.lung_boxes(folder)


def coco(*boxes) -> dict:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 200, "height": 100}],
        "categories": [
            {"id": 1, "name": "Right Lung"},
            {"id": 2, "name": "Left Lung"},
            {"id": 3, "name": "Heart"},
        ],
        "annotations": [{"image_id": 7, "category_id": c, "bbox": b} for c, b in boxes],
    }


def test_lung_boxes_are_relative_and_one_per_lung(tmp_path):
    table = lungs(
        tmp_path,
        coco(
            (1, [20, 10, 40, 50]), (2, [120, 10, 40, 50]), (1, [10, 40, 20, 40]), (3, [0, 0, 9, 9])
        ),
    )
    assert table.to_numpy().tolist() == [
        ["a.png", "left", 0.6, 0.1, 0.8, 0.6],
        ["a.png", "right", 0.05, 0.1, 0.3, 0.8],
    ]


def test_without_lung_boxes_the_table_is_empty(tmp_path):
    assert covid19.lung_boxes(tmp_path).empty and lungs(tmp_path, coco()).empty


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {},
        {"images": 1},
        coco((9, [1, 2, 3, 4])),
        coco((1, [1, 2, 3])),
        coco((1, ["a", 2, 3, 4])),
        coco((1, None)),
    ],
)
def test_broken_lung_boxes_name_the_file(tmp_path, broken):
    with pytest.raises(PnlocError, match="lung-boxes.json: not a COCO file of lung boxes"):
        lungs(tmp_path, broken)
