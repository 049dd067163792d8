r"""The training that a recipe is for: its tokens, its pool, and how often a document.

A document of weight w is seen w e times in a training of e epochs of the pool. Every
cap follows from that, and every short training that judges a recipe sees a part of
the corpus so small that it repeats documents as often (`data/draw/subpool.py`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import checks


class Plan(NamedTuple):
  """What is known of the training that the recipe is for; the block `budget`."""

  # Of that training, as `config.tokenizer` counts; 0: `epochs` of the pool.
  tokens: int = 0
  epochs: float = 1.0  # of the pool, read where `tokens` is 0
  # Tokens of the pool that it will draw from; 0: those prepared, over sample_share.
  # With it, both may be those of any tokenizer: caps follow from their ratio.
  pool_tokens: int = 0
  sample_share: float = 1.0  # share of that pool that is prepared here
  parameters: int = (
    0  # of that model, less embeddings; 0: those of final.preset
  )
  max_epochs: float = 4.0  # looks at one document, at most (Muennighoff 2023)
  # R*: n looks at a document are worth R* (1 - exp(-n / R*)) looks at fresh ones
  # (Muennighoff et al. 2023, 2305.16264, eq. 5).
  r_star: float = 15.0
  # A short training sees at least so many documents, though it then repeats them
  # less often than the real one.
  min_documents: int = 400

  def check(self) -> None:
    """Raises ValueError for a field out of its range, or two that contradict."""
    checks.at_least(
      0,
      tokens=self.tokens,
      pool_tokens=self.pool_tokens,
      parameters=self.parameters,
    )
    checks.at_least(1, min_documents=self.min_documents)
    numbers = {
      name: getattr(self, name)
      for name in ("epochs", "sample_share", "max_epochs", "r_star")
    }
    checks.finite(**numbers)
    checks.above_zero(**numbers)
    checks.share(sample_share=self.sample_share)
    if self.tokens and self.epochs != Plan().epochs:
      raise ValueError(
        f"tokens = {self.tokens} and epochs = {self.epochs} both say how long the "
        "training is; set one of them."
      )
    if self.pool_tokens and self.sample_share != 1:
      raise ValueError(
        f"pool_tokens = {self.pool_tokens} and sample_share = {self.sample_share} "
        "both say how large the pool is; set one of them."
      )


class Budget(NamedTuple):
  """A plan on a corpus that is prepared."""

  tokens: int
  pool_tokens: int
  parameters: int
  max_epochs: float
  r_star: float
  min_documents: int

  @property
  def epochs(self) -> float:
    """How often the training sees the pool."""
    return self.tokens / self.pool_tokens

  @property
  def max_weight(self) -> float:
    """R: the weight whose documents are seen `max_epochs` times; at least one."""
    return max(1.0, self.max_epochs / self.epochs)

  def to_json(self) -> dict[str, Any]:
    """Its part of recipe.json and of an export's manifest."""
    return {
      **self._asdict(),
      "epochs": self.epochs,
      "max_weight": self.max_weight,
    }

  def text(self) -> str:
    """One line for a person."""
    line = (
      f"Budget: {self.tokens:,} tokens for {self.parameters:,} parameters, "
      f"{in_epochs(self.epochs)} of a pool of {self.pool_tokens:,}; "
    )
    if self.max_weight > 1:
      return line + (
        f"no document more than {self.max_epochs:g} times (weights up to "
        f"{self.max_weight:.4g})."
      )
    return line + (
      "the natural mixture alone repeats documents as often as config.budget."
      f"max_epochs = {self.max_epochs:g} allows, or more: no recipe may differ from it."
    )


def in_epochs(number: float) -> str:
  """As a person reads it.

  >>> in_epochs(1.0), in_epochs(0.25)
  ('1 epoch', '0.25 epochs')
  """
  return f"{number:.3g} epoch" + "s" * (f"{number:.3g}" != "1")


