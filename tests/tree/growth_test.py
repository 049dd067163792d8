"""Events on planted values: right cuts in the right order, and none without reason."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.tree import cuts, events, growth, mixture, model, room
from cmtree_jax.tree.cuts import Grounds
from cmtree_jax.tree.growth import Limits

DIM, SIZE, PROXIES, ROUNDS = 4, 400, 4, 5
MAX_LEAVES = 4
SEEDS = 100  # of the corpus of one kind, that is never split
FEWER = 20  # of each of the others
RATE = 0.3
START = room.one_leaf(DIM, MAX_LEAVES, kappa=64.0)


class Corpus(NamedTuple):
  """Documents of two languages and two qualities, and what these are worth."""

  language: Any = 0.0  # value of the first
  quality: Any = 0.0  # value of the good ones of the first language
  permuted: Any = 0.0  # 1: in the first round values go along the last feature
  trust: Any = 0.2


# Every seed of every corpus is one row of a single batch, compiled once.
CORPORA = {
  "one_kind": Corpus(),
  "two_levels": Corpus(language=2.0, quality=1.5),
  "permuted": Corpus(permuted=1.0),
  "pruned": Corpus(language=2.0, trust=1.5),
}


def grounds(key, corpus, is_first):
  """A round's documents: the signs of two features are language and quality."""
  key_side, key_x, key_v = jax.random.split(key, 3)
  side_R2 = jnp.sign(jax.random.normal(key_side, (SIZE, 2)))
  x_RE = 0.3 * jax.random.normal(key_x, (SIZE, DIM))
  x_RE = x_RE.at[:, :2].add(side_R2).at[:, 2].add(1.0)
  first_R, good_R = (side_R2 > 0).T
  value_R = corpus.language * first_R + corpus.quality * first_R * good_R
  value_R += jax.random.normal(key_v, (SIZE,))
  value_R -= jnp.mean(value_R)
  along_R = value_R.at[jnp.argsort(x_RE[:, 3])].set(jnp.sort(value_R))
  value_R = jnp.where(corpus.permuted * is_first > 0, along_R, value_R)
  proxy_R = jnp.arange(SIZE) % PROXIES
  return Grounds(
    features_RE=x_RE,
    value_R=value_R,
    fit_R=(proxy_R % 2 == 0) / SIZE,
    judge_R=(proxy_R % 2 == 1) / SIZE,
    proxy_R=proxy_R,
    proxies_P=jnp.arange(PROXIES),
  )


def log_w(theta, new):
  """(log_w_L, log_p_RL): what leaves weigh by the round's documents."""
  log_p_RL = model.log_p_leaf(theta, new.features_RE)
  log_w_L = mixture.weigh(
    mixture.leaf_tilt(theta),
    log_p_RL,
    jnp.full(SIZE, 1 / SIZE),
    max_weight=8.0,
  )
  return log_w_L, log_p_RL


traces = []


def play(key, corpus, state, number):
  """One round of one row: (tree, record), and (event, mean weight, log_w_L)."""
  traces.append(number)
  theta, log = state
  new = grounds(jax.random.fold_in(key, number), corpus, number == 0)
  log = events.measured(log, theta, new)
  limits = Limits(MAX_LEAVES, corpus.trust, RATE, 8.0, 0.0)
  theta, event = growth.event(theta, new, limits)
  log_w_L, log_p_RL = log_w(theta, new)
  weight_R = jnp.exp(mixture.document_log_w(log_p_RL, log_w_L))
  shown = event, jnp.mean(weight_R), jnp.sum(jnp.exp(log_p_RL), axis=1), log_w_L
  return (theta, events.add(log, event, number)), shown


