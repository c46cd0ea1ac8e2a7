"""Files: whole or not at all, errors that name the file and the column, digests that change with what they stand for."""

import gzip
import os
import re

import numpy as np
import pandas as pd
import pytest

from pnloc import files
from pnloc.errors import PnlocError


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_an_atomic_write_replaces_the_old_file_at_the_end_and_not_before(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert (
            temporary.parent == tmp_path
            and temporary.suffix == ".txt"
            and temporary.name.startswith(".a-")
        )
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_a_failing_block_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic(path) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_an_interrupted_first_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.atomic(tmp_path / "a.txt"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "t.parquet"
    files.write_table(path, pd.DataFrame({"a": [1, 2]}))
    with pytest.raises(Exception, match="complex"):
        files.write_table(path, pd.DataFrame({"a": [1j]}))
    assert pd.read_parquet(path)["a"].tolist() == [1, 2] and names(tmp_path) == ["t.parquet"]


def test_writing_makes_folders_and_files_that_others_may_read(tmp_path):
    path = tmp_path / "x" / "y" / "a.txt"
    files.write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644


def test_json_is_written_in_a_stable_order_and_read_back(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    files.write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert files.read_json(tmp_path / "a.json") == {"a": [1.5, None], "b": 1}


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b""])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(PnlocError, match=r"broken\.json: not readable as JSON \("):
        files.read_json(path)


def test_json_that_is_missing_or_a_folder_is_named(tmp_path):
    with pytest.raises(PnlocError, match=rf"^{re.escape(str(tmp_path))}/none\.json: no such file$"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(PnlocError, match="not readable as JSON"):
        files.read_json(tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_tables_come_back_without_their_index(tmp_path, name):
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=[7, 9])
    files.write_table(tmp_path / name, table)
    read = pd.read_parquet if name.endswith("parquet") else files.read_csv
    pd.testing.assert_frame_equal(read(tmp_path / name), table.reset_index(drop=True))
    assert (
        name != "t.csv.gz" or gzip.decompress((tmp_path / name).read_bytes()) == b"a,b\n1,x\n2,y\n"
    )


def test_a_lacking_column_is_named_with_those_that_are_there(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PnlocError, match=r"t\.csv: lacks the column\(s\) c, d; it has a, b$"):
        files.read_csv(tmp_path / "t.csv", ["a", "c", "d"])


def test_options_go_to_pandas(tmp_path):
    (tmp_path / "t.csv").write_text("# head\na\n007\n")
    assert files.read_csv(tmp_path / "t.csv", ["a"], dtype=str, comment="#")["a"].tolist() == [
        "007"
    ]


def damaged_gzip() -> bytes:
    """A gzip stream with a hole in its middle."""
    numbers = np.random.default_rng(0).random(4000)
    raw = gzip.compress(("a\n" + "\n".join(map(str, numbers))).encode())
    return raw[:3000] + bytes(200) + raw[3200:]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("ragged.csv", b"a,b\n1,2\n1,2,3,4\n"),
        ("encoding.csv", b"a\n\xff\xfe\n"),
        ("quote.csv", b'a,b\n"1,2\n'),
        ("plain.csv.gz", b"a,b\n1,2\n"),
        ("cut.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-9]),
        ("damaged.csv.gz", damaged_gzip()),
    ],
)
def test_a_broken_table_is_named_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        PnlocError, match=rf"{re.escape(name)}: not readable as a table \(.+\)$"
    ) as caught:
        files.read_csv(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(PnlocError, match=r"none\.csv: no such file$"):
        files.read_csv(tmp_path / "none.csv", ["a"])


def test_a_digest_stands_for_its_parts_and_their_borders():
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})
    assert re.fullmatch("[0-9a-f]{16}", files.digest("a"))
    different = [
        ("a", "b"),
        ("ab",),
        ("b", "a"),
        (["a", "b"],),
        ("a", "b", ""),
        (),
        (1,),
        ("1",),
        (1.5,),
        (None,),
    ]
    assert len({files.digest(*parts) for parts in different}) == len(different)


def test_a_path_stands_for_name_size_and_time(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    os.utime(path, ns=(0, 10**9))
    first = files.digest(path)
    assert files.digest(path) == first
    os.utime(path, ns=(0, 2 * 10**9))
    assert files.digest(path) != first
    path.write_text("longer")
    os.utime(path, ns=(0, 10**9))
    assert files.digest(path) != first
    path.write_text("two")
    os.utime(path, ns=(0, 10**9))
    assert files.digest(path) == first
    other = path.rename(tmp_path / "b.txt")
    assert files.digest(other) != first
