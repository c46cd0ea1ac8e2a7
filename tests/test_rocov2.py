"""ROCOv2: which pictures are chest radiographs, what is set aside, whose they are, parquet."""

import io
from pathlib import Path

import pandas as pd
import pytest
import trees
from PIL import Image
from test_datasets import TABLES, by_image, counts, quarantined, real, refused
from trees import ROCO, make_roco, noise, table, write

from pnloc.data import rocov2

CXR = "Chest X-ray with an opacity"
FILM, CHEST = "C1306645", "C0817096"


@pytest.mark.parametrize(("caption", "fate"), TABLES["captions"])
def test_a_caption_names_the_film_of_a_chest_before_anything_else(tmp_path, caption, fate):
    records = rocov2.read(make_roco(tmp_path, [f'a,"{caption}"']))
    assert records.counts[fate] == records.counts["rows"] == 1


def test_captions_are_reports_and_an_article_or_a_caption_is_a_patient(tmp_path):
    rows = [f"a,{CXR}.", "b,Chest film.", "c,Chest film.", f"d,{CXR}.", f"e,{CXR}."]
    origins = ["e,PMC7,CC BY", "b,PMC7,CC BY-NC"]
    records = rocov2.read(make_roco(tmp_path, rows, origins=origins))
    assert counts(records) == [5, 5, 0, 0, 0] and records.access == "open"
    assert set(by_image(records, "patient").values()) == {"rocov2:PMC7"}
    assert by_image(records, "study") == {name: name for name in "abcde"}
    assert records.reports["text"].tolist()[:2] == [f"{CXR}.", "Chest film."]
    assert records.images["label"].isna().all()
    (tmp_path / "provenance.csv").unlink()
    records = rocov2.read(tmp_path)
    assert list(by_image(records, "patient").values()) == [f"rocov2:{name}" for name in "abbaa"]
    assert set(records.images["split"]) <= {"train", "validate"}


def test_concepts_overrule_a_caption_but_an_animal_stays_one(tmp_path):
    rows = ["a,Figure 3.", f"b,{CXR}", f"c,{CXR}", f"d,{CXR} of a dog"]
    concepts = [f"{name},{FILM};C0032285;{CHEST}" for name in "ad"] + [f"b,{FILM};C0000726"]
    records = rocov2.read(make_roco(tmp_path, rows, concepts))
    assert records.images["image"].tolist() == ["a", "c"] and records.counts["excluded"] == 2


def test_faulty_rows_and_files_are_named_and_missing_and_unnamed_images_counted(tmp_path):
    rows = [f"a,{CXR}", "b,", f"a,{CXR}", f"gone,{CXR}", f",{CXR}", f"cut,{CXR}", f"x/y,{CXR}"]
    home = make_roco(tmp_path, rows, images=["a", "b", "cut", "more"])
    write(home / "train_images" / "train" / "cut.jpg", "no picture")
    table(home / "valid_captions.csv", "ID,Caption", [f"v,{CXR}", f"w,{CXR}"])
    table(home / "test_captions.csv", "ID,Caption", [f"a,{CXR}"])
    records = rocov2.read(home)
    assert counts(records) == [10, 1, 3, 0, 6]
    assert quarantined(records) == {"train_captions.csv": [2, 3, 4, 6, 8], "cut.jpg": [0]}
    unnamed, bare = records.notes
    assert unnamed == "1 image files are named by no row of *_captions.csv"
    assert bare == "2 captions of valid_captions.csv come without any image"


