"""Answers on a real corpus: rows that hold whole questions, sizes and token budgets.

python -m experiments.answers --config answers:cpu,FOLDER --workdir runs/answers

The argument is a scale of configs/claims.py and a folder as configs/bench.py takes it.
Natural alone, unless --config.compare.methods names more; it searches nothing, so one
seed is no claim of a search. 1.6m and 4m at 1,200 steps and all test questions
(--config.evaluate.max_tokens=1000000) take half an hour of one core, 4m at 4,800 steps
an hour; none leaves chance on any of the six tasks with choices.
"""

from cmtree_jax.types import UserError
from configs import claims

# Tasks of the folder that have answers; the first six have choices.
TARGETS = (
  *("openstax_psychology", "openstax_anatomy", "arc_easy", "openbookqa"),
  *("commonsense_qa", "gsm8k_mc", "gsm8k", "lambada", "mbpp>humaneval"),
)
# (first size, larger ones, steps at the full budget)
SIZES = {
  "cpu": ("0.4m", ("1.6m", "4m"), 1200),
  "gpu": ("4m", ("25m", "125m"), 4500),
}


def get_config(argument: str = "cpu"):
  """A comparison of natural with itself, unless methods are named."""
  scale, _, folder = argument.partition(",")
  if scale not in SIZES or not folder:
    raise UserError(
      "configs/answers.py wants a scale and a folder, answers:cpu,FOLDER or "
      f"answers:gpu,FOLDER, came {argument!r}."
    )
  config = claims.get_config(argument)
  config.final.preset, config.compare.final_presets, config.final.steps = SIZES[
    scale
  ]
  config.compare.targets = TARGETS
  config.data.targets = tuple(
    dict.fromkeys(t for name in TARGETS for t in name.split(">"))
  )
  config.compare.fractions = (0.1, 0.3, 1.0)
  # For natural nothing is searched; methods that are named want more seeds.
  config.compare.seeds = config.compare.search_seeds = 1
  config.optimizer.learning_rate = 5e-3 if scale == "cpu" else 3e-3
  config.batch.row_tokens = 256  # 99 of 100 prompts with their choices
  config.evaluate.max_tokens = 100_000 if scale == "cpu" else 2_000_000
  config.evaluate.rows = 32
  return config
