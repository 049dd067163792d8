"""A fleet of proxies in training: the one record that every loop drives.

A loop decides what its proxies train on, and when a method is asked. How proxies draw
rows, train, are looked at, are reset and charged is the same for all loops and stands
here once. State goes in and comes out; nothing here remembers anything.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import checks, shapes, sharding
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.data.draw.batch import Batch, stack_rows
from cmtree_jax.data.draw.sampler import Cursor, Sampler, SamplerState
from cmtree_jax.data.draw.subpool import Subpool, Subpools
from cmtree_jax.loops.checkpoint import Checkpointer, StopFlag
from cmtree_jax.methods.base import Weights
from cmtree_jax.methods.reasons import Reasons
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import GRADIENT, Cost
from cmtree_jax.signals import Looked, View, look
from cmtree_jax.types import Fault

Advance = Callable[[float, str], None]  # (work done, what is being done)


class Tell(Protocol):
  """Takes what a loop measures, see `report.metrics`."""

  def __call__(
    self,
    step: int,
    values: Mapping[str, float],
    run: str = "",
    part: str = "",
  ) -> None:
    """Of a step of the session's own run or of a named one, or of a part of it."""


def _nobody(
  step: int, values: Mapping[str, float], run: str = "", part: str = ""
) -> None:
  """Tells nobody."""


class Model(NamedTuple):
  """One size of proxies, compiled."""

  engine: Engine
  flops_per_token: float  # FLOPs of a forward pass, per token
  # Of the hypergradient through an unroll; only the loop `values` takes one.
  unroll_cost: UnrollCost = UnrollCost(0, 0)


class World(NamedTuple):
  """What proxies are, what they train on and what they are looked at with."""

  model: Model
  pool: Sampler
  rows: int  # per training step
  subpools: Subpools  # parts of the pool, one of which a training sees
  # All loops but `final`.
  domain_N: shapes.Array = ()  # int32, of the partition that is given
  targets: Sampler | None = None  # training documents of all targets together
  target_weight_N: shapes.Array = ()  # draws every target equally often
  # Loops `values` and `look`.
  embedding_NE: shapes.Array = ()  # features of the pool's documents
  mass_N: shapes.Array = ()  # their shares of the pool's tokens
  # Loop `values`.
  target_names: tuple[str, ...] = ()
  target_of_N: shapes.Array = ()  # int, the target of each document of `targets`
  target_scale_N: shapes.Array = ()  # bits per byte per nat, of these
  # [C, B, T], and weights of every target in bits per byte, with an axis before.
  validation: tuple[Batch, np.ndarray] | None = None
  # Loops `steer` and `runs`.
  view: View | None = None

  def subpool(self, steps: int, *number: int | str) -> Subpool:
    """What a training of so many steps sees of the pool; see `Subpools.of`."""
    tokens = steps * self.rows * self.pool.row_tokens
    return self.subpools.of(tokens, *number)


class Session(NamedTuple):
  """How a loop is run: from which seed, where it saves, when it stops."""

  seed: int  # seed of the proxies and of the method
  checkpointer: Checkpointer  # no other loop saves there
  stop: StopFlag  # set when the job is asked to stop
  advance: Advance  # told of progress, in training rows
  tell: Tell = _nobody  # told of losses and what else is measured


class Outcome(NamedTuple):
  """What a loop leaves behind."""

  weights: Weights
  cost: Cost = Cost()
  history: tuple[dict[str, Any], ...] = ()  # per round, observation or run
  value_N: np.ndarray | None = None  # mean value of documents; NaN: never asked
  # Weights on the way to the last ones: "start", and after each round that was kept.
  candidates: tuple[tuple[str, Weights], ...] = ()
  reasons: Reasons | None = None  # why documents weigh less, where it is told
  # Arrays that another job may go on with, see `Method.keeps`.
  kept: Mapping[str, np.ndarray] = MappingProxyType({})


