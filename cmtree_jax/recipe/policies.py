"""What a method has learned beside its recipe, as arrays for other jobs to go on with."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmtree_jax.data import mirror, store
from cmtree_jax.types import UserError

FILE = "policy.npz"


def save(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
  """Writes the arrays into a folder; returns the file."""
  folder.mkdir(parents=True, exist_ok=True)
  store.save_arrays(folder / FILE, arrays)
  return folder / FILE


def load(folder: Path | str) -> dict[str, np.ndarray]:
  """The arrays that a job left in its workdir, or that were kept of a search.

  Raises:
    UserError: there are none.
  """
  file = mirror.reading(folder) / FILE
  if not file.is_file():
    raise UserError(
      f"No {FILE} in {folder}. Give the workdir of a job whose method has learned a "
      "policy and that has ended."
    )
  try:
    with np.load(file) as arrays:
      return dict(arrays)
  except Exception as error:  # what damaged arrays raise has no end
    raise UserError(
      f"{file} holds no arrays: {error!r}. Run the job that made it again."
    ) from error


def hand_over(kept: Path, workdir: Path) -> list[Path]:
  """Copies the policy of a search into a workdir, if there is one; returns the files."""
  if not (kept / FILE).is_file():
    return []
  store.write_atomically(workdir / FILE, (kept / FILE).read_bytes())
  return [workdir / FILE]
