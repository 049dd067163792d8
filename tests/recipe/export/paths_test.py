"""A path in exports: which formats hold the order, and what the others are told."""

import functools

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax.recipe import export

PLACE_N = np.random.default_rng(4).permutation(60)
CUTS = ((0, 17), (17, 17), (17, 45), (45, 60))


def places(begin: int, end: int) -> np.ndarray:
  return PLACE_N[begin:end]


@pytest.fixture
def written(corpus, options, tmp_path):
  """An export of two epochs, in a format of each kind."""
  along = corpus._replace(
    places=tuple(functools.partial(places, *cut) for cut in CUTS)
  )
  folder = tmp_path / "out"
  export.write(folder, ["jsonl", "leaves", "parquet"], along, options, {})
  return folder


def test_text_is_in_the_order_of_the_path(written, read_lines):
  table = pq.read_table(written / "parquet/weights.parquet").to_pydict()
  assert table["place"] == PLACE_N.tolist()
  repeats = dict(zip(table["document_id"], table["repeats"], strict=True))
  place = dict(zip(table["document_id"], table["place"], strict=True))
  laps = sorted((written / "jsonl").iterdir())
  assert len(laps) == max(repeats.values()) > 2
  for lap, folder in enumerate(laps):
    files = [read_lines(path) for path in sorted(folder.iterdir())]
    assert lap or sum(len(lines) > 5 for lines in files) > 1
    ids = [line["id"] for lines in files for line in lines]
    # As many laps as copies; in each the path from its beginning.
    assert {name for name in repeats if repeats[name] > lap} == set(ids)
    assert (np.diff([place[name] for name in ids]) > 0).all()


def test_what_loses_the_order_is_told(written, corpus, options, tmp_path):
  told = export.told(written)
  assert "The order is in: jsonl, parquet." in told
  assert "Weights alone, without the order: leaves;" in told
  export.write(tmp_path / "plain", ["leaves", "jsonl"], corpus, options, {})
  assert "path" not in export.told(tmp_path / "plain")
  assert not (tmp_path / "plain/jsonl/lap-00000").exists()
