"""Reasons of documents: filled in, joined, kept in a file of arrays."""

import numpy as np

from cmtree_jax.methods import reasons

N = 4


def duplicates():
  return reasons.because(
    "cosine {cosine:.3f} to the earlier {other}",
    other_N=np.array([-1, 0, 0, 2]),
    cosine=np.array([0.0, 0.9512, 0.99, 1.0]),
  )


def test_numbers_and_ids_are_filled_in():
  assert duplicates().text(1, {0: "a{b}"}) == "cosine 0.951 to the earlier a{b}"
  np.testing.assert_array_equal(duplicates().others(np.arange(3)), [0])
  np.testing.assert_array_equal(duplicates().others(np.arange(N)), [0, 2])
  # One that is like no other still has its number told.
  assert duplicates().text(0, {}) == "cosine 0.000 to the earlier none"


def test_of_two_reasons_the_first_is_told():
  far = reasons.because("distance {far:.1f}", far=np.arange(N) / 2)
  meant_N = np.array([False, True, False, False])
  both = reasons.first([(meant_N, duplicates()), (np.arange(N) < 3, far)])
  told = [both.text(i, {0: "x"}) for i in range(N)]
  assert told == [
    "distance 0.0",
    "cosine 0.951 to the earlier x",
    "distance 1.0",
    "",
  ]
  np.testing.assert_array_equal(both.others(np.arange(N)), [0])


def test_reasons_are_the_same_after_a_file():
  for one in (duplicates(), reasons.because("{x}", x=np.arange(N))):
    arrays = one.to_arrays() | {"log_w_N": np.zeros(N)}
    assert all(x.dtype != object for x in arrays.values())
    again = reasons.from_arrays(arrays)
    assert again is not None
    ids = {0: "a", 2: "b"}
    assert [again.text(i, ids) for i in range(N)] == [
      one.text(i, ids) for i in range(N)
    ]
  assert reasons.from_arrays({"log_w_N": np.zeros(N)}) is None
