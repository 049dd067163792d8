"""Final trainings and trials of a comparison, and the frozen sets that score them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import bundles, sampler
from cmtree_jax.data.draw.batch import Rows
from cmtree_jax.data.draw.subpool import Subpool, Subpools
from cmtree_jax.evaluate import answers, perplexity, sets
from cmtree_jax.evaluate.concentration import effective_sample_size
from cmtree_jax.jobs import build, cells, search, side_by_side
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.cells import Final, Folder, Place, Trial
from cmtree_jax.jobs.job import Job
from cmtree_jax.jobs.versions import Versions
from cmtree_jax.loops import final, fleet
from cmtree_jax.proxy import engine
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, Cost
from cmtree_jax.recipe import trained

EvalSet = perplexity.EvalSet | answers.AnswerSet


class Training(NamedTuple):
  """What all trainings of a job share."""

  job: Job
  pool: sampler.Sampler
  subpools: Subpools
  versions: Versions
  # Of a target, a split and so many tokens; made when it is first asked for, so that
  # what is not scored on the test split does not read it.
  eval_set_of: Callable[[str, str, int], EvalSet]
  model_of: Callable[[str], Any]  # of a preset
  engine_of: Callable[[str, int], engine.Engine]  # of so many steps
  commit: str | None

  @classmethod
  def make(cls, job: Job, data: prepare.Prepared, folder: Folder) -> "Training":
    """Samples, frozen evaluation and compiled functions of a corpus."""
    config = job.config

    @side_by_side.once
    def eval_set_of(target, split, max_tokens):
      (made,) = sets.scored(
        {f"{target}, {split}": data.targets[target][split]},
        build.set_plan(config, max_tokens=max_tokens),
        job.reporter.say,
      )
      return made

    @side_by_side.once
    def model_of(preset):
      return build.proxy_of(preset, config, data.vocab_size)

    max_weight = build.budget(config, data).max_weight
    return cls(
      job=job,
      pool=search.pool_sampler(data, config, seed=0),
      subpools=search.subpools(data, config),
      versions=Versions.make(data, folder, max_weight=max_weight),
      eval_set_of=eval_set_of,
      model_of=model_of,
      engine_of=_engines(config, model_of),
      commit=workdirs.git_commit(),
    )

  def train(
    self,
    todo: Iterable[Trial | Final],
    plan: cells.Plan,
    folder: Folder,
  ) -> None:
    """Does trainings, some side by side on a CPU, and saves what they were scored.

    Args:
      todo: trials and final trainings; those that are done already stay so.
      plan: says what their models are scored on.
      folder: of the cells; a training in progress keeps its checkpoints there.
    Raises:
      Fault: a loss is not finite.
      Interrupted: after saving.
    """
    left = [
      cell
      for cell in dict.fromkeys(todo)
      if not is_done(cell, plan.places_of(cell.search), folder)
    ]
    if not left:
      return
    mine = [cell for cell in left if cell.search.method in plan.online]
    for cell in mine:
      places = plan.places_of(cell.search)
      folder.save_scored(cell, self._online(cell, places, folder))
    left = [cell for cell in left if cell not in mine]
    if not left:
      return

    def alike(cell: Trial | Final) -> Any:
      fraction = cell.fraction if isinstance(cell, Final) else None
      places = plan.places_of(cell.search)
      return type(cell), self._preset(cell), fraction, places

    def one(group: Sequence[Trial | Final]) -> None:
      places = plan.places_of(group[0].search)
      train = self._trials if isinstance(group[0], Trial) else self._finals
      scores = train(group, places, folder)
      for cell, facts in zip(group, scores, strict=True):
        folder.save_scored(cell, facts)

    presets = {self._preset(cell) for cell in left}
    size = max(self.model_of(one).num_parameters for one in presets)
    devices = build.final_mesh(self.job.config).size
    most = min(map(self.at_once, presets))
    side_by_side.run(
      side_by_side.groups(left, alike, most=most),
      one,
      at_once=side_by_side.at_once(size, devices=devices),
      stop=self.job.stop,
    )

  def at_once(self, preset: str) -> int:
    """Models of a size that one program trains."""
    return engine.members_at_once(
      self.model_of(preset).num_parameters,
      devices=build.final_mesh(self.job.config).size,
    )

  def _preset(self, cell: Trial | Final) -> str:
    """The size of a cell's model."""
    plans = build.plans(self.job.config)
    if isinstance(cell, Trial):
      return plans.trial.preset
    return cell.preset or plans.final.preset

  def _finals(
    self, group: Sequence[Any], places: tuple[Place, ...], folder: Folder
  ) -> Iterator[dict[str, Any]]:
    config, cell = self.job.config, group[0]
    plan = build.plans(config).final
    plan = plan._replace(
      steps=steps_of(config, cell.fraction), preset=self._preset(cell)
    )
    wanted = _wanted(places, config)
    for found, facts in self._run(group, plan, wanted, folder):
      yield _scored(places, found, facts)

  def _online(
    self, cell: Any, places: tuple[Place, ...], folder: Folder
  ) -> dict[str, Any]:
    """Scores the model that the run of a seed has left."""
    config, plan = self.job.config, build.plans(self.job.config).final
    model = trained.load(folder.kept(cell.search))
    found = final.scores(
      self.engine_of(plan.preset, plan.steps),
      jax.tree.map(lambda x: x[None], model.params),
      [self.eval_set_of(*one) for one in _wanted(places, config)],
    )
    log_w_N = folder.log_w_N(cell.search).astype(np.float64)
    mass_N = self.versions.data.pool.tokens.mass_N
    share = effective_sample_size(log_w_N, mass_N)
    facts = self._facts(plan) | {"effective_sample_size": share}
    return _scored(places, found[0], facts)

  def _trials(
    self, group: Sequence[Any], places: tuple[Place, ...], folder: Folder
  ) -> Iterator[dict[str, Any]]:
    plan = build.plans(self.job.config).trial
    names = trial_targets(places)
    wanted = [(name, "validation", plan.max_tokens) for name in names]
    # What a trial is scored on is a part of its cost: it is no evaluation.
    model = self.model_of(plan.preset)
    row_tokens = self.job.config.batch.row_tokens
    tokens = sum(
      self.eval_set_of(*one).batches.tokens_BT.size for one in wanted
    )
    for found, facts in self._run(group, plan.training, wanted, folder):
      cost = Cost(facts["tokens"], facts["flops"]).plus(
        tokens, FORWARD, model.flops_per_token(row_tokens)
      )
      bpb = [one.bpb for one in found]
      yield {
        **facts,
        "bpb": dict(zip(names, bpb, strict=True)),
        "tokens": cost.tokens,
        "flops": cost.flops,
      }

  def _run(
    self,
    group: Sequence[Trial | Final],
    plan: final.Plan,
    wanted: list[tuple[str, str, int]],
    folder: Folder,
  ) -> Iterator[tuple[list[answers.Score], dict[str, Any]]]:
    """Trains and scores models: (a score of each set, facts of the training)."""
    kind = type(group[0]).__name__.lower()
    batch, row_tokens = self.job.config.batch, self.pool.row_tokens
    flops = self.model_of(plan.preset).flops_per_token(row_tokens)
    words = {"trial": "trial", "final": "final training"}
    more = f" and {len(group) - 1} more" * (len(group) > 1)
    self.job.reporter.advance(0, f"{words[kind]}, {group[0].name}{more}")
    world = fleet.World(
      fleet.Model(self.engine_of(plan.preset, plan.steps), flops),
      self.pool,
      batch.rows,
      self.subpools,
    )
    mass_N, models, kept = self.versions.data.pool.tokens.mass_N, [], []
    for cell in group:
      log_w_N = self.versions.log_w_N(cell.search, cell.version)
      kept.append(effective_sample_size(log_w_N, mass_N))
      pool, seen = self._drawn(cell, world, plan.steps, kind)
      weight_N = seen.weights(np.exp(log_w_N))
      models.append(final.Model(cell.name, cell.seed, pool, weight_N))
    job = self.job._replace(workdir=folder.work(*group))
    with job.session(kind, group[0].seed) as session:
      found = final.run(
        models,
        [self.eval_set_of(*one) for one in wanted],
        world,
        plan,
        session,
        places=self.at_once(plan.preset),
      )
    for scores, share in zip(found, kept, strict=True):
      yield scores, self._facts(plan) | {"effective_sample_size": share}

  def _drawn(
    self, cell: Trial | Final, world: fleet.World, steps: int, kind: str
  ) -> tuple[Rows, Subpool]:
    """What a training draws rows from, and the part of the pool that it sees."""
    pool = self.pool._replace(seed=1000 + cell.seed)
    path = self.versions.path(cell.search)
    if path is None:
      return pool, world.subpool(steps, kind, cell.seed)
    subpools = self.subpools
    unit_N = bundles.units(
      path.place_N,
      subpools.key_N,
      subpools.pairs_N,
      row_tokens=pool.row_tokens,
    )
    world = world._replace(subpools=subpools._replace(unit_N=unit_N))
    seen = world.subpool(steps, kind, cell.seed)
    course = bundles.course(steps * world.rows, seen)
    return (
      bundles.make(pool, path.place_N, unit_N, course, shuffled=path.shuffled),
      seen,
    )

  def _facts(self, plan: final.Plan) -> dict[str, Any]:
    """What all trainings of a plan share."""
    row_tokens = self.pool.row_tokens
    tokens = plan.steps * self.job.config.batch.rows * row_tokens
    flops = self.model_of(plan.preset).flops_per_token(row_tokens)
    return {
      "tokens": tokens,
      "flops": Cost().plus(tokens, GRADIENT, flops).flops,
      "commit": self.commit,
    }


