"""Labelled texts: what is read of them, and one line for what is wrong."""

import json

import numpy as np
import pytest

from cmtree_jax.data.draw import sampler
from cmtree_jax.data.read import labels
from cmtree_jax.types import UserError
from tests import corpora


def test_texts_and_scores_are_read(tmp_path, monkeypatch):
  rows = [{"text": f"text {i}", "score": i / 2, "by": "me"} for i in range(7)]
  corpora.write(tmp_path / "labels.jsonl", rows)
  monkeypatch.setattr(labels, "_TEXTS", 3)
  found = list(labels.read(tmp_path / "labels.jsonl"))
  assert [len(one.texts) for one in found] == [3, 3, 1]
  texts = [text for one in found for text in one.texts]
  assert texts == [row["text"] for row in rows]
  scores = np.concatenate([one.score_M for one in found])
  np.testing.assert_array_equal(scores, np.arange(7) / 2)
  keys = np.concatenate([one.key_M for one in found])
  np.testing.assert_array_equal(keys, sampler.document_keys(texts))


@pytest.mark.parametrize(
  ("line", "told"),
  [
    ('{"text": "a"}', "line 2: .*'score', came no such field"),
    ('{"text": "a", "score": "high"}', "line 2: .*'score', came 'high'"),
    ('{"text": "a", "score": true}', "line 2: .*'score', came True"),
    ('{"text": "a", "score": NaN}', "line 2: .*'score', came nan"),
    ('{"text": 3, "score": 1}', "line 2: .*'text', came 3"),
    ('{"text": " ", "score": 1}', "line 2: wanted a text"),
    ('{"text": "a", ', "line 2: wanted a JSON object"),
  ],
)
def test_a_line_that_is_no_label_is_told(tmp_path, line, told):
  good = json.dumps({"text": "a", "score": 1})
  (tmp_path / "labels.jsonl").write_text(f"{good}\n{line}\n")
  with pytest.raises(UserError, match=rf"labels\.jsonl, {told}"):
    list(labels.read(tmp_path / "labels.jsonl"))


def test_a_file_that_is_not_there_is_told(tmp_path):
  with pytest.raises(UserError, match=r"none\.jsonl"):
    list(labels.read(tmp_path / "none.jsonl"))
