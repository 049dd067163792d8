"""The config as plans, models and optimizers; refuses what contradicts itself."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from cmtree_jax import budget as budgets
from cmtree_jax import config as configs
from cmtree_jax import embed, sharding
from cmtree_jax.bilevel import HYPERGRADS, memory, problem
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.data import mirror, share
from cmtree_jax.data.build import prepare, tokenizer
from cmtree_jax.data.plan import Plan as DataPlan
from cmtree_jax.data.read import entries, labels
from cmtree_jax.embed import grams
from cmtree_jax.evaluate import sets
from cmtree_jax.jobs import ranges
from cmtree_jax.loops import look, online, steer, values
from cmtree_jax.loops.final import Plan as FinalPlan
from cmtree_jax.loops.final import TrialPlan
from cmtree_jax.loops.fleet import ObservePlan
from cmtree_jax.loops.look import Plan as LookPlan
from cmtree_jax.loops.online import Plan as OnlinePlan
from cmtree_jax.loops.runs import Plan as RunsPlan
from cmtree_jax.loops.steer import Plan as SteerPlan
from cmtree_jax.loops.values import Plan as ValuesPlan
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Method
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model as proxy_model
from cmtree_jax.proxy import optim
from cmtree_jax.recipe import domains, policies
from cmtree_jax.types import UserError


class Plans(NamedTuple):
  """How much of everything the loops do: the config's blocks of these names."""

  values: ValuesPlan = ValuesPlan()  # proxies in training value documents
  steer: SteerPlan = SteerPlan()  # one proxy on a mixture that is steered
  runs: RunsPlan = RunsPlan()  # whole runs of proxies on mixtures
  look: LookPlan = LookPlan()  # every document is shown once
  observe: ObservePlan = ObservePlan()  # what steer and runs look at
  online: OnlinePlan = OnlinePlan()  # final trainings that move their weights
  trial: TrialPlan = TrialPlan()  # short ones that choose among recipes
  final: FinalPlan = FinalPlan()  # the training that every recipe gets


# Blocks that belong to a search: a variant of a method may set them. All others
# are equal for all recipes that are compared, or it would not be fair.
SEARCH_BLOCKS = frozenset(
  {*Plans._fields, "grams", "hypergradient", "partition", "proxy"}
  - {"final", "trial"}
)


# Options of methods that name another one, which scores documents for them.
SCORERS = ("scorer", "offset")


def plans(config: Any) -> Plans:
  """The loops' plans of a config, each checked by itself.

  Raises:
    UserError: a field contradicts its block.
  """
  made = Plans(
    **{
      name: type(default)(**config[name])
      for name, default in Plans()._asdict().items()
    }
  )
  for name, plan in made._asdict().items():
    by_rows = isinstance(plan, (ValuesPlan, OnlinePlan))
    rows = (config.batch.rows,) if by_rows else ()
    _checked(name, plan, *rows)
  return made


def _checked(block: str, plan: Any, *more: Any) -> None:
  """Runs a plan's own check; its error names the block."""
  try:
    plan.check(*more)
  except ValueError as error:
    raise UserError(f"config.{block}.{error}") from error


def cache_dir(config: Any) -> Path:
  """Where downloads, prepared corpora and compiled programs are kept."""
  return share.attach(config.cache_dir)


def corpus_plan(config: Any) -> prepare.Plan:
  """What the blocks `data`, `tokenizer` and `embedding` say of the corpus."""
  return prepare.Plan(
    DataPlan(**config.data),
    tokenizer.Plan(**config.tokenizer),
    embed.Plan(**config.embedding),
    _searched(config),
  )


def _searched(config: Any) -> tuple[str, ...] | None:
  """Targets that a comparison searches on, of "a>b" the first; None: all there are."""
  if "compare" not in config:
    return None
  names = [x for one in config.compare.targets for x in one.split("+")]
  return tuple(sorted({name.partition(">")[0] for name in names})) or None


def recipe_names(config: Any) -> list[str]:
  """The method first, then what it is compared with; natural always."""
  names = (config.method, "natural", *config.baselines)
  return list(dict.fromkeys(names))


