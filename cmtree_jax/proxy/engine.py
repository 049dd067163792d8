"""The compiled edge: what the loops call, each traced once per shape.

Everything has a leading axis of members, P: proxies of a population, or the one
model of a final training. `_Member` says what is done with one of them, `members`
compiles it for all. Losses are weighted per token here: the weight of a token is
that of its document, and a step's weights are normalized to sum to one, so that a
batch of heavy documents does not act as a larger learning rate.
"""

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmtree_jax import shapes, sharding
from cmtree_jax.bilevel import HYPERGRADS, population, problem, training, values
from cmtree_jax.bilevel.problem import Hypergradient, Inner, InnerLoss, Problem
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model, optim, splash
from cmtree_jax.proxy.model import Proxy, ProxyConfig

# Where host arrays go: [P, ...] and [P, S, B, ...], with an axis of members;
MEMBERS = PartitionSpec(sharding.POPULATION)
STEPS = PartitionSpec(sharding.POPULATION, None, sharding.DATA)
# [C, B, ...], of which all members see the same; and whole, to every device.
CHUNKS = PartitionSpec(None, sharding.DATA)
WHOLE = PartitionSpec()


class Unroll(NamedTuple):
  """What the hypergradient through some training steps tells."""

  # [P], after the steps; its mean along them where the estimator is so made
  outer_loss: shapes.Array
  value: shapes.Array  # [P, S, B, T], of the tokens of these steps
  adjoint: shapes.Tree


class Statistics(NamedTuple):
  """What the prediction of every token is like."""

  loss_BT: shapes.Array  # nats
  entropy_BT: shapes.Array  # nats
  confidence_BT: shapes.Array  # the largest probability
  error_BT: shapes.Array  # length of (probabilities - one-hot label)
  margin_BT: shapes.Array  # largest probability of another label, less its own
  correct_BT: shapes.Array  # 1 where the label was the likeliest


class Engine(NamedTuple):
  """The work on all members at once; batches and weights are host arrays.

  `unroll` and `cooled` train with a learning rate that falls to zero over their
  steps; the members themselves do not move. `train`, `valued` and `reset` take phi
  over: the one that was passed must not be used again.
  """

  proxy: Proxy
  mesh: Mesh
  optimizer: optax.GradientTransformation
  # keys [P] -> phi
  init: Callable[[shapes.Key], Inner]
  # (phi, keys [P], which [P]) -> phi, those members at the start of a training
  reset: Callable[..., Inner]
  # (phi, batches [P, S, B, T], weights alike, which [P]) -> (phi, loss [P, S]);
  # the other members stay as they are
  train: Callable[..., tuple[Inner, shapes.Array]]
  # (phi, batches, weights, (outer batches [P, C, B, T], weights alike)) -> Unroll
  unroll: Callable[..., Unroll]
  # the same -> (phi, loss [P, S], Unroll): the steps of `train`, which are kept, at
  # their own learning rate, and the hypergradient through them
  valued: Callable[..., tuple[Inner, shapes.Array, Unroll]]
  # (phi, batches, weights) -> params
  cooled: Callable[..., shapes.Tree]
  # (params, adjoint, batches [P, C, B, T]) -> values alike
  probe: Callable[..., shapes.Array]
  # (params, (batches [C, B, T], weights alike)) -> weighted sum of losses [P]
  weighted_nats: Callable[..., shapes.Array]
  # (params, batches [C, B, T]) -> losses [P, C, B, T]
  losses: Callable[..., shapes.Array]
  # the same -> Statistics, of [P, C, B, T]
  statistics: Callable[..., Statistics]
  # the same -> hidden states of the last layers, [P, C, B, T, hidden_width]
  hidden: Callable[..., shapes.Array]
  hidden_width: int


