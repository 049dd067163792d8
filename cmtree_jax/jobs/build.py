"""The config as plans, models and optimizers; refuses what contradicts itself."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax

from cmtree_jax import sharding
from cmtree_jax.bilevel import HYPERGRADS, UNROLLING, memory, problem
from cmtree_jax.bilevel import cost as hypergradient_cost
from cmtree_jax.data.build import workers
from cmtree_jax.evaluate import sets
from cmtree_jax.loops import runs as swarm
from cmtree_jax.loops import steer
from cmtree_jax.loops import values as search
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Method
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model as proxy_model
from cmtree_jax.proxy import optim
from cmtree_jax.proxy.ledger import GRADIENT, Cost
from cmtree_jax.recipe import export
from cmtree_jax.types import UserError


def cache_dir(config: Any) -> Path:
  """Where downloads, prepared corpora and compiled programs are kept."""
  return Path(config.cache_dir).expanduser()


def recipe_names(config: Any) -> list[str]:
  """The method first, then what it is compared with; natural always."""
  names = (config.method, "natural", *config.baselines)
  return list(dict.fromkeys(names))


def check(config: Any) -> None:
  """Settings that contradict each other are refused before any work."""
  unknown = [name for name in recipe_names(config) if name not in METHODS]
  if unknown:
    raise UserError(
      f"Unknown method {unknown[0]!r}. Known: {', '.join(sorted(METHODS))}."
    )
  for name in recipe_names(config):
    make_method(name, config)  # refuses options
  for block, names, known in (
    ("engine.name", [config.engine.name], workers.ENGINES),
    ("export.formats", config.export.formats, export.EXPORTERS),
  ):
    for name in names:
      if name not in known:
        raise UserError(
          f"Unknown config.{block} {name!r}. Known: {', '.join(sorted(known))}."
        )
  if "key_B" in make_method(config.method, config).signals:
    raise UserError(
      f"config.method = {config.method} weighs single documents and leaves no "
      "partition to hand over; name it in config.baselines."
    )
  presets = (config.proxy.preset, config.final.preset, *config.runs.presets)
  for preset in presets:
    if preset not in proxy_model.PRESETS:
      raise UserError(
        f"Unknown proxy preset {preset!r}. Known: "
        f"{', '.join(proxy_model.PRESETS)}."
      )
  rows = config.batch.rows
  for block, field, unit in (
    ("values", "outer_rows", rows),
    ("values", "probe_rows", rows),
    ("values", "validation_rows", rows),
    ("final", "steps", config.final.steps_per_call),
  ):
    value = config[block][field]
    if value < unit or value % unit:
      raise UserError(
        f"config.{block}.{field} = {value} must be a multiple of {unit}; "
        f"try {max(value // unit, 1) * unit}."
      )
  if config.optimizer.warmup_steps >= config.final.steps:
    raise UserError(
      f"config.optimizer.warmup_steps = {config.optimizer.warmup_steps} must "
      f"be below config.final.steps = {config.final.steps}."
    )
  if config.hypergradient.estimator not in HYPERGRADS:
    raise UserError(
      f"Unknown hypergradient {config.hypergradient.estimator!r}. Known: "
      f"{', '.join(HYPERGRADS)}."
    )
  try:
    search_plan(config)
  except ValueError as error:
    raise UserError(f"config.values.unroll: {error}") from error
  try:
    problem.check_optimizer(optimizer_of(config, total_steps=None))
  except ValueError as error:
    raise UserError(f"config.optimizer: {error}") from error
  check_mesh(config)
  for block, field in (
    ("steer", "steps"),
    ("runs", "steps"),
    ("runs", "population"),
    ("observe", "rows"),
    ("observe", "target_rows"),
    ("observe", "frozen_rows"),
    ("observe", "max_tokens"),
  ):
    if (value := config[block][field]) < 1:
      raise UserError(f"config.{block}.{field} = {value} must be at least 1.")
  points = config.runs.curve_points
  if points < 1 or config.runs.steps % points:
    raise UserError(
      f"config.runs.curve_points = {points} must divide config.runs.steps = "
      f"{config.runs.steps}."
    )
  if config.runs.decay and config.optimizer.warmup_steps >= config.runs.steps:
    raise UserError(
      f"config.optimizer.warmup_steps = {config.optimizer.warmup_steps} must "
      f"be below config.runs.steps = {config.runs.steps}."
    )
  if config.final.seeds < 1:
    raise UserError("config.final.seeds must be at least 1.")


def check_mesh(config: Any) -> None:
  """Every axis must divide what it holds."""
  try:
    axes = sharding.make_mesh(**config.mesh).shape
    devices = final_mesh(config).shape[sharding.DATA]
  except ValueError as error:
    raise UserError(f"config.mesh: {error}") from error
  for what, size, parts in (
    ("config.batch.rows", config.batch.rows, devices),
    ("config.evaluate.rows", config.evaluate.rows, devices),
    (
      "config.values.population",
      config["values"].population,
      axes["population"],
    ),
    *(
      (
        f"The heads of {preset}",
        proxy_model.PRESETS[preset]["heads"],
        axes["model"],
      )
      for preset in (
        config.proxy.preset,
        config.final.preset,
        *config.runs.presets,
      )
    ),
  ):
    if size % parts:
      raise UserError(
        f"{what} = {size} must be a multiple of the {parts} devices that share "
        f"it (config.mesh)."
      )


def make_method(name: str, config: Any) -> Method:
  """A method with the options of its config block."""
  options = dict(config[name]) if name in config else {}
  try:
    return _made(name, tuple(options.items()))
  except ValueError as error:
    raise UserError(f"config.{name}: {error}") from error


@functools.lru_cache(maxsize=64)
def _made(name: str, options: tuple[tuple[str, Any], ...]) -> Method:
  """One object for equal options: its jitted step is traced once."""
  return METHODS[name](**dict(options))


def estimator_options(
  config: Any,
  proxy: proxy_model.ProxyConfig,
  optimizer: optax.GradientTransformation,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """What of a window is stored, chosen by the memory that it may take."""
  name, budget = (
    config.hypergradient.estimator,
    config.hypergradient.memory_bytes,
  )
  if name not in UNROLLING:
    return {}
  shape = jax.eval_shape(
    lambda: problem.init_inner(
      proxy_loss.init(proxy_model.Proxy(proxy), jax.random.key(0)), optimizer
    )
  )
  try:
    policy, needed = memory.choose(
      shape,
      optimizer,
      num_steps=config["values"].unroll,
      budget_bytes=budget,
    )
  except ValueError as error:
    raise UserError(f"config.hypergradient.memory_bytes: {error}") from error
  say(
    f"Hypergradient: {name}, policy {policy}: {needed / 1e6:,.0f} MB of "
    f"{budget / 1e6:,.0f} MB for an unroll of {config['values'].unroll} steps."
  )
  return {"policy": policy}


def search_plan(config: Any, **options: Any) -> search.SearchPlan:
  """The config's search block, with the batch's rows and the estimator's cost."""
  fields = set(search.SearchPlan._fields) - {"rows", "cost"}
  chosen = {name: config["values"][name] for name in fields}
  cost = hypergradient_cost.window(
    config.hypergradient.estimator, num_steps=config["values"].unroll, **options
  )
  return search.SearchPlan(rows=config.batch.rows, cost=cost, **chosen)


