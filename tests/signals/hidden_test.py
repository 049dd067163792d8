"""Mean hidden states of rows against those of one token at a time."""

import jax
import numpy as np

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.signals import SIGNALS, hidden
from cmtree_jax.signals.base import observe
from tests import toy
from tests.toy import K

VIEW = toy.corpus().view


def by_hand(hidden_BTD, batch):
  """Piece by piece; [rows, D]."""
  means = []
  for h_TD, segment_T, document_T in zip(
    hidden_BTD, batch.segment_BT, batch.document_BT, strict=True
  ):
    mean_D = np.zeros(h_TD.shape[1])
    for segment in np.unique(segment_T[document_T >= 0]):
      piece = np.flatnonzero(segment_T == segment)
      place = 1 + np.arange(len(piece))
      share = len(piece) / (document_T >= 0).sum()
      mean_D += share * (place / place.sum()) @ h_TD[piece]
    means.append(mean_D)
  return np.stack(means)


def test_late_tokens_of_each_piece_weigh_more():
  segment_BT = np.array([[3, 3, 3, 5], [5, 5, -1, -1], [-1, -1, -1, -1]])
  batch = Batch(segment_BT, segment_BT, segment_BT, segment_BT)
  expected_BT = [
    [3 / 4 * 1 / 6, 3 / 4 * 2 / 6, 3 / 4 * 3 / 6, 1 / 4],
    [1 / 3, 2 / 3, 0, 0],
    [0, 0, 0, 0],
  ]
  np.testing.assert_allclose(hidden.late_weights(batch), expected_BT, rtol=1e-6)


def test_states_are_those_of_each_token():
  engine = toy.engine()
  params = engine.init(jax.random.split(jax.random.key(0), 2)).params
  seen = observe(VIEW, engine, params, number=3)
  frozen = VIEW.frozen
  states = np.asarray(engine.hidden(params, frozen))
  found = SIGNALS["late_hidden_KRH"].compute(seen)["late_hidden_KRH"]
  for member in range(2):
    for part in range(K):
      rows = Batch(*(x[part] for x in frozen))
      np.testing.assert_allclose(
        found[member, part],
        by_hand(states[member, part], rows),
        rtol=1e-4,
        atol=1e-5,
      )
  assert (found[:, 3] == 0).all()  # no documents
  assert VIEW.targets is not None
  rows = VIEW.targets.rows(4, VIEW.target_rows)
  states = np.asarray(engine.hidden(params, rows))[0, 0]
  rows = Batch(*(x[0] for x in rows))
  tokens_R = (rows.document_BT >= 0).sum(axis=1)
  name = "target_late_hidden_TH"
  np.testing.assert_allclose(
    SIGNALS[name].compute(seen)[name][0, 0],
    tokens_R @ by_hand(states, rows) / tokens_R.sum(),
    rtol=1e-4,
    atol=1e-5,
  )
