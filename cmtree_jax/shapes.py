"""The letters of array shapes, defined once, and the jaxtyping aliases made of them.

B documents or rows of a batch, T tokens of a row, V vocabulary, D model width,
E embedding, P projected embedding, L leaves, K domains, N documents of a corpus
(or of a sample of it), M nodes of a tree's level, C children of a node, H hidden
units of a tree's encoder, S inner steps. ``weight_BT`` is an array [B, T]; scalars and
trees of arrays carry no suffix. Arrays may be numpy's or JAX's.
"""

from typing import Any

import jax
from jaxtyping import Float, Int

Array = Any  # jax.Array or np.ndarray: whatever has a shape and a dtype
Key = jax.Array  # a new-style key: jax.random.key(seed)
Tree = Any  # a pytree of arrays

Scalar = Float[Array, ""]
FloatB = Float[Array, "B"]
FloatL = Float[Array, "L"]
FloatN = Float[Array, "N"]
FloatBE = Float[Array, "B E"]
FloatBL = Float[Array, "B L"]
FloatBT = Float[Array, "B T"]
FloatNE = Float[Array, "N E"]
FloatNL = Float[Array, "N L"]
FloatLE = Float[Array, "L E"]
FloatEH = Float[Array, "E H"]
FloatHE = Float[Array, "H E"]
FloatBTV = Float[Array, "B T V"]
FloatSBT = Float[Array, "S B T"]
IntN = Int[Array, "N"]
IntBT = Int[Array, "B T"]
FloatK = Float[Array, "K"]
FloatPE = Float[Array, "P E"]
FloatM = Float[Array, "M"]
FloatMC = Float[Array, "M C"]
FloatMCP = Float[Array, "M C P"]