class ObservePlan(NamedTuple):
  """What the loops `steer` and `runs` look at; the block `observe`."""

  rows: int = 1  # fresh rows of each domain
  target_rows: int = 16  # fresh rows of each target
  frozen_rows: int = 4  # rows of each domain that stay the same
  max_tokens: int = 10_000  # frozen training tokens per target

  def check(self) -> None:
    """Raises ValueError for a field below one."""
    checks.at_least(1, **self._asdict())


class Fleet(NamedTuple):
  """P proxies in training. All of it is saved, once `settled`."""

  phi: Any  # [P, ...]
  age: np.ndarray  # training steps of each
  number: np.ndarray  # of each, counting all that were ever started
  pool: tuple[SamplerState | Cursor, ...]  # one stream for all, or one for each
  targets: SamplerState | Cursor | None
  cost: np.ndarray  # tokens, FLOPs

  @property
  def stream(self) -> SamplerState:
    """The pool's one stream, as a checkpoint holds it."""
    (stream,) = self.pool
    return settled(stream)

  def settled(self) -> "Fleet":
    """With streams as the arrays that a checkpoint holds."""
    targets = self.targets
    return self._replace(
      pool=tuple(map(settled, self.pool)),
      targets=None if targets is None else settled(targets),
    )

  def charge(self, world: World, rows: int, passes: int) -> "Fleet":
    """With the cost of `passes` forward passes over so many rows."""
    tokens = rows * world.pool.row_tokens
    cost = Cost(*self.cost).plus(tokens, passes, world.model.flops_per_token)
    return self._replace(cost=np.array(cost))


def start(world: World, key_P: shapes.Key, *, streams: int = 1) -> Fleet:
  """Fresh proxies, one per key.

  Args:
    world: what they will train on.
    key_P: random keys of the initial parameters.
    streams: 1, or as many as there are proxies: then each has arrival points of
      documents to itself, the same for all.
  """
  return Fleet(
    phi=world.model.engine.init(key_P),
    age=np.zeros(len(key_P), np.int64),
    number=np.arange(len(key_P)),
    pool=(world.pool.init(),) * streams,
    targets=None if world.targets is None else world.targets.init(),
    cost=np.zeros(2),
  )


def reset(
  fleet: Fleet,
  world: World,
  which_P: np.ndarray,
  key_of: Callable[[np.ndarray], shapes.Key],
) -> Fleet:
  """With fresh proxies in the place of some; a stream of its own begins anew.

  Args:
    fleet: must not be used again.
    world: what they will train on.
    which_P: those that are replaced.
    key_of: numbers [P] -> random keys of the initial parameters.
  """
  number_P = fleet.number.max() + np.cumsum(which_P)
  number_P = np.where(which_P, number_P, fleet.number)
  pool = fleet.pool
  if len(pool) == len(which_P):
    pool = tuple(
      world.pool.init() if new else stream
      for new, stream in zip(which_P, pool, strict=True)
    )
  return fleet._replace(
    phi=world.model.engine.reset(fleet.phi, key_of(number_P), which_P),
    age=np.where(which_P, 0, fleet.age),
    number=number_P,
    pool=pool,
  )


def renew(fleet: Fleet, world: World, key: shapes.Key) -> Fleet:
  """With a fresh proxy in the place of the only one; its stream goes on.

  Args:
    fleet: must not be used again.
    world: what it will train on.
    key: of the first proxy's parameters; every other one has its own from it.
  """
  number_P = fleet.number + 1
  keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(number_P)
  phi = world.model.engine.reset(fleet.phi, keys, np.ones(1, bool))
  return fleet._replace(phi=phi, age=np.zeros_like(fleet.age), number=number_P)


def copy(phi: Any) -> Any:
  """A copy: training donates its argument, so what is kept needs its own memory."""
  return jax.tree.map(jnp.copy, phi)


def take(
  fleet: Fleet,
  world: World,
  weight_N: np.ndarray,
  rows: int,
  *,
  stream: int = 0,
) -> tuple[Fleet, Batch]:
  """The next rows of the pool, drawn by the weights of documents."""
  cursor, batch = draw(world.pool, fleet.pool[stream], weight_N, rows)
  pool = (*fleet.pool[:stream], cursor, *fleet.pool[stream + 1 :])
  return fleet._replace(pool=pool), batch


