"""What the beds share: scales, rivals, and what their verdict reads.

Each file here is a bed, `python -m experiments.beds --config beds.b:cpu`. Its docstring
says what similarity must get wrong, what a learner should find, and what would refute
it. Scales are those of configs/claims.py: "toy" on the standard library's text, "cpu"
and "gpu" on the default corpus.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from configs import claims

# Two levels of four, whose angles have a quarter of the embedding's dimensions: with
# all of them every level would cut alike.
TREE = "angles_4x4"
_ANGLE = "cmtree.start.angle_dim=16"
FROZEN = (
  "frozen",
  "ratio_frozen",
)  # the same learner on k-means, on the own start
CRISP = ("crisp_16", "crisp_64", "crisp_256")
# Those that count words see spoiled ones; the last but one knows the embedding alone.
ONE_ANGLE = (
  *(*CRISP, "dsir", "classifier", "classifier_soft"),
  *("classifier_embedding", "betr"),
)
TWO_ANGLES = "perplexity_in_crisp"
UNION = "film_reviews+humaneval+news"


def start(
  argument: str,
  *,
  bed: str,
  targets: str,
  refuted_if: str,
  rivals: Sequence[str],
) -> ConfigDict:
  """A bed's config.

  Args:
    argument: a scale.
    bed: what `config.data.bed` is set to; "": the corpus as it is.
    targets: the set that is searched for, names joined by "+".
    refuted_if: a name in `experiments.verdicts.VERDICTS`.
    rivals: what the verdict compares the tree with; the best of them by validation.
  """
  config = claims.get_config(argument)
  config.data.bed = bed
  config.data.targets = tuple(targets.split("+"))
  config.compare.targets = (targets,)
  config.compare.effective_sample_sizes = ()
  config.variants.update(_variants())
  config.bed = ConfigDict()
  # Trees that are scored by their levels; the first is judged.
  config.bed.trees = (TREE,)
  config.bed.refuted_if = refuted_if
  config.bed.rivals = tuple(rivals)
  # Budgets, in epochs of the corpus, each a comparison of its own; none: that of
  # config.budget alone.
  config.bed.epochs = (0.0,)[:0]
  config.compare.methods = (
    *(TREE, *FROZEN, "random_16", *ONE_ANGLE, TWO_ANGLES),
  )
  return config


def is_toy(argument: str) -> bool:
  """Whether a scale reads the standard library's text."""
  return argument == "toy"


def _variants() -> dict[str, tuple[str, ...]]:
  """Trees of one shape on other partitions, and the hand-made rival."""
  tree = ("cmtree", "cmtree.branching=4,4", _ANGLE)
  frozen = (*tree, "cmtree.mode=frozen")
  return {
    "frozen": (*frozen, "cmtree.start.kind=kmeans"),
    "ratio_frozen": frozen,
    # The best of CRISP's clusters by the loss of a model that went on with the
    # target's text: similarity by one angle, quality by another.
    TWO_ANGLES: (
      *("quota", "quota.scorer=perplexity", "quota.mixture=crisp"),
      *("perplexity.band=low", "perplexity.model=target"),
    ),
  }