def test_pictures_in_colour_of_odd_shape_or_unlike_the_others_are_set_aside(tmp_path):
    names = [f"i{n:02d}" for n in range(56)]
    home = make_roco(tmp_path, [f"{name},{CXR}" for name in names], images=[])
    (home / "train_images").mkdir()
    base, framed = noise(1, 96, 96), Image.new("L", (160, 120), 255)
    framed.paste(base, (40, 10))
    odd = [noise(7, 96, 96), base.point(lambda grey: 255 - grey), base.resize((300, 96)), framed]
    odd += [Image.merge("RGB", (base, noise(8, 96, 96), noise(9, 96, 96)))]
    odd += [Image.blend(base, noise(100 + n, 96, 96), 0.3) for n in range(51)]
    for name, picture in zip(names, odd, strict=True):
        picture.save(home / "train_images" / f"{name}.png")
    records = rocov2.read(home)
    assert records.counts["used"] == 52 and "i03" in set(records.images["image"])
    reasons = records.quarantine.set_index("file")["reason"].rename(lambda f: Path(f).stem)
    assert reasons[["i00", "i01"]].str.startswith("unlike the other radiographs").all()
    assert "proportions" in reasons["i02"] and "coloured" in reasons["i04"]
    for name in names[5:12]:
        (home / "train_images" / f"{name}.png").unlink()
    assert rocov2.read(home).counts["quarantined"] == 2  # too few for a mean


def test_only_a_plainly_free_licence_in_the_provenance_lets_an_image_be_drawn(tmp_path):
    terms = [*TABLES["free"], *TABLES["not_free"], "NO-CC CODE"]
    names = [f"i{n}" for n in range(len(terms))]
    origins = [f"{name},PMC1,{text}" for name, text in zip(names, terms, strict=True)]
    home = make_roco(tmp_path, [f"{name},{CXR}" for name in [*names, "far"]], origins=origins)
    sources = rocov2.sources(home).set_index("image")
    assert sources.index[sources["shown"]].tolist() == names[: len(TABLES["free"])]
    assert sources.loc["i1", "credit"] == "i1, PMC1, CC BY"
    assert sources.loc["far", "credit"] == "far, article not named, licence not named"


@pytest.mark.parametrize("as_text", [False, True])
def test_chest_radiographs_of_parquet_files_are_unpacked_once_outside_of_the_set(
    tmp_path, monkeypatch, as_text
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    film, stream = [FILM, CHEST], io.BytesIO()
    noise(3, 96, 96).save(stream, "JPEG")
    rows = [("a", CXR, film), ("b", CXR, ["C0040405"]), ("c", "Brain MRI", film), ("a", CXR, film)]
    rows = [(n, text, ";".join(c) if as_text else c) for n, text, c in rows] + [("d", CXR, None)]
    shard = pd.DataFrame(rows, columns=["image_id", "caption", "cui"])
    shard["image"] = [{"bytes": content} for content in (*[stream.getvalue()] * 4, b"")]
    path = tmp_path / ROCO / "data" / "train-00000.parquet"
    path.parent.mkdir(parents=True)
    shard.to_parquet(path)
    records = rocov2.read(tmp_path / ROCO)
    assert counts(records) == [5, 2, 0, 1, 2]
    assert quarantined(records) == {"train-00000.parquet": [4], "d.jpg": [0]}
    files = {file: file.stat() for file in (tmp_path / "cache").rglob("*.*")}
    assert {file.name for file in files} == {"a.jpg", "c.jpg", "d.jpg"}
    assert rocov2.read(tmp_path / ROCO).images.equals(records.images)
    assert all(file.stat().st_mtime_ns == was.st_mtime_ns for file, was in files.items())
    assert [file.name for file in (tmp_path / ROCO).rglob("*.*")] == [path.name]
    write(path, "no parquet")
    assert f"{path}: not readable as a parquet file" in refused(rocov2.read, tmp_path / ROCO)


def test_missing_files_and_columns_are_named(tmp_path):
    for message, name, content in TABLES["lacking"]["rocov2"]:
        text = refused(rocov2.read, tmp_path / "set")
        assert text.startswith(str(tmp_path / "set")) and message in text
        if name:
            write(tmp_path / "set" / name, content)
        (tmp_path / "set").mkdir(exist_ok=True)
    assert counts(rocov2.read(make_roco(tmp_path / "bare", []))) == [0, 0, 0, 0, 0]


def test_the_licences_of_the_downloaded_images():
    real("rocov2")
    assert rocov2.sources(trees.DATA / ROCO)["shown"].sum() == 212
