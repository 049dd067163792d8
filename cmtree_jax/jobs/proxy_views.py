"""Views of a model, measured for a whole corpus: once per content and proxy.

A proxy trains on the natural pool, as long as those of the loop `look`, and stops in
the middle and at its end, for "trajectory" more often. There it measures every document
of the pool and of the targets; the numbers are whitened and join the columns of the
views of texts, in a prepared folder of their own that shares all other files with the
first.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import processes
from cmtree_jax.data import cache, store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.build.prepare import EMBEDDER_FILE, DocumentSet, Prepared
from cmtree_jax.data.draw import packing
from cmtree_jax.embed import Plan, to_arrays, views, whiten
from cmtree_jax.embed.of_proxy import ProxyEmbedder
from cmtree_jax.jobs import build, search
from cmtree_jax.jobs.job import Job
from cmtree_jax.loops import fleet, look
from cmtree_jax.loops.checkpoint import Checkpointer
from cmtree_jax.methods.base import EqualWeights, Look, Method
from cmtree_jax.proxy import engine
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.proxy.model import ProxyConfig
from cmtree_jax.types import UserError

# Raise it when the folders change, so that old ones are unused.
_FORMAT = 1

_SEED = 0  # of the proxy: one for all seeds of searches
_STAGE = "views"  # folder of the checkpoints in the workdir


def _measured(plan: Plan) -> Method:
  """What the loop `look` reads of a method: a proxy at several ages."""
  return Method(
    init=lambda key, facts: None,
    step=lambda state, signals: (state, None),
    finalize=lambda state: EqualWeights(),
    signals=frozenset(),
    loop="look",
    features=frozenset({"loss_ON", "hidden_ONH"}),
    look=Look(checkpoints=_ages(plan)),
  )


def _ages(plan: Plan) -> int:
  """How often the proxy stops: half of it is always among them, and its end."""
  return plan.trajectory_ages if "trajectory" in plan.of_models else 2


class _Part(NamedTuple):
  """Some documents of a prepared corpus, by the name of their files."""

  name: str
  documents: DocumentSet


# (view, number of the part, rows) -> what the view is made of, [N, F]
Numbers = Callable[[str, int, slice | np.ndarray], np.ndarray]


def added(job: Job, data: Prepared) -> Prepared:
  """The corpus with the views of a model that the config asks for.

  Raises:
    UserError: `config.look` has no end at which the proxy could be looked at, or the
      proxy has fewer layers; or there are several processes, and no views yet.
  """
  plan = build.corpus_plan(job.config).embedding
  if not plan.of_models:
    return data
  try:
    build.plans(job.config).look.ends(_measured(plan).look)
  except ValueError as error:
    raise UserError(f"config.embedding.views: {error}") from error
  layers = _proxy(job.config, data).layers
  if plan.hidden_layers > layers:
    raise UserError(
      f"config.embedding.hidden_layers = {plan.hidden_layers}, but a proxy of "
      f"config.proxy.preset = {job.config.proxy.preset!r} has {layers}."
    )
  folder = build.cache_dir(job.config) / "prepared"
  folder /= _key(job.config, data, plan)
  if processes.any_of(not folder.is_dir()):
    # Processes would train one model in folders of their own.
    processes.require_one(
      "the views of a model (config.embedding.views) are not in config.cache_dir"
    )
  cache.build_once(folder, lambda place: _build(job, data, plan, place))
  made = prepare.load(folder, data.targets, notes=data.notes)
  return made._replace(manifest={**made.manifest, **data.manifest})


def _key(config: Any, data: Prepared, plan: Plan) -> str:
  """A hash of everything that decides what the proxy makes of the documents."""
  return store.key_of(
    _FORMAT,
    data.folder.name,
    plan.of_models,
    plan.hidden_dim,
    plan.sample,
    config.proxy.to_dict(),
    config.batch.to_dict(),
    config.optimizer.to_dict(),
    config.budget.to_dict(),  # decides how large a part of the pool it sees
    config.look.steps,
    config.look.steps_per_call,
    *_later(plan),
  )


def _later(plan: Plan) -> list[dict[str, int]]:
  """Settings of the key that came later; none, where they say what was done before."""
  found = {}
  if "hidden" in plan.of_models and plan.hidden_layers > 1:
    found["hidden_layers"] = plan.hidden_layers
  if "trajectory" in plan.of_models:
    found["trajectory_ages"] = plan.trajectory_ages
  return [found] if found else []


def _build(job: Job, data: Prepared, plan: Plan, place: Path) -> None:
  parts = [_Part("pool", data.pool)] + [
    _Part(f"{name}.{split}", some)
    for name, splits in data.targets.items()
    for split, some in splits.items()
  ]
  with job.session(_STAGE, _SEED) as session:
    cost, flops = _measure(job, data, plan, parts, session)
    numbers = functools.partial(_numbers, session.checkpointer)
    made = _fit(plan, data, numbers, flops)
    for number, part in enumerate(parts):
      _write(place, number, part, made, numbers, len(data.blocks))
  _finish(job, place, data, made, cost)


def _fit(
  plan: Plan, data: Prepared, numbers: Numbers, flops_per_token: float
) -> dict[str, ProxyEmbedder]:
  """Every view, whitened on a sample of the pool that no order changes."""
  chosen_N = np.sort(np.argsort(data.pool.key_N)[: plan.sample])
  made = {}
  for view in plan.of_models:
    dim = plan.hidden_dim if view == "hidden" else None
    fitted = whiten.fit(numbers(view, 0, chosen_N), dim=dim)
    # One for each age.
    passes = {"loss": 2, "trajectory": _ages(plan), "hidden": 1}[view]
    made[view] = ProxyEmbedder(fitted, passes * flops_per_token)
  return made


def _proxy(config: Any, data: Prepared) -> ProxyConfig:
  return build.proxy_of(config.proxy.preset, config, data.vocab_size)


def _measure(
  job: Job,
  data: Prepared,
  plan: Plan,
  parts: Sequence[_Part],
  session: fleet.Session,
) -> tuple[Cost, float]:
  """Trains the proxy and measures all parts; (cost, FLOPs of a pass per token)."""
  config, plans = job.config, build.plans(job.config)
  proxy = _proxy(config, data)
  flops = proxy.flops_per_token(config.batch.row_tokens)
  optimizer = build.optimizer_of(config, total_steps=plans.look.steps)
  made = engine.make(
    proxy,
    optimizer,
    mesh=build.final_mesh(config),
    hidden_layers=plan.hidden_layers,
  )
  world = fleet.World(
    model=fleet.Model(made, flops),
    pool=search.pool_sampler(data, config, seed=_SEED),
    rows=config.batch.rows,
    subpools=search.subpools(data, config),
  )
  # What comes before the search is no part of its progress.
  quiet = session._replace(
    advance=lambda work, text: job.reporter.advance(0, text)
  )
  cost = look.observe(
    _measured(plan),
    None,
    world,
    plans.look,
    quiet,
    models={"proxy": lambda: world.model},
    parts=tuple(one.documents.tokens for one in parts),
  )
  return cost, flops


def _numbers(
  arrays: Checkpointer, view: str, part: int, rows: slice | np.ndarray
) -> np.ndarray:
  """What a view is made of, [N, F], of some documents of a part."""
  if view == "hidden":
    return np.asarray(arrays.array(f"{part}.hidden_ONH")[-1, rows], np.float64)
  loss_ON = np.asarray(arrays.array(f"{part}.loss_ON")[:, rows], float)
  if view == "loss":
    loss_ON = loss_ON[[len(loss_ON) // 2 - 1, -1]]
  # With the last one and all falls, the others would tell nothing.
  return np.stack([loss_ON[-1], *(loss_ON[:-1] - loss_ON[1:])], axis=1)


def _write(
  place: Path,
  number: int,
  part: _Part,
  made: Mapping[str, ProxyEmbedder],
  numbers: Numbers,
  views_before: int,
) -> None:
  """The embedding of some documents, with the new views' columns."""
  before_NE = part.documents.embedding_NE
  width = before_NE.shape[1] + sum(map(_width, made.values()))
  found_NE = store.create_array(
    place / f"{part.name}.embedding_NE.npy",
    np.float32,
    (len(before_NE), width),
  )
  for rows in packing.chunks(len(before_NE), search.CHUNK):
    more = [
      one.whitening(numbers(view, number, rows)) for view, one in made.items()
    ]
    found_NE[rows] = views.side_by_side(
      np.asarray(before_NE[rows]), views_before, more
    )
  found_NE.flush()


