"""Pieces and rows: every pair once, in its document, with padding at the end."""

import collections
import itertools

import numpy as np
import pytest

from cmtree_jax.data.draw import packing

END = 0
LENGTHS = (3, 0, 17, 7, 8, 1, 30, 15, 2)  # 7 and 15 fill rows of 8 pairs


@pytest.fixture
def documents():
  rng = np.random.default_rng(0)
  return [rng.integers(1, 50, length) for length in LENGTHS]


@pytest.fixture
def tokens(documents):
  return packing.store(documents, [7 * n for n in LENGTHS], end_of_text=END)


def spans(tokens, pieces):
  """(start, length) of every piece."""
  return packing.span(tokens, pieces, np.arange(len(pieces.document)))


def test_a_store_holds_documents_between_ends_of_text(documents, tokens):
  for number, document in enumerate(documents):
    start, stop = tokens.start_N1[number : number + 2]
    expected = [END, *document.tolist(), END]
    assert tokens.flat[start:stop].tolist() == expected
  assert tokens.pairs_N.tolist() == [n + 1 for n in LENGTHS]
  np.testing.assert_allclose(tokens.mass_N.sum(), 1.0, rtol=1e-15)
  np.testing.assert_allclose(tokens.mass_N[2] / tokens.mass_N[1], 18)


@pytest.mark.parametrize(
  ("largest", "end", "dtype"),
  [
    (2**16 - 1, 0, np.uint16),
    (2**16, 0, np.uint32),
    (5, 2**16, np.uint32),
  ],
)
def test_big_vocabularies_take_four_bytes(largest, end, dtype):
  tokens = packing.store([np.array([1, largest])], [2], end_of_text=end)
  assert tokens.flat.dtype == dtype
  assert tokens.flat.tolist() == [end, 1, largest, end]
  batch = packing.pack(
    tokens, packing.pieces(tokens, 4), np.arange(1), num_rows=1
  )
  assert batch.label_BT[0].tolist() == [1, largest, end, 0]
  assert batch.document_BT[0].tolist() == [0, 0, 0, -1]