def make(
  config: ProxyConfig,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh | None = None,
  estimator: str = "unrolled",
  options: dict[str, Any] | None = None,
  at_once: int | None = None,
  hidden_layers: int = 1,
) -> Engine:
  """The compiled functions of one model size and optimizer.

  Args:
    config: of the model.
    optimizer: of its training.
    mesh: of `sharding.make_mesh`; P is a multiple of its population axis and B
      of its data axis. None: the first device.
    estimator: name in `HYPERGRADS`.
    options: of the estimator.
    at_once: members that a device works on at the same time; None: as many as pay
      there.
    hidden_layers: how many of the last layers `Engine.hidden` tells of.
  """
  if mesh is None:
    mesh = sharding.make_mesh(data=1)
  if at_once is None:
    at_once = members_at_once(config.num_parameters, devices=mesh.size)
  proxy = Proxy(config)
  run = HYPERGRADS[estimator].run
  hypergradient = functools.partial(run, mesh=mesh, **(options or {}))
  one = _Member(
    proxy,
    proxy_loss.token_losses(proxy),
    optimizer,
    mesh,
    hypergradient,
    estimator=estimator,
    along_path=(options or {}).get("along_path", False),
    hidden_layers=hidden_layers,
  )
  phi = phi_shardings(mesh, jax.eval_shape(one.init, jax.random.key(0)))
  of_all = functools.partial(members, mesh, at_once=at_once)
  return Engine(
    proxy=proxy,
    mesh=mesh,
    optimizer=optimizer,
    init=of_all(one.init, [MEMBERS], out=phi),
    reset=of_all(one.reset, [None, MEMBERS, MEMBERS], out=phi, donate=[0]),
    train=of_all(
      one.train, [None, STEPS, STEPS, MEMBERS], out=(phi, None), donate=[0]
    ),
    unroll=of_all(one.unroll, [None, STEPS, STEPS, STEPS]),
    valued=of_all(
      one.valued,
      [None, STEPS, STEPS, STEPS],
      out=(phi, None, None),
      donate=[0],
    ),
    cooled=of_all(one.cooled, [None, STEPS, STEPS], out=phi.params),
    probe=of_all(one.probe, [None, None, STEPS]),
    weighted_nats=of_all(one.weighted_nats, [None, CHUNKS]),
    losses=of_all(one.losses, [None, CHUNKS]),
    statistics=of_all(one.statistics, [None, CHUNKS]),
    hidden=of_all(one.hidden, [None, CHUNKS]),
    hidden_width=hidden_layers * config.width,
  )


# Parameters of a model whose steps leave an accelerator or the cores of a CPU idle.
SMALL = 2_000_000
_MOST = 16  # members at once on an accelerator; bounds memory


def members_at_once(parameters: int, *, devices: int) -> int:
  """How many members a device works on at the same time.

  On a CPU four small models at once take longer than four in turn; on an accelerator
  a step of one is a row of kernels that are too small for it.

  Args:
    parameters: of the model.
    devices: of its mesh; several do not wait for one small model.
  """
  if jax.default_backend() == "cpu" or devices > 1 or parameters > SMALL:
    return 1
  return _MOST