def _width(one: ProxyEmbedder) -> int:
  """Columns of a view, its constant among them."""
  return one.whitening.whiten_FG.shape[1] + 1


def _finish(
  job: Job,
  place: Path,
  data: Prepared,
  made: Mapping[str, ProxyEmbedder],
  cost: Cost,
) -> None:
  """The other files: an embedder that knows the views, and what did not change."""
  config = job.config
  base = prepare.load_embedder(
    data.folder / EMBEDDER_FILE, cache_dir=build.cache_dir(config)
  )
  widths = [_width(one) for one in made.values()]
  whole = views.extended(base, data.blocks, made, widths)
  store.save_arrays(place / EMBEDDER_FILE, to_arrays(whole))
  told = {
    "views": list(made),
    "steps": config.look.steps,
    "flops": cost.flops,
    # Of weighing a document that is new.
    "flops_per_token": sum(one.flops_per_token for one in made.values()),
  }
  manifest = {**data.manifest, "proxy_views": told}
  store.write_atomically(place / "manifest.json", store.to_json(manifest))
  for path in sorted(data.folder.rglob("*")):
    other = place / path.relative_to(data.folder)
    same = path.is_file() and path.name != cache.SEAL_FILE
    if same and not other.exists():
      other.parent.mkdir(parents=True, exist_ok=True)
      store.link(path, other)
  job.reporter.say(
    f"Views {', '.join(made)} of a proxy of {config.look.steps} steps: "
    f"{cost.flops:.2g} FLOPs."
  )