def steer_plan(config: Any) -> steer.SteerPlan:
  """The config's steer block, with the batch's rows."""
  return steer.SteerPlan(
    config.steer.steps, config.batch.rows, config.steer.saves
  )


def swarm_plan(config: Any) -> swarm.SwarmPlan:
  """The config's swarm block, with the batch's rows."""
  return swarm.SwarmPlan(config.batch.rows, config.runs.population)


def curve_steps(config: Any) -> tuple[int, ...]:
  """Steps of a run of the swarm at which it is scored, evenly spaced."""
  points, steps = config.runs.curve_points, config.runs.steps
  return tuple(steps * (i + 1) // points for i in range(points))


def set_plan(config: Any, *, max_tokens: int) -> sets.SetPlan:
  """Frozen sets of so many tokens, in the config's rows."""
  return sets.SetPlan(max_tokens, config.evaluate.rows, config.batch.row_tokens)


def final_mesh(config: Any) -> sharding.Mesh:
  """All devices on one model: those of the population divide its documents."""
  axes = sharding.make_mesh(**config.mesh).shape
  data = axes[sharding.POPULATION] * axes[sharding.DATA]
  return sharding.make_mesh(data=data, model=axes[sharding.MODEL])


def proxy_of(preset: str, config: Any, vocab_size: int):
  """The model of a preset with the config's number format."""
  return proxy_model.from_preset(
    preset, vocab_size=vocab_size, dtype=config.proxy.dtype
  )


def optimizer_of(config: Any, *, total_steps: int | None):
  """The optimizer block; final runs decay, searching proxies do not."""
  return optim.adamw(total_steps=total_steps, **config.optimizer)


def final_cost(config: Any, vocab_size: int) -> Cost:
  """Of one final training run."""
  model = proxy_of(config.final.preset, config, vocab_size)
  batch = config.batch
  tokens = config.final.steps * batch.rows * batch.row_tokens
  return Cost().plus(tokens, GRADIENT, model.flops_per_token(batch.row_tokens))


def total_work(config: Any) -> float:
  """Work of the whole job in training rows, for the estimate of time left."""
  final = config.final
  names = recipe_names(config)
  return len(names) * final.seeds * final.steps * config.batch.rows + sum(
    search_work(name, config) for name in names
  )


def search_work(name: str, config: Any) -> float:
  """Training rows of a method's search; of a swarm, which grows, none."""
  method = make_method(name, config)
  if method.loop == "values":
    return search.search_work(search_plan(config))
  if method.loop == "steer":
    return steer.work(method, steer_plan(config))
  return 0.0