def members(
  mesh: Mesh,
  function: Callable[..., Any],
  in_specs: Sequence[PartitionSpec | None],
  *,
  out: Any = None,
  donate: Sequence[int] = (),
  at_once: int = 1,
) -> "Program":
  """A function of one member, compiled for all of them.

  Args:
    mesh: where members and batches live.
    function: of what one member has; then of what all members share.
    in_specs: of every argument. None: it is on the mesh, with an axis of members.
      A spec: it is on the host (a tree of arrays is put by one spec), and shared
      unless the spec names the axis of members.
    out: shardings of the results; None leaves them to the compiler.
    donate: positions of arguments whose memory the results take over.
    at_once: members that a device works on at the same time.
  """
  own = sum(x is None or sharding.POPULATION in x for x in in_specs)

  def of_all(*args):
    shared = args[own:]
    one = lambda *mine: function(*mine, *shared)  # noqa: E731
    return population.each(one, mesh, at_once=at_once)(*args[:own])

  of_all.__name__ = (
    function.__name__
  )  # as profiles and compilation logs call it
  compiled = jax.jit(of_all, donate_argnums=donate, out_shardings=out)
  # Threads that train side by side would each compile it. The call returns before
  # the work is done, so that the work itself goes on at the same time.
  return Program(compiled, mesh, tuple(in_specs), threading.Lock())


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A function of all members, compiled at its first call."""

  compiled: Any  # of `jax.jit`
  mesh: Mesh
  in_specs: tuple[PartitionSpec | None, ...]  # as `members` takes them
  lock: Any  # of `threading.Lock`, which is no type before Python 3.13

  def __call__(self, *args: Any) -> Any:
    """Its results; host arrays are put on the mesh."""
    placed = [
      arg if spec is None else sharding.put(arg, self.mesh, spec)
      for arg, spec in zip(args, self.in_specs, strict=True)
    ]
    with self.lock:
      return self.compiled(*placed)

  def lower(self, *args: Any) -> jax.stages.Lowered:
    """The program for arguments of which only shapes are given.

    The devices of the mesh need not be there, so that a machine without any can
    compile for them.

    Args:
      args: trees of `jax.ShapeDtypeStruct`. Those that live on the mesh have a
        sharding; those from the host are given theirs here.
    """
    placed = [
      arg if spec is None else abstract(arg, NamedSharding(self.mesh, spec))
      for arg, spec in zip(args, self.in_specs, strict=True)
    ]
    return self.compiled.lower(*placed)


def abstract(tree: Any, place: Any) -> Any:
  """The shapes of a tree with one sharding for all, or with a tree of them."""
  if isinstance(place, NamedSharding):
    place = jax.tree.map(lambda _: place, tree)  # type: ignore
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    tree,
    place,
  )


class _Member(NamedTuple):
  """What is done with one member; its methods are traced, by `members`."""

  proxy: Proxy
  token_losses: Callable[..., shapes.Array]
  optimizer: optax.GradientTransformation
  mesh: Mesh
  hypergradient: Callable[..., Hypergradient]
  estimator: str  # its name
  along_path: bool  # whether it sums the outer loss over the steps
  hidden_layers: int  # that `hidden` tells of

  def init(self, key):
    params = proxy_loss.init(self.proxy, key)
    return problem.init_inner(params, self.optimizer)

  def reset(self, phi, key, wanted):
    return jax.tree.map(
      lambda old, new: jnp.where(wanted, new, old), phi, self.init(key)
    )

  def train(self, phi, batches, weight_SBT, wanted):
    def go(phi):
      phi, loss_SBT = training.train(
        self.token_losses,
        _normalize(weight_SBT),
        phi,
        batches,
        optimizer=self.optimizer,
        mesh=self.mesh,
      )
      return phi, jnp.mean(loss_SBT, axis=(1, 2))

    def stay(phi):
      return phi, jnp.zeros(weight_SBT.shape[0])

    # A member that waits costs nothing.
    return jax.lax.cond(wanted, go, stay, phi)

  def cooled(self, phi, batches, weight_SBT):
    start, cooling = self._cooldown(phi, batches)
    phi, _ = training.train(
      self.token_losses,
      _normalize(weight_SBT),
      start,
      batches,
      optimizer=cooling,
      mesh=self.mesh,
    )
    return phi.params

  def unroll(self, phi, batches, weight_SBT, outer_batch):
    start, cooling = self._cooldown(phi, batches)
    return self._through(start, cooling, batches, weight_SBT, outer_batch)[1]

  def valued(self, phi, batches, weight_SBT, outer_batch):
    found, unroll = self._through(
      phi, self.optimizer, batches, weight_SBT, outer_batch
    )
    loss_S = jnp.mean(found.inner_loss_S, axis=(1, 2))
    return found.phi_next, loss_S, unroll

  def _through(self, start, optimizer, batches, weight_SBT, outer_batch):
    """The hypergradient through training steps, and what it tells of tokens."""
    if not self.proxy.has_tangents:
      splash.check_estimator(self.estimator)
    rows = weight_SBT.shape[1]
    outer_rows = jax.tree.map(  # [C, B, T] -> [C B, T]
      lambda x: x.reshape(-1, x.shape[-1]), outer_batch
    )
    total = proxy_loss.sum_over_chunks(self.token_losses)
    result = self.hypergradient(
      Problem(
        lambda params, part: total(params, _chunk(part, rows)),
        InnerLoss(
          self.token_losses, lambda weight_SBT, _: _normalize(weight_SBT)
        ),
        weight_SBT,
        start,
        batches,
        outer_rows,
      ),
      optimizer=optimizer,
    )
    if (
      self.along_path
    ):  # a mean over steps has the unit of the loss at their end
      loss, grad_theta, adjoint = jax.tree.map(
        lambda x: x / len(weight_SBT),
        (result.loss, result.grad_theta, result.adjoint),
      )
    else:
      loss, grad_theta, adjoint = (
        result.loss,
        result.grad_theta,
        result.adjoint,
      )
    # A derivative per token of one step becomes one per unit of density over
    # the whole unroll, the unit of `values.probe`.
    unroll = Unroll(loss, -grad_theta * weight_SBT.size, adjoint)
    return result, unroll

  def probe(self, params, adjoint, batches):
    # Its tangent is the value.
    losses = proxy_loss.token_losses(self.proxy.with_tangents)

    def one(params, adjoint, batches):
      probe = functools.partial(values.probe, losses, params, adjoint)
      return jax.lax.map(lambda batch: probe(batch)[1], batches)

    return self._on_documents(one, 2, out=CHUNKS)(params, adjoint, batches)

  def weighted_nats(self, params, weighted):
    def one(params, weighted):
      total = proxy_loss.sum_over_chunks(self.token_losses)
      return jax.lax.psum(total(params, weighted), sharding.DATA)

    return self._on_documents(one, 1, out=WHOLE)(params, weighted)

  def losses(self, params, batches):
    def one(params, batches):
      return jax.lax.map(
        lambda batch: self.token_losses(params, batch), batches
      )

    return self._on_documents(one, 1, out=CHUNKS)(params, batches)

  def statistics(self, params, batches):
    of_batch = proxy_loss.of_logits(self.proxy, _statistics)

    def one(params, batches):
      return jax.lax.map(lambda batch: of_batch(params, batch), batches)

    return self._on_documents(one, 1, out=CHUNKS)(params, batches)

  def hidden(self, params, batches):
    states = proxy_loss.hidden_states(self.proxy, self.hidden_layers)

    def one(params, batches):
      return jax.lax.map(lambda batch: states(params, batch), batches)

    return self._on_documents(one, 1, out=CHUNKS)(params, batches)

  def _cooldown(self, phi, batches):
    """(phi before the first step, the optimizer), for a rate that falls to zero."""
    num_steps = batches.tokens_BT.shape[0]
    start = Inner(phi.params, optim.start_cooldown(phi.opt_state))
    return start, optim.cooldown(self.optimizer, num_steps)

  def _on_documents(self, function, num_whole, *, out):
    """On each device's documents [C, B, T]; the first arguments are whole."""
    return sharding.shard_map(
      function,
      self.mesh,
      axis=sharding.DATA,
      in_specs=(*(WHOLE,) * num_whole, CHUNKS),
      out_specs=out,
    )


