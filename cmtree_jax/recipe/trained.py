"""A model that a run has trained: its parameters by name, its size and its tokenizer."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmtree_jax import shapes
from cmtree_jax.data import mirror, sealed, store
from cmtree_jax.data.build import prepare, tokenizer
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.model import Proxy, ProxyConfig
from cmtree_jax.types import UserError

FILE = "model.json"
PARAMETERS = "parameters"  # an Orbax checkpoint


class Trained(NamedTuple):
  """A model as it was saved; `proxy.apply({"params": params}, ...)` runs it."""

  proxy: Proxy
  params: shapes.Tree  # nested by the names of modules and parameters
  tokenizer: Any
  facts: dict[str, Any]  # method, seed, steps and what else was told of it


def save(
  folder: Path,
  params: shapes.Tree,
  config: ProxyConfig,
  facts: dict[str, Any],
  *,
  tokenizer_kind: str,
  learned: Path,
) -> Path:
  """Writes a model; returns its folder, which is whole once it has model.json.

  Args:
    folder: of the model; what is there is replaced.
    params: of one model.
    config: its size.
    facts: what is worth knowing of it.
    tokenizer_kind: name in `tokenizer.TOKENIZERS`.
    learned: folder of the prepared corpus, which has the tokenizer.
  """
  folder.mkdir(parents=True, exist_ok=True)
  (folder / FILE).unlink(missing_ok=True)
  with _checkpointer() as checkpointer:
    checkpointer.save(
      (folder / PARAMETERS).absolute(),
      jax.tree.map(np.asarray, params),
      force=True,
    )
  name = prepare.TOKENIZER_FILE
  store.write_atomically(folder / name, (learned / name).read_bytes())
  size: dict[str, Any] = dataclasses.asdict(config)
  del size["attention"]  # of the devices that trained it, not of the model
  told = {
    "size": size,
    "tokenizer": tokenizer_kind,
    "facts": facts,
  }
  files = (one for one in (folder / PARAMETERS).rglob("*") if one.is_file())
  store.settle(folder)
  sealed.write(folder / FILE, told, beside=[folder / name, *sorted(files)])
  return folder


def load(folder: Path | str) -> Trained:
  """The model in a folder.

  Raises:
    UserError: there is none, or one of its files is not what was written.
  """
  folder = mirror.reading(folder)
  if not (folder / FILE).is_file():
    raise UserError(
      f"No {FILE} in {folder}. Give the folder of a model that a run has saved."
    )
  told = sealed.read(folder / FILE, cure=_CURE)
  sealed.require(folder / FILE, told, cure=_CURE)
  proxy = Proxy(ProxyConfig(**told["size"]))
  like = jax.eval_shape(lambda: proxy_loss.init(proxy, jax.random.key(0)))
  with _checkpointer() as checkpointer:
    params = checkpointer.restore(
      (folder / PARAMETERS).absolute(),
      jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like),
    )
  kind = tokenizer.TOKENIZERS[told["tokenizer"]]
  made = kind.from_bytes((folder / prepare.TOKENIZER_FILE).read_bytes())
  return Trained(proxy, params, made, told["facts"])


_CURE = "Copy the model again, or run the job that made it again."


def _checkpointer() -> ocp.StandardCheckpointer:
  """One that waits for no other process: host arrays are whole on each."""
  mine = jax.process_index()
  return ocp.StandardCheckpointer(
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      primary_host=mine,
      active_processes={mine},
      barrier_sync_key_prefix=f"process{mine}",
    )
  )
