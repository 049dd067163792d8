r"""A differentiable top-down tree: every level cuts the documents by its own angle.

Level l sees :math:`z = \mathrm{normalize}(A_l h)`; each of its nodes has unit
prototypes, one per child, and a document goes to a child with the softmax of
its sharpened cosines. A leaf's probability is the product along its path.

Leaves may score: each then tells its documents apart by a line in the last level's z.
An encoder may come first: all levels then see :math:`h + W_2\,\mathrm{gelu}(W_1 h)`,
and can cut by what no projection of h tells.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import shapes


class Encoder(NamedTuple):
  """What is added to document features, from H hidden units."""

  in_HE: shapes.FloatHE  # W_1
  out_EH: shapes.FloatEH  # W_2; zero at the start, so that nothing is added


class Level(NamedTuple):
  """The parameters of one level with M nodes of C children each."""

  angle_PE: shapes.FloatPE  # the level's projection of the embedding
  prototype_MCP: shapes.FloatMCP  # directions; M is 1 in an oblivious level
  log_kappa: shapes.Scalar  # sharpness of the cut, a logarithm
  tilt_MC: shapes.FloatMC  # log of the weight against the corpus mass
  # Slopes of the leaves' scores; None above the last level, and where none scores.
  score_MCP: shapes.FloatMCP | None = None
  # 1 where a node is split. 0: all its documents go to its first child, and its
  # tilts count for nothing. None: all nodes are split. See `growth`.
  open_M: shapes.FloatM | None = None
  # Of all levels, kept by the root; None below it, and where there is none.
  encoder: Encoder | None = None


# theta: the levels from the root down.
Theta = tuple[Level, ...]


class Placed(NamedTuple):
  """Where documents fall, and what they weigh more there than others do."""

  log_p_BL: shapes.FloatBL
  # What each leaf's score adds to the log of a document's weight; None: all
  # documents of a leaf weigh the same.
  lean_BL: shapes.FloatBL | None = None


def num_leaves(theta: Theta) -> int:
  """The number of leaves, empty ones included."""
  return math.prod(level.tilt_MC.shape[1] for level in theta)


def scores(theta: Theta) -> bool:
  """Whether the leaves score."""
  return theta[-1].score_MCP is not None


def with_scores(theta: Theta, score_P: shapes.Array | float = 0.0) -> Theta:
  """The same tree with leaves that all have one score."""
  last = theta[-1]
  shape = (*last.tilt_MC.shape[-2:], last.angle_PE.shape[0])
  score_MCP = jnp.broadcast_to(jnp.float32(score_P), shape)
  return (*theta[:-1], last._replace(score_MCP=score_MCP))


def one_leaf(theta: Theta) -> Theta:
  """A tree of one leaf without a tilt, in the last level's projection."""
  last = theta[-1]
  leaf = last._replace(
    prototype_MCP=last.prototype_MCP[:1, :1],
    tilt_MC=jnp.zeros((*last.tilt_MC.shape[:-2], 1, 1)),
    encoder=theta[0].encoder,
  )
  return (leaf,)


def with_encoder(theta: Theta, key: shapes.Key, width: int) -> Theta:
  """The same tree with an encoder of so many hidden units, which adds zero.

  Args:
    theta: the tree.
    key: draws what the hidden units see; of unit features each sees about one.
    width: H.
  """
  embedding_dim = theta[0].angle_PE.shape[1]
  in_HE = jax.random.normal(key, (width, embedding_dim))
  encoder = Encoder(in_HE, jnp.zeros((embedding_dim, width)))
  return (theta[0]._replace(encoder=encoder), *theta[1:])


def encoded(theta: Theta, embedding_BE: shapes.FloatBE) -> shapes.FloatBE:
  r"""What the levels project: :math:`h + W_2\,\mathrm{gelu}(W_1 h)`, or h itself."""
  encoder = theta[0].encoder
  if encoder is None:
    return embedding_BE
  hidden_BH = jax.nn.gelu(jnp.einsum("be,he->bh", embedding_BE, encoder.in_HE))
  return embedding_BE + jnp.einsum("bh,eh->be", hidden_BH, encoder.out_EH)