def check(config: Any) -> None:
  """Settings that contradict each other are refused before any work.

  Raises:
    UserError: for the first that is found.
  """
  ranges.check_numbers(config)
  made = plans(config)
  _checked("budget", budgets.Plan(**config.budget))
  _checked("data", DataPlan(**config.data))
  _checked("tokenizer", tokenizer.Plan(**config.tokenizer))
  _checked("embedding", embed.Plan(**config.embedding))
  _checked("grams", grams.Plan(**config.grams))
  _checked("partition", domains.Plan(**config.partition))
  ranges.check_names(config, _presets(config, made))
  for name in recipe_names(config):
    method = make_method(name, config)  # refuses options
    path_options(method, config)
    valued = method.loop == "values" or "share_gain_K" in method.signals
    ranges.check_attention(config, valued=valued)
    _check_files(name, method, config)
    if method.loop == "look":
      _check_look(name, method, made.look)
  if is_online(config):
    _check_online(config, made)
  ends = {"final": made.final.steps, "trial": made.trial.steps}
  if made.runs.decay:
    ends["runs"] = made.runs.steps
  for block, steps in ends.items():
    if config.optimizer.warmup_steps >= steps:
      raise UserError(
        f"config.optimizer.warmup_steps = {config.optimizer.warmup_steps} must "
        f"be below config.{block}.steps = {steps}."
      )
  for block, checked in (
    ("values.unroll", lambda: unroll_cost(config)),
    ("optimizer", lambda: _check_optimizer(tuple(config.optimizer.items()))),
  ):
    try:
      checked()
    except ValueError as error:
      raise UserError(f"config.{block}: {error}") from error
  _check_mesh(config, made)


@functools.lru_cache(maxsize=64)
def _check_optimizer(options: tuple[tuple[str, Any], ...]) -> None:
  """Once for equal options: many recipes of a job have the same."""
  problem.check_optimizer(optim.adamw(total_steps=None, **dict(options)))


def _check_look(name: str, method: Method, plan: LookPlan) -> None:
  """The models that a method looks with must stop as often as it asks."""
  try:
    plan.ends(method.look)
  except ValueError as error:
    raise UserError(f"config.{name}: {error}") from error


def is_online(config: Any) -> bool:
  """Whether the method of a config moves the weights of the final training itself."""
  if not config.online.on:
    return False
  return make_method(config.method, config).loop in online.LOOPS


def _check_online(config: Any, made: Plans) -> None:
  """A method that waits for the end of a search cannot move a training.

  Raises:
    UserError: says why.
  """
  method = make_method(config.method, config)
  why = online.in_the_way(method, made.values.target_weights)
  if why:
    raise UserError(
      f"{config.method} cannot run online: {why}. Leave config.online.on at False "
      "for it."
    )
  if method.loop == "values":
    try:
      made.online.check_steps(
        made.final.steps, per_call=made.final.steps_per_call
      )
    except ValueError as error:
      raise UserError(f"config.online.{error}") from error


def _check_files(name: str, method: Method, config: Any) -> None:
  """What a method names must be there and hold what it wants.

  Raises:
    UserError: naming the option, or the method where the file is its scorer's.
  """
  plan, own = domains.Plan(**config.partition), config.get(name, {})
  for field, read in {
    "extends": lambda place: domains.check_earlier(mirror.reading(place), plan),
    "policy": policies.load,
    "entries": lambda place: entries.read(Path(place)),
    "labels": _require_labels,
  }.items():
    place = getattr(method, field)
    if place is None or (not place and field != "labels"):
      continue
    named = [one for one, value in own.items() if place and value == place]
    option = [one for one in (*named, field) if one in own][:1]
    try:
      read(place)
    except UserError as error:
      raise UserError(
        f"{'.'.join(['config', name, *option])}: {error}"
      ) from error


