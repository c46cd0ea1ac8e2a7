"""Files whole or not at all, errors that name file and column, digests that follow their parts."""

import gzip
import os
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pnloc import files
from pnloc.errors import PnlocError


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_an_atomic_write_replaces_the_old_file_at_the_end_and_not_before(tmp_path):
    path = tmp_path / "x" / "a.txt"
    files.write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode() and path.stat().st_mode & 0o777 == 0o644
    with files.atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "Größe\n"
        assert temporary.parent == path.parent and temporary.match(".a-*.txt")
    assert path.read_text() == "new" and names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(error), files.atomic(tmp_path / name) as temporary:
            temporary.write_text("half")
            raise error
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_json_is_written_in_a_stable_order_and_read_back(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    files.write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert files.read_json(tmp_path / "a.json") == {"a": [1.5, None], "b": 1}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_tables_come_back_without_their_index(tmp_path, name):
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=[7, 9])
    files.write_table(tmp_path / name, table)
    read = pd.read_parquet if name.endswith("parquet") else files.read_csv
    pd.testing.assert_frame_equal(read(tmp_path / name), table.reset_index(drop=True))
    if name.endswith("gz"):
        assert gzip.decompress((tmp_path / name).read_bytes()) == b"a,b\n1,x\n2,y\n"


def test_columns_and_options_of_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("# head\na,b\n007,2\n")
    read = files.read_csv(tmp_path / "t.csv", ["a"], dtype=str, comment="#")
    assert read["a"].tolist() == ["007"]
    with pytest.raises(PnlocError, match=r"t\.csv: lacks the column\(s\) c, d; it has a, b$"):
        files.read_csv(tmp_path / "t.csv", ["a", "c", "d"], comment="#")


def damaged_gzip() -> bytes:
    """A gzip stream with a hole in its middle."""
    numbers = np.random.default_rng(0).random(4000)
    raw = gzip.compress(("a\n" + "\n".join(map(str, numbers))).encode())
    return raw[:3000] + bytes(200) + raw[3200:]


CUT = gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-9]
TABLES = (b"", b"a,b\n1,2\n1,2,3,4\n", b"a\n\xff\xfe\n", b'a,b\n"1,2\n')
BROKEN = [(files.read_csv, "a table", content) for content in TABLES]
for content in (b"a,b\n1,2\n", CUT, damaged_gzip()):
    BROKEN.append((files.read_csv, "a table.csv.gz", content))
BROKEN += [(files.read_json, "JSON", content) for content in (b'{"a": ', b"\xff\xfe", b"")]
BROKEN += [(files.load_tensors, "safetensors", content) for content in (b"broken", b"")]
BROKEN.append((files.read_text, "text", b"\xff\xfe"))


@pytest.mark.parametrize(("read", "kind", "content"), BROKEN)
def test_a_broken_or_missing_file_is_named_in_one_line(tmp_path, read, kind, content):
    path = tmp_path / kind
    with pytest.raises(PnlocError, match=rf"^{re.escape(str(path))}: no such file$"):
        read(path)
    path.write_bytes(content)
    kind = kind.partition(".")[0]
    with pytest.raises(PnlocError, match=rf": not readable as {kind} \(.+\)$") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_weights_come_back_and_must_fit(tmp_path):
    path, module = tmp_path / "a.safetensors", nn.Linear(3, 2)
    files.save_module(path, module)
    assert torch.equal(module.weight, files.load_module(path, nn.Linear(3, 2)).weight)
    with pytest.raises(PnlocError, match=r"a\.safetensors: does not fit"):
        files.load_module(path, nn.Linear(5, 2))


def test_a_digest_stands_for_its_parts_and_their_borders():
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})
    assert re.fullmatch("[0-9a-f]{16}", files.digest("a"))
    different = [("a", "b"), ("ab",), ("b", "a"), (["a", "b"],), ("a", "b", ""), (), (1,), ("1",)]
    assert len({files.digest(*parts) for parts in different}) == len(different)


def test_a_path_stands_for_name_size_and_time(tmp_path):
    def digest(name: str, text: str, seconds: int) -> str:
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, ns=(0, seconds * 10**9))
        return files.digest(tmp_path / name)

    assert digest("a", "one", 1) == digest("a", "two", 1)
    others = {digest("a", "one", 2), digest("a", "longer", 1), digest("b", "one", 1)}
    assert len(others - {digest("a", "one", 1)}) == 3