def make(plan: Plan, *, prepared_tokens: int, parameters: int) -> Budget:
  """The budget of a plan.

  Args:
    plan: checked.
    prepared_tokens: tokens of the corpus that is prepared.
    parameters: of the final model, where the plan names none.
  """
  pool = plan.pool_tokens or round(prepared_tokens / plan.sample_share)
  return Budget(
    tokens=plan.tokens or max(1, round(plan.epochs * pool)),
    pool_tokens=pool,
    parameters=plan.parameters or parameters,
    max_epochs=plan.max_epochs,
    r_star=plan.r_star,
    min_documents=plan.min_documents,
  )


def unmatched(
  budget: Budget, lengths: Mapping[str, int], *, documents: int, tokens: int
) -> list[str]:
  """Sentences on what does not repeat documents as the budget does.

  Args:
    budget: of the real training.
    lengths: name of a short training -> its tokens.
    documents: of the corpus that is prepared.
    tokens: of that corpus.
  """
  told = []
  if budget.pool_tokens < tokens:
    told.append(
      f"The pool of {budget.pool_tokens:,} tokens (config.budget.pool_tokens) is "
      f"smaller than what is prepared of it, {tokens:,}: right only if another "
      "tokenizer counted it."
    )
  for name, length in lengths.items():
    share = length / (budget.epochs * tokens)
    if share > 1:
      told.append(
        f"{name} has {length:,} tokens, {in_epochs(length / tokens)} of what is "
        f"prepared, where the budget has {budget.epochs:.3g}: it repeats documents "
        "more often. Lower its steps or prepare more."
      )
    elif share * documents < (least := min(budget.min_documents, documents)):
      epochs = length / (tokens * least / documents)
      seen = f"all {documents:,}"
      if least < documents:
        seen = f"{least:,} (config.budget.min_documents)"
      told.append(
        f"{name} has {length:,} tokens, for which about {share * documents:,.0f} "
        f"documents would match the budget; it sees {seen} and repeats them less "
        f"often, about {epochs:.3g} times. Raise its steps."
      )
  return told


def from_json(data: Mapping[str, Any]) -> Budget:
  """Out of recipe.json."""
  return Budget(*(data[name] for name in Budget._fields))


def capped(
  weight_N: np.ndarray, mass_N: np.ndarray, *, max_weight: float
) -> np.ndarray:
  r"""Weights of mean one, none above `max_weight`; the excess goes to the rest.

  .. math:: v_i = \min(R,\, c\, w_i), \qquad \sum_i q_i v_i = \sum_i q_i

  Where all documents of positive weight at the cap do not make the mean, those of
  weight zero share what is left, all alike.

  Args:
    weight_N: w, zero or more, of any scale.
    mass_N: q, zero where a document may not be drawn at all.
    max_weight: R, at least one.
  Returns:
    v, float64; zero where the mass is.

  >>> capped(np.array([6.0, 1.0, 1.0]), np.array([0.25, 0.25, 0.5]), max_weight=2)
  array([2.        , 0.66666667, 0.66666667])
  """
  w_N = np.where(mass_N > 0, np.asarray(weight_N, np.float64), 0.0)
  w_N /= max(w_N.max(), np.finfo(float).tiny)  # sums must not underflow
  q_N = mass_N / mass_N.sum()
  positive_N = w_N > 0
  full = max_weight * q_N[positive_N].sum()
  if full <= 1 + _ROUNDING:
    left = max(0.0, 1 - full)
    others_N = (mass_N > 0) & ~positive_N
    share = left / q_N[others_N].sum() if others_N.any() else 0.0
    # Rounding alone can put the share above the cap.
    return np.where(positive_N, max_weight, min(share, max_weight) * others_N)
  order_N = np.argsort(-w_N, kind="stable")
  q_O, w_O = q_N[order_N], w_N[order_N]
  # With the k heaviest at the cap, the others share what is left.
  left_O = 1 - max_weight * (np.cumsum(q_O) - q_O)
  rest_O = np.cumsum((q_O * w_O)[::-1])[::-1]
  with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
    scale_O = left_O / rest_O
    fits_O = (left_O > 0) & (scale_O * w_O <= max_weight)
  return np.minimum(scale_O[np.argmax(fits_O)] * w_N, max_weight)


# Sums of masses differ by so much with their order; below it no weight would fit.
_ROUNDING = 1e-9
