"""The final trainings of a comparison, and the frozen evaluation of their models."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import budget as budgets
from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import sampler
from cmtree_jax.data.draw.subpool import Subpools
from cmtree_jax.data.store import SCORED_SPLITS
from cmtree_jax.evaluate import answers, concentration, perplexity, sets
from cmtree_jax.jobs import build, cells, search
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job
from cmtree_jax.loops import final, fleet
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.proxy import engine
from cmtree_jax.proxy.ledger import GRADIENT, Cost
from cmtree_jax.recipe import concentrate


class Training(NamedTuple):
  """What all final trainings share."""

  job: Job
  pool: sampler.Sampler
  mass_N: np.ndarray  # of the pool's documents
  budget: budgets.Budget
  subpools: Subpools
  # By (target, split).
  eval_sets: dict[tuple[str, str], perplexity.EvalSet | answers.AnswerSet]
  model_of: Callable[[str], Any]  # of a preset
  engine_of: Callable[[str, int], engine.Engine]  # of so many steps
  commit: str | None

  @classmethod
  def make(cls, job: Job, data: prepare.Prepared) -> "Training":
    """Samples, frozen evaluation and compiled functions of a corpus."""
    config = job.config
    places = [
      (target, split)
      for target, splits in data.targets.items()
      for split in SCORED_SPLITS
      if len(splits[split])
    ]
    documents = {
      f"{target}, {split}": data.targets[target][split]
      for target, split in places
    }
    eval_sets = sets.scored(
      documents,
      build.set_plan(config, max_tokens=config.evaluate.max_tokens),
      job.reporter.say,
    )

    @functools.cache
    def model_of(preset):
      return build.proxy_of(preset, config, data.vocab_size)

    return cls(
      job=job,
      pool=search.pool_sampler(data, config, seed=0),
      mass_N=data.pool.tokens.mass_N,
      budget=build.budget(config, data),
      subpools=search.subpools(data, config),
      eval_sets=dict(zip(places, eval_sets, strict=True)),
      model_of=model_of,
      engine_of=_engines(config, model_of),
      commit=workdirs.git_commit(),
    )

  def scores(
    self,
    cell: cells.Final,
    places: tuple[cells.Place, ...],
    folder: cells.Folder,
  ) -> dict[str, Any]:
    """Trains on what the cell's search found and scores the model.

    Args:
      cell: says which.
      places: that the model is scored on.
      folder: of the cells; a training in progress keeps its checkpoints there.
    Raises:
      Fault: a loss is not finite.
      Interrupted: after saving.
    """
    config, batch = self.job.config, self.job.config.batch
    plan = build.plans(config).final
    plan = plan._replace(steps=steps_of(config, cell.fraction))
    steps, preset = plan.steps, cell.preset or plan.preset
    log_w_N = self._log_w_N(cell, folder)
    wanted = [one for place in places for one in place.scored.values()]
    self.job.reporter.advance(0, f"final training, {cell.name}")
    flops = self.model_of(preset).flops_per_token(batch.row_tokens)
    job = self.job._replace(workdir=folder.work(cell))
    with job.session("final", cell.seed) as session:
      world = fleet.World(
        fleet.Model(self.engine_of(preset, steps), flops),
        self.pool._replace(seed=1000 + cell.seed),
        batch.rows,
        self.subpools,
      )
      seen = world.subpool(steps, "final", cell.seed)
      found = final.run(
        cell.name,
        seen.weights(np.exp(log_w_N)),
        [self.eval_sets[one] for one in wanted],
        world,
        plan,
        session,
      )
    accuracy = [
      None if np.isnan(one.accuracy) else one.accuracy for one in found
    ]  # JSON has no NaN
    tokens = steps * batch.rows * batch.row_tokens
    return {
      "bpb": _by_place(places, [one.bpb for one in found]),
      "accuracy": _by_place(places, accuracy),
      "tokens": tokens,
      "final_flops": Cost().plus(tokens, GRADIENT, flops).flops,
      "effective_sample_size": concentration.effective_sample_size(
        log_w_N, self.mass_N
      ),
      "commit": self.commit,
    }

  def _log_w_N(self, cell, folder):
    log_w_N = folder.log_w_N(cell.search).astype(np.float64)
    if not cell.share:
      return log_w_N
    return concentrate.to_share(
      DocumentWeights(log_w_N),
      cell.share,
      concentrate.Ground(self.mass_N),
      max_weight=self.budget.max_weight,
    ).log_w_N


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


def _engines(
  config: Any, model_of: Callable[[str], Any]
) -> Callable[[str, int], engine.Engine]:
  """One engine per size and steps: the learning rate decays over its own."""
  mesh = build.final_mesh(config)

  @functools.cache
  def engine_of(preset, steps):
    optimizer = build.optimizer_of(config, total_steps=steps)
    made = engine.make(model_of(preset), optimizer, mesh=mesh)
    if steps == config.final.steps:
      return made
    # What does not depend on the optimizer's steps is compiled once.
    full = engine_of(preset, config.final.steps)
    return made._replace(
      init=full.init, weighted_nats=full.weighted_nats, losses=full.losses
    )

  return engine_of
