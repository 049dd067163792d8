"""What fields of the config may be, as far as no plan or factory checks them itself.

Plans refuse what they cannot use where they are made, and factories what is out of the
range of a method. Here is what belongs to none of them, and what holds for all: numbers
are finite, unless infinity stands for "no limit", and words are known.
"""

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import ml_collections

from cmtree_jax import checks, embed
from cmtree_jax.bilevel import HYPERGRADS
from cmtree_jax.data.build import tokenizer, workers
from cmtree_jax.proxy import model as proxy_model
from cmtree_jax.proxy import splash
from cmtree_jax.recipe import export
from cmtree_jax.types import UserError

# Least values of the fields that belong to no plan.
LEAST = {
  "seed": 0,
  "batch.rows": 1,
  "batch.row_tokens": 1,
  "optimizer.warmup_steps": 0,
  "optimizer.weight_decay": 0,
  "evaluate.max_tokens": 1,
  "evaluate.rows": 1,
  "export.tokens": 0,
  "export.rows": 0,
  "export.row_tokens": 0,
}
ABOVE_ZERO = (
  "optimizer.learning_rate",
  "optimizer.eps_root",
  "hypergradient.memory_bytes",
)

# Where infinity says that nothing is clipped, that a loss is squared everywhere, or that
# all domains weigh the same.
UNLIMITED = frozenset(
  {
    *("cmtree.replay.clip", "tilts.replay.clip", "pds.clip"),
    *("doge.clip_norm", "doge.max_score", "grape.clip_norm"),
    *("mixing_laws.huber_delta", "olmix.huber_delta"),
    "temperature.temperature",
  }
)


# Two numbers, no more and no fewer.
PAIRS = ("cmtree.step.temperature", "olmix.strengths")


def check_numbers(config: Any) -> None:
  """Refuses numbers out of their ranges, of all methods.

  Raises:
    UserError: for the first.
  """
  try:
    for name, value in fields(config):
      if name not in UNLIMITED:
        for one in value if isinstance(value, tuple) else (value,):
          if isinstance(one, float):
            checks.finite(**{name: one})
    for name in PAIRS:
      pair = operator.attrgetter(name)(config)
      if len(pair) != 2:
        raise ValueError(f"{name} = {pair} must be two numbers.")
    for name, least in LEAST.items():
      checks.at_least(least, **{name: operator.attrgetter(name)(config)})
    for name in ABOVE_ZERO:
      checks.above_zero(**{name: operator.attrgetter(name)(config)})
  except ValueError as error:
    raise UserError(f"config.{error}") from error


def fields(
  block: ml_collections.ConfigDict, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Every field of a config with its value, as "cmtree.step.trust"."""
  for name, value in block.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from fields(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def check_names(config: Any, presets: Mapping[str, Iterable[str]]) -> None:
  """Refuses words that stand for something and are not known.

  Args:
    config: whose words they are.
    presets: of models, by the field that names them.
  Raises:
    UserError: for the first, with those that are known.
  """
  known_of = (
    ("workers.name", [config.workers.name], workers.WORKERS),
    ("tokenizer.kind", [config.tokenizer.kind], tokenizer.TOKENIZERS),
    (
      "embedding.views",
      config.embedding.views,
      (*embed.VIEWS, *embed.MODEL_VIEWS),
    ),
    ("embedding.kind", [config.embedding.kind], embed.EMBEDDERS),
    ("export.formats", config.export.formats, export.EXPORTERS),
    ("proxy.dtype", [config.proxy.dtype], proxy_model.DTYPES),
    ("proxy.attention", [config.proxy.attention], proxy_model.ATTENTIONS),
    (
      "hypergradient.estimator",
      [config.hypergradient.estimator],
      HYPERGRADS,
    ),
    *((name, named, proxy_model.PRESETS) for name, named in presets.items()),
  )
  for field, names, known in known_of:
    for name in names:
      if name not in known:
        raise UserError(
          f"Unknown config.{field} {name!r}. Known: {', '.join(sorted(known))}."
        )


def check_attention(config: Any, *, valued: bool) -> None:
  """Refuses a kernel that the devices do not have, or the estimator not take.

  Args:
    config: of the job.
    valued: whether a method of the job takes hypergradients.
  Raises:
    UserError: says which devices or estimators do.
  """
  if config.proxy.attention != "splash":
    return
  devices = jax.default_backend()
  if devices != "tpu":
    raise UserError(
      "config.proxy.attention = 'splash' is a kernel of TPUs, and the devices here "
      f"are of kind {devices}. Leave it at 'einsum'."
    )
  if valued:
    try:
      splash.check_estimator(config.hypergradient.estimator)
    except ValueError as error:
      raise UserError(f"config.hypergradient.estimator: {error}") from error