def is_done(
  cell: Trial | Final, places: tuple[Place, ...], folder: Folder
) -> bool:
  """Whether a training has been scored on all that is wanted of it."""
  names = (
    trial_targets(places)
    if isinstance(cell, Trial)
    else tuple(place.name for place in places)
  )
  return folder.scored(cell, names) is not None


def trial_targets(places: Iterable[Place]) -> tuple[str, ...]:
  """Targets that trials are scored on: those that drive the search."""
  return tuple(
    dict.fromkeys(one.searched for one in places if not one.only_tested)
  )


def _wanted(
  places: tuple[Place, ...], config: Any
) -> list[tuple[str, str, int]]:
  """(target, split, tokens) of all that a final model is scored on."""
  return [
    (*one, config.evaluate.max_tokens)
    for place in places
    for one in place.scored.values()
  ]


def _scored(
  places: tuple[Place, ...],
  found: Sequence[answers.Score],
  facts: dict[str, Any],
) -> dict[str, Any]:
  """What the file of a final training says."""
  accuracy = [
    None if np.isnan(one.accuracy) else one.accuracy for one in found
  ]  # JSON has no NaN
  return {
    "bpb": _by_place(places, [one.bpb for one in found]),
    "accuracy": _by_place(places, accuracy),
    **_questions(places, found),
    "final_flops": facts["flops"],
    **{name: value for name, value in facts.items() if name != "flops"},
  }


