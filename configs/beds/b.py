"""Bed B, spoiled near text: words of half of every source in another order.

python -m experiments.beds --config beds.b:cpu --workdir runs/bed_b

Similarity in the embedding does not see it: a linear classifier on its 64 numbers tells
spoiled from sound at an AUC of .58, with the view "form" at .89; what counts pairs of
words sees it too. A learner should separate both at one level and topics at another.
Refuted if a perplexity filter inside CRISP's clusters does the same. At a tenth of an
epoch: where text is scarcer, spoiled near text is worth more than sound far text.

At .3M parameters and 300 steps: sound documents alone -.047 against natural, the soft
classifier -.299, the tree on topic -.251 (.50 sound) and on topic and form -.255 (.59).
"""

from configs import beds


def get_config(argument: str = "cpu"):
  """The bed at a scale of configs/claims.py."""
  config = beds.start(
    argument,
    bed="spoiled:words:0.5",
    targets="python_topics" if beds.is_toy(argument) else beds.UNION,
    refuted_if="no_better",
    rivals=(beds.TWO_ANGLES,),
  )
  config.budget.epochs = 0.1
  return config
