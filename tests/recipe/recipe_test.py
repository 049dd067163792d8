"""A recipe on disk that cannot be read says what to do."""

import json

import pytest

from cmtree_jax.recipe import recipe
from cmtree_jax.types import UserError


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("{", "is no JSON"),
    (
      json.dumps({"format": recipe.FORMAT, "budget": {"tokens": 5}}),
      "without pool_tokens, parameters",
    ),
  ],
)
def test_a_damaged_recipe_is_refused(tmp_path, text, words):
  (tmp_path / recipe.FILE).write_text(text)
  with pytest.raises(UserError, match=words):
    recipe.load(tmp_path)
