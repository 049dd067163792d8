"""Checks of numbers and words, at the door: of a method's factory, or of a plan."""

import math
from collections.abc import Sequence


def one_of(name: str, value: str, known: Sequence[str]) -> None:
  """Raises ValueError for a word that is not known."""
  if value not in known:
    known_words = ", ".join(sorted(known))
    raise ValueError(f"Unknown {name} {value!r}. Known: {known_words}.")


def at_least(least: float, **numbers: float) -> None:
  """Raises ValueError for a number below `least`, NaN too."""
  for name, number in numbers.items():
    if not number >= least:
      raise ValueError(f"{name} = {number} must be at least {least}.")


def above_zero(**numbers: float) -> None:
  """Raises ValueError for a number that is not above zero, NaN too."""
  for name, number in numbers.items():
    if not number > 0:
      raise ValueError(f"{name} = {number} must be above 0.")


def share(**numbers: float) -> None:
  """Raises ValueError for a number that is not from zero to one, NaN too."""
  for name, number in numbers.items():
    if not 0 <= number <= 1:
      raise ValueError(f"{name} = {number} must be from 0 to 1.")


def finite(**numbers: float) -> None:
  """Raises ValueError for infinity and NaN."""
  for name, number in numbers.items():
    if not math.isfinite(number):
      raise ValueError(f"{name} = {number} must be a finite number.")