def _require_labels(place: str) -> None:
  """Refuses a file without a labelled text."""
  if not place:
    raise UserError(
      "wanted a file of labelled texts, came none; name one with a line such as "
      '{"text": "...", "score": 3} for each text.'
    )
  if not sum(len(some.texts) for some in labels.read(Path(place))):
    raise UserError(f"wanted labelled texts in {place}, came none.")


def _presets(config: Any, made: Plans) -> dict[str, tuple[str, ...]]:
  """Sizes of all models that a job may have, by the field that names them."""
  return {
    "proxy.preset": (config.proxy.preset,),
    "trial.preset": (made.trial.preset,),
    "final.preset": (made.final.preset,),
    "runs.presets": made.runs.presets,
    "look.teacher": (made.look.teacher,),
  }


def _check_mesh(config: Any, made: Plans) -> None:
  """Refuses a mesh whose axes do not divide the rows that they hold."""
  try:
    axes = sharding.make_mesh(**config.mesh).shape
    devices = final_mesh(config).shape[sharding.DATA]
  except ValueError as error:
    raise UserError(f"config.mesh: {error}") from error
  population = axes[sharding.POPULATION]
  divided = [
    ("config.batch.rows", config.batch.rows, devices),
    ("config.evaluate.rows", config.evaluate.rows, devices),
  ]
  if population > 1:  # each half of the proxies is spread over it, too
    divided.append(
      ("config.values.population", made.values.population, 2 * population)
    )
  trained = _presets(config, made)
  del trained["look.teacher"]  # few methods have one
  for preset in dict.fromkeys(itertools.chain(*trained.values())):
    heads = proxy_model.PRESETS[preset]["heads"]
    divided.append((f"The heads of {preset}", heads, axes[sharding.MODEL]))
  for what, size, parts in divided:
    if size % parts:
      raise UserError(
        f"{what} = {size} must be a multiple of the {parts} devices that share "
        f"it (config.mesh)."
      )


def budget(config: Any, data: prepare.Prepared) -> budgets.Budget:
  """The training that the config's recipe is for, on a prepared corpus."""
  final = proxy_of(config.final.preset, config, data.vocab_size)
  return budgets.make(
    budgets.Plan(**config.budget),
    prepared_tokens=int(data.pool.tokens.pairs_N.sum()),
    parameters=final.num_non_embedding,
  )


def unmatched(
  config: Any, data: prepare.Prepared, *, trained: bool
) -> list[str]:
  """What a person must know of trainings that cannot repeat as the budget does.

  Args:
    config: of the job.
    data: its corpus.
    trained: whether the job has trainings; without them only the pool is told of.
  """
  made, per_step = plans(config), config.batch.rows * config.batch.row_tokens
  lengths = {"trial": made.trial, "final": made.final} if trained else {}
  return budgets.unmatched(
    budget(config, data),
    {
      f"A training of config.{name}": plan.steps * per_step
      for name, plan in lengths.items()
    },
    documents=len(data.pool),
    tokens=int(data.pool.tokens.pairs_N.sum()),
  )


def export_budget(config: Any, data: prepare.Prepared) -> budgets.Budget:
  """The training that an export is for, on a prepared corpus as the whole pool.

  It sees this corpus as often as the config's budget sees its pool, unless
  `export.tokens` says otherwise.
  """
  one, tokens = budget(config, data), int(data.pool.tokens.pairs_N.sum())
  return one._replace(
    tokens=config.export.tokens or max(1, round(one.epochs * tokens)),
    pool_tokens=tokens,
  )


def make_method(name: str, config: Any) -> Method:
  """A method with the options of its config block.

  A scorer that it names is made with those of its own block, or as a variant of the
  config has it.
  """
  from cmtree_jax.jobs import variants  # it asks here what a variant may set

  options = (
    configs.factory_options(name, config[name]) if name in config else {}
  )
  for option in SCORERS:
    scorer = options.get(option, "")
    if scorer in config.variants:
      own = variants.config_of(scorer, config)
      options[option] = make_method(own.method, own)
    elif scorer in METHODS and scorer != name:
      options[option] = make_method(scorer, config)
  try:
    return _made(name, tuple(options.items()))
  except ValueError as error:
    raise UserError(f"config.{name}: {error}") from error


