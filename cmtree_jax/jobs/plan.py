"""What a job compares: its config as a plan of cells, refused if it makes no sense."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from cmtree_jax.data.build.prepare import Prepared
from cmtree_jax.data.plan import NO_TARGET
from cmtree_jax.evaluate.results import FULL, NATURAL
from cmtree_jax.jobs import build, cells, guard, variants
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Method
from cmtree_jax.proxy.model import PRESETS
from cmtree_jax.recipe import export
from cmtree_jax.types import UserError


def of_recipe(
  config: Any, data: Prepared, more: Iterable[str] = ()
) -> cells.Plan:
  """A main job's: one recipe for all targets, beside the baselines and natural.

  Args:
    config: of the job.
    data: its targets are those of the recipe.
    more: methods or variants, beside those that the config compares.
  """
  places = tuple(
    cells.Place(name, name, name, only_tested=not len(splits["validation"]))
    for name, splits in data.targets.items()
  )
  methods = tuple(dict.fromkeys((*build.recipe_names(config), *more)))
  return cells.Plan(
    methods=methods,
    target_sets={"+".join(data.targets): places},
    untargeted=_untargeted(methods, config),
    seeds=config.final.seeds,
    search_seeds=1,
    fractions=(FULL,),
    natural_multiples=(),
    noise_repeats=0,
    online=_online(methods, config),
  )


def of_untargeted(method: str) -> cells.Plan:
  """A job's without a target: nothing is compared."""
  return cells.Plan(
    methods=(method,),
    target_sets={},
    untargeted=frozenset({method}),
    seeds=1,
    search_seeds=1,
    fractions=(FULL,),
    natural_multiples=(),
    noise_repeats=0,
  )


def of_comparison(config: Any) -> cells.Plan:
  """What the config's block `compare` asks for."""
  chosen = config.compare
  methods = tuple(dict.fromkeys((NATURAL, *chosen.methods)))
  return cells.Plan(
    methods=methods,
    target_sets={
      name: tuple(map(cells.Place.of, name.split("+")))
      for name in chosen.targets
    },
    untargeted=_untargeted(methods, config),
    seeds=chosen.seeds,
    search_seeds=chosen.search_seeds or chosen.seeds,
    fractions=tuple(chosen.fractions),
    natural_multiples=tuple(chosen.natural_multiples),
    noise_repeats=chosen.noise_repeats,
    presets=tuple(chosen.final_presets),
    shares=_shares(config),
    online=_online(methods, config),
  )


def rivals(config: Any) -> tuple[str, ...]:
  """What a main job's method has to beat, beside natural."""
  plan = guard.Plan(**config.guard)
  return plan.rivals if guard.is_on(plan, config.method) else ()


def method_of(name: str, config: Any) -> Method:
  """The method that a name, perhaps of a variant, stands for."""
  own = variants.config_of(name, config)
  return build.make_method(own.method, own)


def check_recipe(config: Any) -> None:
  """Refuses a main job whose settings contradict each other."""
  _check_methods(
    {
      "method": (config.method, NATURAL),
      "baselines": config.baselines,
      "guard.rivals": rivals(config),
    },
    config,
  )
  learns = not config.recipe.apply  # else the recipe says what it weighs
  if learns and NO_TARGET in config.data.targets:
    require_untargeted(config)
  own = variants.config_of(config.method, config)
  if learns and own.online.on and not build.is_online(own):
    raise UserError(
      f"config.online.on wants a method of the loops values or steer, which move the "
      f"training that they are for; {config.method} is none. Leave it at False."
    )
  if learns and build.is_online(own) and NO_TARGET in config.data.targets:
    raise UserError(
      "An online run is compared on the texts of a target, and config.data.targets "
      "names none. Give a target, or leave config.online.on at False."
    )
  if learns and build.is_online(own):
    export.require_stages(config.export.formats)
  if learns and method_of(config.method, config).weighs == "documents":
    export.require_leaves(config.export.formats)


def _check_methods(asked: Mapping[str, Iterable[str]], config: Any) -> None:
  """Refuses methods that are unknown, and settings of any of their searches.

  Args:
    asked: names of methods or variants, by the field that names them.
    config: of the job.
  """
  checked = set()
  for field, names in asked.items():
    for name in names:
      if name in checked:
        continue
      checked.add(name)
      try:
        own = variants.config_of(name, config)
      except UserError as error:
        raise UserError(f"config.{field}: {error}") from error
      build.check(own)


