"""Hashes every byte of a cache that jobs share."""

from pathlib import Path

from cmtree_jax.data import cache
from cmtree_jax.report.screen import printable
from cmtree_jax.types import UserError


def run(folder: Path) -> int:
  """Prints what is damaged and its cure; returns the exit status, 1 if anything is.

  Raises:
    UserError: the folder holds nothing that jobs share.
  """
  found = list(cache.folders(folder))
  if not found:
    raise UserError(
      f"{folder}: wanted a cache, came a folder without one; give config.cache_dir."
    )
  faults = [*filter(None, map(_fault, found))]
  for fault in faults:
    print(printable(fault))
  print(f"{len(found) - len(faults)} of {len(found)} folders are whole.")
  return int(bool(faults))


def _fault(folder: Path) -> str:
  """What is wrong with a folder; "" if nothing is."""
  try:
    cache.check(folder, whole=True)
  except UserError as error:
    return str(error)
  return ""
