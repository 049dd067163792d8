"""Variants: one method under several settings of its search, side by side.

A variant has a name, a method and overrides. Only what a search reads may differ:
corpus, batches, optimizer, final training and evaluation are those of the comparison,
or it would not be fair.
"""

import difflib
from typing import Any

from cmtree_jax import config as configs
from cmtree_jax.jobs.build import SCORERS, SEARCH_BLOCKS
from cmtree_jax.methods import METHODS
from cmtree_jax.types import UserError


def settings_of(name: str, config: Any) -> list[str]:
  """The method that a name stands for, and the overrides."""
  return list(config.variants.get(name, (name,)))


def config_of(name: str, config: Any) -> Any:
  """The config of a method's or variant's search; `method` is set in it.

  Args:
    name: of a method, or of a variant in `config.variants`, a tuple of the
      method and overrides: `("cmtree", "cmtree.mode=frozen")`.
    config: of the job.
  Raises:
    UserError: no such method, variant or field, or one that must be equal for all.
  """
  settings = settings_of(name, config)
  if not settings:
    raise UserError(
      f"config.variants.{name} is empty; write a method and overrides, such as "
      f"--config.variants.{name}=cmtree,cmtree.mode=frozen."
    )
  method, *overrides = settings
  if method not in METHODS:
    near = difflib.get_close_matches(method, [*METHODS, *config.variants])
    raise UserError(
      f"Unknown method {method!r}."
      + (f" Did you mean {' or '.join(near)}?" if near else "")
      + " All are in docs/methods.md; a config adds its own in config.variants."
    )
  own = config.copy_and_resolve_references().lock()
  own.method = method
  own.baselines = ()
  for override in overrides:
    block = override.partition(".")[0]
    # Options of the scorer that a method names are options of the method.
    options = own.get(method, {})
    scorers = {options[name] for name in SCORERS if name in options}
    if block not in {*SEARCH_BLOCKS, method, *scorers}:
      raise UserError(
        f"Variant {name!r} sets {override!r}; a variant may set fields of "
        f"{', '.join(sorted(SEARCH_BLOCKS))} and of its method's block, all else "
        "is equal for all."
      )
    configs.override_field(own, override)
  return own
