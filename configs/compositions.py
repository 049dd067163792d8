"""Two skills and their composition: does it matter which is learned first?

python -m experiments.compositions --config compositions:cpu --workdir runs/compositions

The argument is a scale: "toy" (a minute on two cores), "cpu".
"""

from ml_collections import ConfigDict

from cmtree_jax.types import UserError
from configs import compare

# Symbols, documents of each skill and of their composition, lines of a document, seeds.
SIZES = {"toy": (8, 60, 20, 6, 2), "cpu": (64, 900, 450, 12, 5)}


def get_config(argument: str = "cpu"):
  """The comparison; the experiment makes its corpus."""
  if argument not in SIZES:
    raise UserError(
      f"configs/compositions.py wants one of {', '.join(SIZES)}, came {argument!r}."
    )
  symbols, documents, composed, lines, seeds = SIZES[argument]
  config = compare.get_config()
  config.compositions = ConfigDict(
    dict(symbols=symbols, documents=documents, composed=composed, lines=lines)
  )
  config.data.max_overlap = 1.0  # exams are of the same facts
  config.tokenizer.kind = "bytes"
  config.partition.kind = "sources"
  config.compare.targets = ("composed",)
  config.compare.fractions = (1.0,)
  config.compare.natural_multiples = ()
  config.compare.seeds = seeds
  config.compare.noise_repeats = 0
  config.compare.methods = ("ordered_online", "reversed_online")
  config.variants.ordered_online = ("ordered", "online.on=true")
  config.variants.reversed_online = (
    *config.variants.ordered_online,
    "ordered.graph=reversed",
  )
  config.observe.rows = 8
  # Of bytes most of the loss is spelling, which is learned at once.
  config.ordered.rho = 0.97
  config.ordered.latest = 0.6
  config.final.preset = "0.1m"
  config.final.steps = 300
  config.final.steps_per_call = 30
  if argument == "toy":
    config.budget.min_documents = 50
    config.final.steps = 60
  return config