def test_joined_stores_are_one(documents, tokens):
  parts = [
    packing.store(documents[a:b], [7 * n for n in LENGTHS[a:b]], end_of_text=0)
    for a, b in ((0, 4), (4, 5), (5, 9))
  ]
  for one, other in zip(packing.join(parts), tokens, strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("row_tokens", [1, 8, 100])
def test_pieces_tile_their_documents(tokens, row_tokens):
  pieces = packing.pieces(tokens, row_tokens)
  start, length = spans(tokens, pieces)
  for number in range(len(LENGTHS)):
    mine = pieces.document == number
    stop = np.append(tokens.start_N1[number], (start + length)[mine])
    np.testing.assert_array_equal(start[mine], stop[:-1])
    assert stop[-1] == tokens.start_N1[number] + tokens.pairs_N[number]
    # Only the last may be short.
    assert (length[mine][:-1] == row_tokens).all()
    assert 1 <= length[mine][-1] <= row_tokens


def test_pieces_are_the_same_however_they_are_chunked(tokens, monkeypatch):
  whole = packing.pieces(tokens, 8)
  original = packing.chunks
  monkeypatch.setattr(packing, "chunks", lambda size: original(size, 2))
  for one, other in zip(packing.pieces(tokens, 8), whole, strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("num_rows", [12, 15])
def test_all_pieces_packed_hold_every_pair_once(documents, tokens, num_rows):
  # 92 pairs in eight columns: half a row of padding, or three rows more.
  pieces = packing.pieces(tokens, 8)
  batch = packing.pack(
    tokens,
    pieces,
    np.arange(len(pieces.document)),
    num_rows=num_rows,
  )
  expected = collections.Counter(
    (number, *pair)
    for number, document in enumerate(documents)
    for pair in itertools.pairwise([END, *document.tolist(), END])
  )
  keep = batch.document_BT >= 0
  found = collections.Counter(
    zip(
      batch.document_BT[keep].tolist(),
      batch.tokens_BT[keep].tolist(),
      batch.label_BT[keep].tolist(),
      strict=True,
    )
  )
  assert found == expected
  padding = ~keep.ravel()
  assert padding.sum() == num_rows * 8 - 92
  assert padding[92:].all()
  assert (batch.segment_BT.ravel()[92:] == -1).all()


def test_a_segment_is_a_piece_in_its_order(tokens):
  pieces = packing.pieces(tokens, 8)
  order = np.random.default_rng(1).permutation(len(pieces.document))
  batch = packing.pack(tokens, pieces, order, num_rows=12)
  segment = batch.segment_BT.ravel()
  found = []
  for number in range(len(order)):
    mine = segment == number
    assert np.diff(np.flatnonzero(mine)).max(initial=1) == 1  # end to end
    (document,) = set(batch.document_BT.ravel()[mine].tolist())
    text = batch.tokens_BT.ravel()[mine]
    after = batch.label_BT.ravel()[mine]
    np.testing.assert_array_equal(text[1:], after[:-1])
    found.append((document, *text.tolist(), int(after[-1])))
  expected = [
    (int(document), *tokens.flat[start : start + length + 1].tolist())
    for document, start, length in zip(
      pieces.document, *spans(tokens, pieces), strict=True
    )
  ]
  assert sorted(found) == sorted(expected)


def test_full_pieces_fill_a_row_each(tokens):
  pieces = packing.pieces(tokens, 8)
  order = np.random.default_rng(1).permutation(len(pieces.document))
  order = np.append(order[order != 0], 0)  # the last is a tail
  batch = packing.pack(tokens, pieces, order, num_rows=12)
  full = int((spans(tokens, pieces)[1] == 8).sum())
  assert full == 9
  for row in batch.segment_BT[:full]:
    assert len(set(row.tolist())) == 1
  # The tails follow without a gap.
  assert (batch.document_BT[full:].ravel()[: 92 - 8 * full] >= 0).all()


@pytest.mark.parametrize("last", [0, 2])
def test_what_does_not_fit_is_cut_off_the_last_piece(tokens, last):
  pieces = packing.pieces(tokens, 8)
  starts, length = spans(tokens, pieces)
  assert length[last] == (4 if last == 0 else 8)  # a tail; a full piece
  first = int(np.flatnonzero(length == 2)[0])
  middle = int(np.flatnonzero(length == 3)[0])
  order = np.array([first, middle, last])
  batch = packing.pack(tokens, pieces, order, num_rows=1)
  expected = pieces.document[np.repeat(order, [2, 3, 3])]
  np.testing.assert_array_equal(batch.document_BT[0], expected)
  start = starts[last]
  np.testing.assert_array_equal(
    batch.tokens_BT[0, 5:], tokens.flat[start : start + 3]
  )


def test_a_piece_may_be_drawn_twice(tokens):
  pieces = packing.pieces(tokens, 8)
  batch = packing.pack(tokens, pieces, np.array([0, 0]), num_rows=1)
  np.testing.assert_array_equal(batch.tokens_BT[0, :4], batch.tokens_BT[0, 4:])
  assert batch.segment_BT[0].tolist() == [0] * 4 + [1] * 4
  assert (batch.document_BT == 0).all()


def test_chosen_rows_are_those_of_all(tokens):
  pieces = packing.pieces(tokens, 8)
  order = np.random.default_rng(1).permutation(len(pieces.document))
  whole = packing.pack(tokens, pieces, order, num_rows=15)
  rows = np.array([14, 3, 3, 0, 11])  # the last three rows have padding
  part = packing.pack(tokens, pieces, order, num_rows=15, rows=rows)
  for one, other in zip(part, whole, strict=True):
    np.testing.assert_array_equal(one, other[rows])


def test_whole_pieces_are_never_cut():
  tokens = packing.store(
    [np.arange(1, n + 1) for n in (2, 9, 4, 0, 6)], [1] * 5, end_of_text=0
  )
  pieces = packing.pieces(tokens, 8)
  batch = packing.pack_whole(tokens, pieces, np.arange(len(pieces.document)))
  for piece, document in enumerate(pieces.document):
    rows, columns = np.nonzero(batch.segment_BT == piece)
    assert len(set(rows)) == 1  # in one row, and in one stretch of it
    assert (np.diff(columns) == 1).all()
    start, pairs = (
      x[0] for x in packing.span(tokens, pieces, np.array([piece]))
    )
    assert len(columns) == pairs
    place = rows[0], slice(columns[0], columns[-1] + 1)
    np.testing.assert_array_equal(
      batch.tokens_BT[place], tokens.flat[start : start + pairs]
    )
    np.testing.assert_array_equal(
      batch.label_BT[place], tokens.flat[start + 1 : start + pairs + 1]
    )
    assert (batch.document_BT[place] == document).all()
  padding = batch.segment_BT < 0
  assert padding.any()
  assert (batch.document_BT[padding] == -1).all()


def test_rows_that_are_laid_are_the_pieces_end_to_end(documents, tokens):
  pieces = packing.pieces(tokens, 8)
  order = np.array([3, 0, 5, 4, 3, 9])
  start, length = spans(tokens, pieces)
  length = length[order].copy()
  length[1] -= 1  # a piece may be cut
  spelled = np.concatenate(
    [
      tokens.flat[start[piece] : start[piece] + size + 1]
      for piece, size in zip(order, length, strict=True)
    ]
  )
  ends = np.cumsum(length + 1)
  inputs = np.delete(spelled, ends - 1)
  labels = np.delete(spelled, ends - length - 1)
  document = np.repeat(pieces.document[order], length)
  rows = np.array([2, 0])
  batch = packing.lay(tokens, pieces, order, np.cumsum(length), rows=rows)
  whole = np.arange(len(inputs) // 8 * 8).reshape(-1, 8)[rows]
  assert len(whole) == 2
  np.testing.assert_array_equal(batch.tokens_BT, inputs[whole])
  np.testing.assert_array_equal(batch.label_BT, labels[whole])
  np.testing.assert_array_equal(batch.document_BT, document[whole])
  assert (batch.segment_BT == 0).all()
  assert all(x.dtype == np.int32 for x in batch)