@functools.lru_cache(maxsize=64)
def _made(name: str, options: tuple[tuple[str, Any], ...]) -> Method:
  """One object for equal options: its jitted step is traced once."""
  return METHODS[name].make(**dict(options))


def estimator_options(
  config: Any,
  proxy: proxy_model.ProxyConfig,
  optimizer: optax.GradientTransformation,
  say: Callable[[str], None],
  *,
  steps: int = 0,
) -> dict[str, Any]:
  """Which steps of an unroll are stored, so that they fit the config's memory.

  Args:
    config: of the search.
    proxy: the model.
    optimizer: of its training.
    say: tells a person.
    steps: of the unroll; 0: `values.unroll`.
  """
  steps = steps or config["values"].unroll
  name, budget = (
    config.hypergradient.estimator,
    config.hypergradient.memory_bytes,
  )
  if not HYPERGRADS[name].stores:
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
      num_steps=steps,
      budget_bytes=budget,
    )
  except ValueError as error:
    raise UserError(f"config.hypergradient.memory_bytes: {error}") from error
  say(
    f"Hypergradient: {name}, policy {policy}: {needed / 1e6:,.0f} MB of "
    f"{budget / 1e6:,.0f} MB for an unroll of {steps} steps."
  )
  return {"policy": policy}


def path_options(method: Method, config: Any) -> dict[str, Any]:
  """What a method that values documents asks of the estimator.

  Raises:
    UserError: the estimator does not see the path.
  """
  if not method.along_path:
    return {}
  name = config.hypergradient.estimator
  if not HYPERGRADS[name].follows:
    known = [one for one, made in HYPERGRADS.items() if made.follows]
    raise UserError(
      f"config.hypergradient.estimator = {name!r} sees the targets' loss at the end "
      "of an unroll alone, and a method of this job wants that along the path. "
      f"Those that follow it: {', '.join(known)}."
    )
  return {"along_path": True}


def unroll_cost(config: Any, *, steps: int = 0, **options: Any) -> UnrollCost:
  """Of the config's hypergradient through one unroll, of `values.unroll` steps or so.

  Raises:
    ValueError: the estimator cannot take so many steps.
  """
  estimator = HYPERGRADS[config.hypergradient.estimator]
  return estimator.cost(steps or config["values"].unroll, **options)


def set_plan(config: Any, *, max_tokens: int) -> sets.SetPlan:
  """Frozen sets of so many tokens, in the config's rows."""
  return sets.SetPlan(max_tokens, config.evaluate.rows, config.batch.row_tokens)


def final_mesh(config: Any) -> sharding.Mesh:
  """All devices on one model: those of the population divide its documents."""
  axes = sharding.make_mesh(**config.mesh).shape
  data = axes[sharding.POPULATION] * axes[sharding.DATA]
  return sharding.make_mesh(data=data, model=axes[sharding.MODEL])


def proxy_of(preset: str, config: Any, vocab_size: int):
  """The model of a preset with the config's number format and attention."""
  return proxy_model.from_preset(
    preset,
    vocab_size=vocab_size,
    dtype=config.proxy.dtype,
    attention=config.proxy.attention,
  )


def optimizer_of(config: Any, *, total_steps: int | None):
  """The optimizer block; final runs decay, searching proxies do not."""
  return optim.adamw(total_steps=total_steps, **config.optimizer)


def search_work(name: str, config: Any) -> float:
  """Training rows of a method's search; 0 where it decides how many runs it wants."""
  method, made, rows = (
    make_method(name, config),
    plans(config),
    config.batch.rows,
  )
  if is_online(config):
    return online.work(method, made.online, made.final.steps, rows)
  return {
    "none": lambda: 0.0,
    "look": lambda: look.work(method, made.look, rows),
    "values": lambda: values.work(
      made.values,
      rows,
      unroll_cost(config, **path_options(method, config)),
      targets=max(1, len(config.data.targets)),
    ),
    "steer": lambda: steer.work(method, made.steer, rows),
    "runs": lambda: 0.0,
  }[method.loop]()