def take_targets(fleet: Fleet, world: World, rows: int) -> tuple[Fleet, Batch]:
  """The next rows of the targets' training documents."""
  assert world.targets is not None
  assert fleet.targets is not None
  cursor, batch = draw(
    world.targets, fleet.targets, world.target_weight_N, rows
  )
  return fleet._replace(targets=cursor), batch


def draw(
  sampler: Sampler,
  stream: SamplerState | Cursor,
  weight_N: np.ndarray,
  rows: int,
) -> tuple[Cursor, Batch]:
  """The next rows of a stream, by the weights of documents."""
  return sampler.draw(_under(sampler, stream, weight_N), rows)


def settled(stream: SamplerState | Cursor) -> SamplerState:
  """The stream as the arrays that a checkpoint holds."""
  return stream.state() if isinstance(stream, Cursor) else stream


def by_member(drawn: Sequence[Batch | None], rows: int) -> Batch:
  """Rows of every proxy as steps, [P, S, B, T]; zeros for one that is left out."""
  steps = [None if one is None else stack_rows(one, rows) for one in drawn]
  shape = next(one for one in steps if one is not None)
  blank = Batch(*(np.zeros_like(x) for x in shape))
  return Batch(
    *(np.stack(x) for x in zip(*(one or blank for one in steps), strict=True))
  )


def ones(batches: Batch) -> np.ndarray:
  """Weights of tokens that were drawn by weight already; 0 for padding."""
  return (batches.document_BT >= 0).astype(np.float32)


def train(
  fleet: Fleet,
  world: World,
  batches: Batch,
  *,
  weight: np.ndarray | None = None,
  which_P: np.ndarray | None = None,
) -> tuple[Fleet, np.ndarray]:
  """Trains proxies on their own batches: (fleet, losses [P, S]).

  Args:
    fleet: must not be used again.
    world: its engine trains.
    batches: [P, S, B, T].
    weight: weights of the tokens; None: equal ones.
    which_P: the others stay as they are and cost nothing; None: all train.
  """
  if weight is None:
    weight = ones(batches)
  if which_P is None:
    which_P = np.ones(len(fleet.age), bool)
  steps, rows = batches.tokens_BT.shape[1:3]
  # The engine donates phi: the fleet that came in must not be used again.
  phi, loss_PS = world.model.engine.train(fleet.phi, batches, weight, which_P)
  fleet = fleet._replace(phi=phi, age=fleet.age + steps * which_P)
  fleet = fleet.charge(world, int(which_P.sum()) * steps * rows, GRADIENT)
  return fleet, loss_PS


def observe(
  fleet: Fleet,
  world: World,
  wanted: frozenset[str],
  number: int,
  reference: Any = None,
) -> tuple[Fleet, Looked]:
  """What the first proxy shows at observation `number`, charged.

  Args:
    fleet: the proxies.
    world: its view says what is looked at.
    wanted: signals.
    number: equal numbers show equal rows.
    reference: parameters of the reference model, for excess losses.
  """
  assert world.view is not None
  looked = look(
    world.view,
    world.model.engine,
    fleet.phi.params,
    wanted,
    number=number,
    reference=reference,
    flops_per_token=world.model.flops_per_token,
  )
  return fleet._replace(cost=fleet.cost + np.array(looked.cost)), looked


def require_finite(values: Any, what: str, cure: str) -> None:
  """Stops the job at a number that is not finite.

  Raises:
    Fault: `what` happened, and how to cure it.
  """
  if not np.isfinite(sharding.gather(values)).all():
    raise Fault(f"{what} is not finite. {cure}")


def _under(
  sampler: Sampler, stream: SamplerState | Cursor, weight_N: np.ndarray
) -> Cursor:
  """The stream under these weights; a cursor that has them goes on as it is."""
  if isinstance(stream, Cursor):
    if np.array_equal(stream.base.weight_N, weight_N):
      return stream
    stream = stream.state()
  return sampler.start(stream, weight_N)