@pytest.fixture(scope="module")
def played():
  """Corpus -> (trees, records, what every round showed), all seeds of each."""
  sizes = [SEEDS] + [FEWER] * (len(CORPORA) - 1)
  ends = np.cumsum(sizes)
  rows = int(ends[-1])
  step = jax.jit(jax.vmap(play, in_axes=(0, 0, 0, None)))
  keys = jax.random.split(jax.random.key(0), rows)
  corpora = Corpus(
    *(
      jnp.repeat(jnp.array(x), jnp.array(sizes), total_repeat_length=rows)
      for x in zip(*CORPORA.values(), strict=True)
    )
  )
  start = START, events.empty(ROUNDS)
  state = jax.tree.map(lambda x: jnp.repeat(x[None], rows, 0), start)
  shown = []
  for number in range(ROUNDS):
    state, one = step(keys, corpora, state, number)
    shown.append(one)
  shown = jax.tree.map(lambda *x: np.stack(x, axis=1), *shown)

  def rows_of(i):
    mine = slice(ends[i] - sizes[i], ends[i])
    return jax.tree.map(lambda x: np.asarray(x[mine]), (*state, shown))

  return {name: rows_of(i) for i, name in enumerate(CORPORA)}


def told(log, row=0):
  branching = [level.tilt_MC.shape[1] for level in START]
  return events.told(jax.tree.map(lambda x: x[row], log), branching)


def test_a_corpus_of_one_kind_is_not_split(played):
  _, _, (event, *_) = played["one_kind"]
  assert np.mean(event.kind == growth.SPLIT) < 0.05


def test_both_cuts_are_found_and_the_greater_first(played):
  theta, _, (event, *_) = played["two_levels"]
  splits = event.kind == growth.SPLIT
  assert splits[:, 0].all()
  second = np.argmax(splits[:, 1:], axis=1) + 1
  depth = event.depth[np.arange(FEWER), second]
  node = event.node[np.arange(FEWER), second]
  # Which child the first language is in follows from its prototypes.
  first = np.argmax(theta[0].prototype_MCP[:, 0, :, 0], axis=1)
  assert np.mean(splits.sum(axis=1) == 2) > 0.9
  right = (depth == 1) & (node == first)
  assert right.mean() > 0.9
  # The root is cut by language, and the first language by quality.
  assert largest(theta[0], 0 * first).tolist() == [0] * FEWER
  assert np.mean(largest(theta[1], first) == 1) > 0.9


def largest(level, node):
  """The feature in which a node's prototypes differ most, in every row."""
  of_node = level.prototype_MCP[np.arange(len(node)), node]
  return np.argmax(np.abs(of_node[:, 1] - of_node[:, 0]), axis=-1)


def test_a_split_by_permuted_values_is_undone(played):
  theta, _, (event, _, _, log_w_L) = played["permuted"]
  assert (event.kind[:, 0] == growth.SPLIT).all()
  leaves = jax.vmap(room.num_open)(theta)
  assert np.mean(np.asarray(leaves) == 1) > 0.9
  # It had moved weights, and they are all one again where it is undone.
  assert np.ptp(log_w_L[:, 0], axis=-1).min() > 0.1
  np.testing.assert_allclose(log_w_L[leaves == 1, -1, 0], 0, atol=1e-5)


def test_a_leaf_that_is_worth_least_is_pruned(played):
  theta, _, (event, _, _, log_w_L) = played["pruned"]
  assert (event.kind[:, 1] == growth.PRUNE).all()
  first = np.argmax(theta[0].prototype_MCP[:, 0, :, 0], axis=1)
  assert (event.node[:, 1] == 1 - first).all()
  places = log_w_L.shape[-1] // 2
  pruned = log_w_L[np.arange(FEWER), 1, (1 - first) * places]
  np.testing.assert_allclose(np.exp(pruned), 0.05, rtol=0.01)


def test_mass_is_one_after_every_event(played):
  for _, _, (_, mean, total_R, _) in played.values():
    np.testing.assert_allclose(mean, 1.0, rtol=1e-5)
    np.testing.assert_allclose(total_R, 1.0, rtol=1e-5)


def test_nothing_is_traced_after_the_first_event(played):
  kinds = np.concatenate([shown[0].kind for *_, shown in played.values()])
  assert set(kinds.ravel()) == {0, growth.SPLIT, growth.FUSE, growth.PRUNE}
  assert len(traces) == 1


