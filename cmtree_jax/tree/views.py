"""Which views of a document a level of the tree cuts by, where there are several.

A view is some columns of the embedding: what a text is about, how it is written. It is
known here by its mask, one in its columns and zero elsewhere.
"""

from collections.abc import Iterable

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.tree.mixture import Sample
from cmtree_jax.tree.model import Theta

Masks = dict[str, shapes.Array]  # [E] for each view; none: nobody asks


def masks(blocks: Iterable[tuple[str, int, int]], width: int) -> Masks:
  """A mask for every view; none where there is only one.

  Args:
    blocks: name, first column and the column after the last one of each.
    width: E.
  """
  column_E = jnp.arange(width)
  found = {
    name: ((start <= column_E) & (column_E < stop)).astype(jnp.float32)
    for name, start, stop in blocks
  }
  return found if len(found) > 1 else {}


def scatter(corpus: Sample) -> shapes.Array:
  """The covariance [E, E] of the features of a sample of the corpus."""
  mass_N = corpus.mass_N / jnp.sum(corpus.mass_N)
  centered_NE = corpus.features - mass_N @ corpus.features
  return jnp.einsum("n,ne,nf->ef", mass_N, centered_NE, centered_NE)


def level_shares(
  theta: Theta, scatter_EE: shapes.Array, views: Masks
) -> dict[str, shapes.Array]:
  r"""Each view's share of what the levels see: name -> shares [levels].

  .. math:: s_{lv} = \frac{\mathrm{tr}(A_{lv} C_v A_{lv}^\top)}
                          {\sum_u \mathrm{tr}(A_{lu} C_u A_{lu}^\top)}

  with :math:`A_{lv}` the columns of level l's angle that are of the view and
  :math:`C_v` the covariance of its features. The features' own spread counts, so that
  columns which hardly differ from document to document, as a constant, are no share
  of a cut. What an encoder adds is made of all views, and is of none here.
  """
  spread_VD = jnp.stack(
    [
      jnp.stack(
        [_spread(level.angle_PE * mask_E, scatter_EE) for level in theta]
      )
      for mask_E in views.values()
    ]
  )
  share_VD = spread_VD / (jnp.sum(spread_VD, axis=0) + 1e-12)
  return dict(zip(views, share_VD, strict=True))


def _spread(angle_PE, scatter_EE):
  return jnp.einsum("pe,ef,pf->", angle_PE, scatter_EE, angle_PE)


def mixing(share_of: dict[str, shapes.Array]) -> shapes.Scalar:
  r"""How far levels are from seeing one view each: 0 if all do, 1 at equal shares.

  .. math:: \frac{1}{D} \sum_l
            \frac{\sum_v \sqrt{s_{lv}} - 1}{\sqrt V - 1}

  A group lasso over the columns of the views, of which each view's norm is taken
  relative to the level's whole: a level normalizes what it projects, so that the scale
  of its angle means nothing and a plain norm could be had for free. The root is smooth
  at zero: what a level does not see decays and never is exactly gone.
  """
  share_VD = jnp.stack(list(share_of.values()))
  root_D = jnp.sum(jnp.sqrt(share_VD + _SMOOTH) - _SMOOTH**0.5, axis=0)
  return (jnp.mean(root_D) - 1) / (len(share_of) ** 0.5 - 1)


_SMOOTH = 1e-4  # of a share; below a hundredth the root is no longer steep


def by_level(share_of: dict[str, shapes.Array]) -> dict[str, shapes.Scalar]:
  """The same shares by names such as "level_1.topic", the root's level first."""
  return {
    f"level_{depth + 1}.{name}": share_D[depth]
    for name, share_D in share_of.items()
    for depth in range(share_D.shape[0])
  }