def place(
  theta: Theta,
  embedding_BE: shapes.FloatBE,
  *,
  temperature: float | shapes.Scalar = 1.0,
  key: shapes.Key | None = None,
) -> Placed:
  r"""Where documents fall, and :math:`s_L \cdot z` where the leaves score.

  Args:
    theta: the tree.
    embedding_BE: document features.
    temperature: as in `log_p_leaf`.
    key: as in `log_p_leaf`; a document leans the same way wherever it falls.
  """
  log_p_BL = log_p_leaf(theta, embedding_BE, temperature=temperature, key=key)
  return Placed(log_p_BL, lean(theta, embedding_BE))


def lean(theta: Theta, embedding_BE: shapes.FloatBE) -> shapes.FloatBL | None:
  """What every leaf's score says of documents; None where the leaves do not score."""
  score_MCP = theta[-1].score_MCP
  if score_MCP is None:
    return None
  score_LP = score_MCP.reshape(-1, score_MCP.shape[-1])
  z_BP = project(theta[-1], encoded(theta, embedding_BE))
  return jnp.einsum("bp,lp->bl", z_BP, score_LP)


def log_p_leaf(
  theta: Theta,
  embedding_BE: shapes.FloatBE,
  *,
  temperature: float | shapes.Scalar = 1.0,
  key: shapes.Key | None = None,
) -> shapes.FloatBL:
  r"""Log-probability of every leaf for every document.

  .. math:: \log p(c \mid n, x) = \mathrm{log\,softmax}_c
            \big((\kappa_l \langle z, \mu_{nc} \rangle + G)/\tau\big)

  Args:
    theta: the tree.
    embedding_BE: document features h.
    temperature: :math:`\tau`; the smaller, the harder the cut.
    key: draws the Gumbel noise G; None reads the tree out without noise.
  Returns:
    log_p_BL; from leaf to leaf the child of the last level changes fastest.
  References:
    Jang et al., `Gumbel-softmax <https://arxiv.org/abs/1611.01144>`_, 2016, eq. 2.
  """
  log_p_BL = jnp.zeros((embedding_BE.shape[0], 1))
  seen_BE = encoded(theta, embedding_BE)
  for depth, level in enumerate(theta):
    logits_BMC = child_logits(level, seen_BE)
    nodes, children = log_p_BL.shape[1], logits_BMC.shape[2]
    logits_BMC = jnp.broadcast_to(
      logits_BMC, (logits_BMC.shape[0], nodes, children)
    )
    if key is not None:
      level_key = jax.random.fold_in(key, depth)
      logits_BMC += jax.random.gumbel(level_key, logits_BMC.shape)
    log_child_BMC = jax.nn.log_softmax(logits_BMC / temperature, axis=-1)
    log_p_BL = (log_p_BL[:, :, None] + log_child_BMC).reshape(
      -1, nodes * children
    )
  return log_p_BL


def child_logits(level: Level, seen_BE: shapes.FloatBE):
  """Sharpened cosines [B, M, C] between projected documents and prototypes.

  Args:
    level: of a tree.
    seen_BE: document features, `encoded`.
  """
  z_BP = project(level, seen_BE)
  prototype_MCP = normalize(level.prototype_MCP)
  cosine_BMC = jnp.einsum("bp,mcp->bmc", z_BP, prototype_MCP)
  logits_BMC = jnp.exp(level.log_kappa) * cosine_BMC
  if level.open_M is None:
    return logits_BMC
  first_C = jnp.where(jnp.arange(prototype_MCP.shape[1]) == 0, 0.0, _CLOSED)
  return jnp.where(level.open_M[:, None] > 0, logits_BMC, first_C)


# The logit of a child that no document goes to. Minus infinity would have no gradient.
_CLOSED = -1e9


def project(level: Level, seen_BE: shapes.FloatBE):
  """z: what a level sees of `encoded` documents, unit vectors [B, P]."""
  return normalize(jnp.einsum("be,pe->bp", seen_BE, level.angle_PE))


def straight_through(log_p_BL: shapes.FloatBL) -> shapes.FloatBL:
  """Hard leaf probabilities (one 1 per row) with the gradient of the soft ones."""
  p_BL = jnp.exp(log_p_BL)
  hard_BL = jax.nn.one_hot(jnp.argmax(log_p_BL, axis=-1), p_BL.shape[-1])
  return hard_BL + p_BL - jax.lax.stop_gradient(p_BL)


def normalize(x: shapes.Array) -> shapes.Array:
  """Unit vectors along the last axis; a zero vector stays finite."""
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