def test_what_was_promised_is_measured_on_later_documents(played):
  _, log, _ = played["two_levels"]
  first = [told(log, row)[0] for row in range(FEWER)]
  assert {(one["event"], one["step"], one["node"]) for one in first} == {
    ("split", 0, "")
  }
  assert all(one["rounds"] == ROUNDS - 1 for one in first)
  # Half of the documents are worth 2.75 more in the mean: q (1 - q) 2.75^2.
  measured = np.mean([one["measured"] for one in first])
  np.testing.assert_allclose(measured, 2.75**2 / 4, rtol=0.03)
  promised = np.array([one["promised"] for one in first])
  assert 0.8 * measured < promised.mean() < measured
  # The cut that permuted values had made is worth nothing.
  _, log, _ = played["permuted"]
  fused = [told(log, row)[:2] for row in range(FEWER)]
  worth = [split["measured"] for split, _ in fused if split["rounds"]]
  assert abs(np.mean(worth)) < 0.01
  assert np.mean([fuse["event"] == "fuse" for _, fuse in fused]) > 0.9


def test_children_of_a_split_weigh_what_a_proximal_step_asks_for(played):
  *_, (*_, log_w_L) = played["pruned"]
  places = log_w_L.shape[-1] // 2
  more = np.abs(log_w_L[:, 0, 0] - log_w_L[:, 0, places])
  np.testing.assert_allclose(more.mean(), 2 * RATE, rtol=0.03)


def one_round(seed=0, **corpus):
  return grounds(jax.random.key(seed), Corpus(**corpus), is_first=False)


def test_a_contrast_is_that_of_hard_groups():
  rng = np.random.default_rng(0)
  value_R = rng.normal(size=60)
  second_RM = (np.arange(60) % 3 == 0)[:, None]
  some = Grounds(
    np.zeros((60, 1)),
    jnp.asarray(value_R),
    *(jnp.ones(60),) * 2,
    jnp.zeros(60, int),
    jnp.arange(1),
  )
  found = cuts.contrast(jnp.ones((60, 1)), second_RM * 1.0, jnp.ones(60), some)
  groups = [value_R[np.arange(60) % 3 != 0], value_R[::3]]
  more = groups[1].mean() - groups[0].mean()
  within = sum(((x - x.mean()) ** 2).sum() for x in groups) / 60
  np.testing.assert_allclose(found.more_M, [more], rtol=1e-4)
  np.testing.assert_allclose(found.share_M, [1 / 3], rtol=1e-5)
  np.testing.assert_allclose(found.size_M, [60], rtol=1e-4)
  np.testing.assert_allclose(
    found.between_M, [value_R.var() - within], rtol=1e-3, atol=1e-5
  )
  np.testing.assert_allclose(found.noise_M, [value_R.var() / 60], rtol=1e-4)


def test_proxies_that_disagree_are_noise_that_no_document_averages_out():
  some = one_round()
  second_RM = (some.features_RE[:, :1] > 0) * 1.0
  sign_R = jnp.where(some.proxy_R % 2 == 0, 1.0, -1.0)
  all_R = some.fit_R + some.judge_R
  find = functools.partial(cuts.contrast, jnp.ones((SIZE, 1)), second_RM, all_R)
  opposed = find(some._replace(value_R=sign_R * second_RM[:, 0]))
  agreed = find(some._replace(value_R=second_RM[:, 0]))
  assert opposed.between_M < 0.1 * opposed.noise_M * PROXIES
  # A quarter of the squared error of four numbers, two of 1 and two of -1.
  np.testing.assert_allclose(opposed.noise_M, 0.25 / 3, rtol=0.02)
  assert agreed.noise_M < 0.01 * agreed.between_M


def test_events_taken_back_are_told_and_no_longer_measured():
  zero = jnp.int32(0)
  event = growth.Event(jnp.int32(growth.SPLIT), zero, zero, jnp.float32(1.0))
  log = events.add(events.empty(2), event, jnp.int32(3))
  none = event._replace(kind=jnp.int32(0))
  log = events.add(log, none, jnp.int32(4))
  assert int(log.count) == 1 and not events.is_full(log)
  log = events.undone(log, jnp.int32(3))
  log = jax.jit(events.measured)(log, START, one_round())
  assert told(jax.tree.map(lambda x: x[None], log)) == [
    {
      "event": "split",
      "step": 3,
      "node": "",
      "promised": 1.0,
      "measured": None,
      "rounds": 0,
      "undone": True,
    }
  ]
