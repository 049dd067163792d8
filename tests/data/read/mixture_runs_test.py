"""Tables of runs: what is read, and one line for what is not as it should be."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmtree_jax.data.read import mixture_runs
from cmtree_jax.types import UserError

HEAD = "run,mixture.a,mixture.b,loss.x"


def read(path, mixture="mixture.", loss="loss."):
  return mixture_runs.read(path, mixture=mixture, loss=loss)


def written(folder, text, name="runs.csv"):
  path = folder / name
  path.write_text(text)
  return path


def test_shares_and_losses_are_told_apart_by_their_names(tmp_path):
  text = "\ufeffname,valid_x,train_a,train_b,valid_y\none,3,.25,.7501,4\n"
  found = read(written(tmp_path, text), "train_", "valid_")
  assert (found.domains, found.targets) == (("a", "b"), ("x", "y"))
  np.testing.assert_allclose(found.mixture_RK.sum(axis=1), 1)
  np.testing.assert_allclose(found.mixture_RK, [[0.25, 0.75]], atol=1e-4)
  np.testing.assert_array_equal(found.loss_RT, [[3, 4]])


def test_a_parquet_file_says_the_same(tmp_path):
  csv = written(tmp_path, f"{HEAD}\n0,.25,.75,3\n1,1,0,2\n")
  table = {"mixture.a": [0.25, 1], "mixture.b": [0.75, 0], "loss.x": [3, 2]}
  pq.write_table(pa.table(table), tmp_path / "runs.parquet")
  for one, two in zip(read(csv), read(tmp_path / "runs.parquet"), strict=True):
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("", ["wanted a line for every run"]),
    (f"{HEAD}\n", ["wanted a line for every run"]),
    (f"{HEAD}\n0,.5,.5,3\n1,.5,.6,3\n", ["line 3", "sum to one", "1.1"]),
    (f"{HEAD}\n0,.5,.5,nan\n", ["line 2", "finite", "loss.x", "'nan'"]),
    (f"{HEAD}\n0,.5,,3\n", ["line 2", "finite", "mixture.b", "''"]),
    (f"{HEAD}\n0,.5,half,3\n", ["line 2", "mixture.b", "'half'"]),
    (f"{HEAD}\n0,-.5,1.5,3\n", ["line 2", "mixture.a", "-0.5"]),
    (f"{HEAD}\n0,.5,.5,0\n", ["line 2", "loss.x", "above 0"]),
    (f"{HEAD}\n0,.5,.5\n", ["line 2", "4 cells", "came 3"]),
    (f"{HEAD}\n0,.5,.5,3,4\n", ["line 2", "4 cells", "came 5"]),
    ("mixture.a,loss.x\n1,3\n", ["line 1", "at least 2", "from_runs.mixture"]),
    ("mixture.a,mixture.b\n1,0\n", ["line 1", "from_runs.loss", "mixture.a"]),
    ("mixture.a,mixture.a,loss.x\n1,0,3\n", ["line 1", "comes twice"]),
  ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, words):
  path = written(tmp_path, text)
  with pytest.raises(UserError) as told:
    read(path)
  for word in (str(path), *words):
    assert word in str(told.value)
  assert "\n" not in str(told.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("text", [f"{HEAD}é\n", f"{HEAD}\né,.5,.5,3\n"])
def test_a_file_in_another_encoding_is_told_from_a_wrong_one(
  tmp_path, text, encoding
):
  path = tmp_path / "runs.csv"
  path.write_bytes(text.encode(encoding))
  with pytest.raises(UserError) as told:
    read(path)
  for word in (str(path), "save the table as CSV in UTF-8"):
    assert word in str(told.value)
  assert "\n" not in str(told.value)


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("runs.txt", [".csv or .parquet"]),
    ("runs.parquet", ["no Parquet file"]),
    ("absent.csv", ["No such file"]),
  ],
)
def test_other_files_are_refused(tmp_path, name, words):
  path = tmp_path / name
  if not name.startswith("absent"):
    path.write_text(HEAD)
  with pytest.raises(UserError) as told:
    read(path)
  for word in (name, *words):
    assert word in str(told.value)


def test_a_bad_row_of_parquet_is_named(tmp_path):
  table = {"mixture.a": [0.25, 1], "mixture.b": [0.75, 0], "loss.x": [3, None]}
  path = tmp_path / "runs.parquet"
  pq.write_table(pa.table(table), path)
  with pytest.raises(UserError, match=r"row 2: wanted a finite .* loss\.x"):
    read(path)
