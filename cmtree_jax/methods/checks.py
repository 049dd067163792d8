"""Checks of options, at the door of a method's factory."""

from collections.abc import Sequence


def one_of(name: str, value: str, known: Sequence[str]) -> None:
  """Raises ValueError for a word that is not known."""
  if value not in known:
    known_words = ", ".join(sorted(known))
    raise ValueError(f"Unknown {name} {value!r}. Known: {known_words}.")


def at_least(least: int, **counts: int) -> None:
  """Raises ValueError for a count below `least`."""
  for name, count in counts.items():
    if count < least:
      raise ValueError(f"{name} {count} must be at least {least}.")


def above_zero(**numbers: float) -> None:
  """Raises ValueError for a number that is not above zero, NaN too."""
  for name, number in numbers.items():
    if not number > 0:
      raise ValueError(f"{name} {number} must be above 0.")