def require_untargeted(config: Any) -> None:
  """Refuses a method that chooses for a target, where there is none.

  Raises:
    UserError: names the methods that need no target.
  """
  if method_of(config.method, config).targeted:
    others = [n for n in METHODS if not build.make_method(n, config).targeted]
    raise UserError(
      f"No target, and {config.method} chooses for one. Give a target with "
      "--config.data.target_files=FILE, or take a method that needs none: "
      f"{', '.join(others)}; metaclip with config.metaclip.entries, or quota of one of "
      "these scores with config.quota.mixture = natural."
    )


def check_comparison(config: Any) -> None:
  """Refuses a comparison whose settings contradict each other."""
  if "compare" not in config:
    raise UserError(
      "The config has no block `compare`; start from configs/compare.py."
    )
  chosen = config.compare
  _check_methods({"compare.methods": (NATURAL, *chosen.methods)}, config)
  _check_targets(chosen.targets)
  for field, least in (("seeds", 1), ("search_seeds", 0), ("noise_repeats", 0)):
    if chosen[field] < least:
      raise UserError(
        f"config.compare.{field} must be at least {least}, came {chosen[field]}."
      )
  if chosen.search_seeds > chosen.seeds:
    raise UserError(
      f"config.compare.search_seeds = {chosen.search_seeds} must be at most "
      f"config.compare.seeds = {chosen.seeds}, or a search would have no final "
      "training."
    )
  _check_budgets(config)
  for preset in chosen.final_presets:
    if preset not in PRESETS or preset == config.final.preset:
      raise UserError(
        f"config.compare.final_presets: {preset!r} is unknown or that of "
        f"config.final.preset. Known: {', '.join(PRESETS)}."
      )
  _shares(config)


def _untargeted(methods: tuple[str, ...], config: Any) -> frozenset[str]:
  return frozenset(
    name for name in methods if not method_of(name, config).targeted
  )


def _online(methods: tuple[str, ...], config: Any) -> frozenset[str]:
  return frozenset(
    name
    for name in methods
    if build.is_online(variants.config_of(name, config))
  )


def _shares(config: Any) -> tuple[float, ...]:
  """Effective sample sizes; a tuple that was empty knows no type of its own."""
  try:
    found = tuple(map(float, config.compare.effective_sample_sizes))
  except ValueError:
    found = (math.nan,)
  if not all(0 < share < 1 for share in found):
    raise UserError(
      "config.compare.effective_sample_sizes must be shares of the corpus "
      f"between 0 and 1, came {list(config.compare.effective_sample_sizes)}."
    )
  return found


def _check_targets(targets: tuple[str, ...]) -> None:
  if not targets:
    raise UserError("config.compare.targets must name at least one target.")
  for target_set in targets:
    names = target_set.split("+")
    if not all(names) or len(set(names)) < len(names):
      raise UserError(
        f"config.compare.targets: wanted a target or several different ones "
        f"joined by +, came {target_set!r}."
      )
    if any(name.count(">") > 1 or not all(name.split(">")) for name in names):
      raise UserError(
        "config.compare.targets: wanted SEARCHED>TESTED for a target that is "
        f"tested on another, came {target_set!r}."
      )
    if target_set == cells.ANY:
      raise UserError(
        f"config.compare.targets: no target may be called {cells.ANY!r} here."
      )


def _check_budgets(config: Any) -> None:
  """Shares and multiples of the token budget, as whole numbers of steps."""
  chosen = config.compare
  if FULL not in chosen.fractions or not all(
    0 < one <= FULL for one in chosen.fractions
  ):
    raise UserError(
      "config.compare.fractions must be above 0 and at most 1, with 1.0 among "
      f"them, came {list(chosen.fractions)}."
    )
  if not all(one > FULL for one in chosen.natural_multiples):
    raise UserError(
      "config.compare.natural_multiples must be above 1, came "
      f"{list(chosen.natural_multiples)}."
    )
  for one in (*chosen.fractions, *chosen.natural_multiples):
    _check_steps(one, config)


def _check_steps(fraction: float, config: Any) -> None:
  final = config.final
  steps = final.steps * fraction
  if steps % final.steps_per_call or steps <= config.optimizer.warmup_steps:
    raise UserError(
      f"config.compare: {fraction:g} of config.final.steps = {final.steps} are "
      f"{steps:g} steps; wanted a multiple of config.final.steps_per_call = "
      f"{final.steps_per_call} above config.optimizer.warmup_steps = "
      f"{config.optimizer.warmup_steps}."
    )