def _statistics(logits_BTV, label_BT) -> Statistics:
  top_BT = jnp.max(logits_BTV, axis=-1)
  below_BTV = logits_BTV - top_BT[..., None]
  # Kept, or XLA computes the exponentials anew in every sum: 17 times the time.
  below_BTV, e_BTV = jax.lax.optimization_barrier(
    (below_BTV, jnp.exp(below_BTV))
  )
  z_BT = jnp.sum(e_BTV, axis=-1)
  label_BT1 = label_BT[..., None]
  label_below_BT = jnp.take_along_axis(below_BTV, label_BT1, -1)[..., 0]
  label_p_BT = jnp.exp(label_below_BT) / z_BT
  is_label_BTV = jnp.arange(e_BTV.shape[-1]) == label_BT1
  other_p_BT = jnp.max(jnp.where(is_label_BTV, 0.0, e_BTV), axis=-1) / z_BT
  # |p - y|^2 = |p|^2 - 2 p_y + 1, written so that nothing cancels.
  square_BT = jnp.sum(e_BTV**2, axis=-1) / z_BT**2
  rest_BT = jnp.maximum(square_BT - label_p_BT**2, 0.0)
  return Statistics(
    loss_BT=jnp.log(z_BT) - label_below_BT,
    # A probability that is zero in float32 adds nothing.
    entropy_BT=jnp.log(z_BT) - jnp.sum(e_BTV * below_BTV, axis=-1) / z_BT,
    confidence_BT=1 / z_BT,
    error_BT=jnp.sqrt(rest_BT + (1 - label_p_BT) ** 2),
    margin_BT=other_p_BT - label_p_BT,
    correct_BT=(label_below_BT >= 0).astype(jnp.float32),
  )


def phi_shardings(mesh: Mesh, phi: Inner) -> Inner:
  """Where the arrays of all members' phi live, from the names of its own."""
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, PartitionSpec(*MEMBERS, *spec)),
    model.param_specs(phi),
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )


def _normalize(weight_SBT):
  """Each step's weights to sum to one; one sum over devices for all steps."""
  return weight_SBT / jnp.sum(weight_SBT, axis=(1, 2), keepdims=True)


def _chunk(tree, rows: int):
  """Rows [R, T] as [C, b, T], b the largest divisor of R and `rows` alike."""
  return jax.tree.map(
    lambda x: x.reshape(-1, math.gcd(x.shape[0], rows), x.shape[1]), tree
  )