def steps_of(config: Any, fraction: float) -> int:
  """Training steps at a share of the token budget."""
  return round(config.final.steps * fraction)


def _by_place(
  places: tuple[cells.Place, ...], values: list[Any]
) -> dict[str, dict[str, Any]]:
  """Place -> split -> value."""
  found = iter(values)
  return {
    place.name: {split: next(found) for split in place.scored}
    for place in places
  }


# Digits after the point of what is kept of single questions: losses are float32.
_DIGITS = 4


def _questions(
  places: tuple[Place, ...], found: Sequence[answers.Score]
) -> dict[str, Any]:
  """What was made of single questions, in the order of their sets, where there are."""
  kept = _by_place(places, [_answered(one.answered) for one in found])
  asked = {
    name: {split: one for split, one in splits.items() if one is not None}
    for name, splits in kept.items()
  }
  asked = {name: splits for name, splits in asked.items() if splits}
  return {cells.QUESTIONS: asked} if asked else {}


def _answered(one: answers.Answered | None) -> dict[str, Any] | None:
  if one is None:
    return None
  found = {"nats": one.nats_Q.round(_DIGITS).tolist()}
  if not np.isnan(one.won_Q).any():  # JSON has no NaN
    found["won"] = one.won_Q.round(_DIGITS).tolist()
  return found


def _engines(
  config: Any, model_of: Callable[[str], Any]
) -> Callable[[str, int], engine.Engine]:
  """One engine per size and steps: the learning rate decays over its own."""
  mesh = build.final_mesh(config)

  @side_by_side.once
  def engine_of(preset, steps):
    optimizer = build.optimizer_of(config, total_steps=steps)
    made = engine.make(model_of(preset), optimizer, mesh=mesh)
    longest = max(config.final.steps, config.trial.steps)
    if steps == longest:
      return made
    # What does not depend on the optimizer's steps is compiled once.
    full = engine_of(preset, longest)
    return made._replace(init=full.init, losses=full.losses)

  return engine_of
