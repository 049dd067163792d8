"""Weighted draws as a Grain dataset: prefetched, divided among processes, resumable.

Every element is one draw of a fixed number of rows. All processes order the same
pieces and read the tokens of their own rows only, so the rows of a draw are the same
for any number of them. An element's state is a cursor, which is no copy of anything;
`state` makes of it the arrays that a checkpoint holds. Set to another cursor, which
may have other weights, an iterator drops what it has prefetched.
"""

from typing import Any

import grain

from cmtree_jax.data.draw.batch import Batch, Rows

AHEAD = 2  # elements that a background thread draws before they are asked for


def batches(
  sampler: Rows,
  start: Any,
  *,
  rows: int,
  share: tuple[int, int] = (0, 1),
) -> grain.IterDataset:
  """An endless dataset of draws.

  Args:
    sampler: what is drawn from.
    start: where its iterators begin, of `sampler.start`.
    rows: how many rows all processes together draw at a time.
    share: (jax.process_index(), jax.process_count()) to get a process's rows:
      from its index on, every count-th.
  Raises:
    ValueError: processes would get different numbers of rows.
  """
  if rows % share[1]:
    raise ValueError(
      f"{rows} rows must be divisible by the {share[1]} processes; try "
      f"{rows // share[1] * share[1] or share[1]}."
    )
  draws = _Draws(sampler, start, rows, share)
  return grain.experimental.ThreadPrefetchIterDataset(
    draws, prefetch_buffer_size=AHEAD
  )


def state(iterator: grain.DatasetIterator) -> Any:
  """What to save: the state after the last element that the iterator gave."""
  return iterator.get_state()["cursor"].state()


class _Draws(grain.IterDataset):
  """One draw after the other, without a thread."""

  def __init__(self, sampler, start, rows, share):
    super().__init__()
    self.sampler, self.start, self.rows, self.share = (
      sampler,
      start,
      rows,
      share,
    )

  def __iter__(self) -> "_DrawsIterator":
    return _DrawsIterator(self)


class _DrawsIterator(grain.DatasetIterator):
  """Holds the place in the draws."""

  def __init__(self, draws: _Draws):
    super().__init__()
    self._draws, self._cursor = draws, draws.start

  def __next__(self) -> Batch:
    draws = self._draws
    self._cursor, batch = draws.sampler.draw(
      self._cursor, draws.rows, share=draws.share
    )
    return batch

  def get_state(self) -> dict[str, Any]:
    return {"cursor": self._cursor}

  def set_state(self, state: dict[str, Any]) -> None:
    self._cursor = state["cursor"]
