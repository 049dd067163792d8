"""What a job hands over: a partition with weights, applied and exported."""

from cmtree_jax.recipe.recipe import Recipe, load

__all__ = ["Recipe", "load"]
