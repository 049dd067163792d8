"""What the experiments on the joint tree share: corpus, sizes, budget and variants.

python -m experiments.joint_against_frozen --config claims:cpu --workdir runs/claims

The argument is a scale and, if wanted, a folder as configs/bench.py takes it:
"toy" (minutes on two cores), "cpu" (hours on two cores), "gpu" (one H100),
"gpu,FOLDER". The final model has four times the FLOPs of the proxy that searches.
Recipes are for one epoch of the corpus; --config.budget.epochs=4 asks for another
budget, in a workdir of its own, for every search and every training follows from it.
"""

from cmtree_jax.types import UserError
from configs import bench, compare

LEAVES = {
  4: "2,2",
  8: "4,2",
  16: "4,4",  # the default tree
  32: "8,4",
  64: "8,8",
}
TARGETS = (
  "news",
  "scripture",
  "python_sympy",
  "film_reviews",
  "humaneval",
  "film_reviews+humaneval+news",
)
BENCH_TARGETS = (
  "arc_easy",
  "openbookqa",
  "gsm8k",
  "openstax_anatomy",
  "mbpp>humaneval",
  "lambada",
)
# The search's size s, the final model's 4 s, and 16 s.
PRESETS = {
  "toy": ("0.1m", "0.4m", "1.6m"),
  "cpu": ("0.1m", "0.4m", "1.6m"),
  "gpu": ("1m", "4m", "25m"),
}

# Searches for one target that cost about 1, 2.5 and 8 % of the FLOPs of the final
# training of a model of 16 s, 600 steps of 16 rows; four proxies cost no less.
# Columns: rounds, min_age, steps_between_rounds, unroll, outer_rows, probe_rows.
BUDGETS = (
  (1, 8, 8, 4, 64, 64),
  (1, 24, 8, 8, 128, 128),
  (2, 40, 20, 16, 256, 256),
)


def get_config(argument: str = "cpu"):
  """A comparison without methods: each experiment names its own."""
  scale, _, folder = argument.partition(",")
  if scale not in PRESETS:
    raise UserError(
      f"configs/claims.py wants one of {', '.join(PRESETS)}, came {scale!r}."
    )
  config = compare.get_config()
  small, final, largest = PRESETS[scale]
  config.proxy.preset, config.final.preset = small, final
  config.compare.final_presets = (largest,)  # for transfer and search_cost
  config.compare.targets = TARGETS
  config.data.targets = TARGETS[:5]
  if folder:
    config.data.update(bench.get_config(folder).data)
    config.data.targets = tuple(
      dict.fromkeys(t for name in BENCH_TARGETS for t in name.split(">"))
    )
    config.compare.targets = BENCH_TARGETS
  # A difference has the direction of the exact one at half its cost
  # (experiments/bench_hypergrad.py).
  config.hypergradient.estimator = "difference"
  config.compare.methods = ()
  # Three searches, and three final trainings on each.
  config.compare.seeds = 9
  config.compare.search_seeds = 3
  config.compare.noise_repeats = 3
  config.final.steps_per_call = (
    30  # divides also a fifth and a quarter of the steps
  )
  _SCALES[scale](config)
  leaves = (4, 16) if scale == "toy" else tuple(LEAVES)
  config.variants.update(
    variants(final, leaves, rounds=config["values"].rounds)
  )
  return config


def _toy(config):
  if config.data.source == ("default",):
    config.data.source = ("stdlib",)
    config.data.targets = ("python_topics",)
    config.compare.targets = config.data.targets
  config.compare.effective_sample_sizes = (0.3,)
  config.compare.seeds = 2
  config.compare.search_seeds = 0  # as many
  config.trial.update(dict(steps=18, steps_per_call=18, exponents=(0.5,)))
  config.compare.noise_repeats = 1
  config.partition.num_clusters = 8
  config.final.steps = 60
  config.final.steps_per_call = 3
  config.budget.min_documents = 100  # about what 60 steps see in one epoch
  config.optimizer.warmup_steps = 10
  config.cmtree.step.solver_steps = 20
  config.tilts.solver_steps = 20
  config.evaluate.max_tokens = 10_000
  config.runs.steps = 21
  config.steer.steps = 20
  config.online.update(
    dict(unroll=4, every=4, outer_rows=32, probe_rows=32, saves=0)
  )
  config["values"].update(
    dict(
      rounds=2,
      population=4,
      max_age=60,
      min_age=20,
      unroll=4,
      lookahead=4,
      outer_rows=64,
      probe_rows=64,
      validation_rows=64,
      sample_documents=2048,
    )
  )


def _cpu(config):
  # 614,400 tokens: at one epoch some 1,300 documents, at four about as many as a
  # sub-pool has at least.
  config.final.steps = 600
  config.budget.min_documents = 300
  config.budget.r_star = 5.3  # as in quickstart.py
  config["values"].rounds = 2
  # Nine events in 600 steps; they cost 30 % of the run, half as much at the default.
  config.online.every = 8


def _gpu(config):
  config.compare.seeds = 15
  config.compare.search_seeds = 5
  config.proxy.dtype = "bfloat16"
  config.batch.rows = 64
  config.batch.row_tokens = 128
  config.evaluate.rows = 64
  config.evaluate.max_tokens = 200_000
  config.final.steps = 300  # a quarter of an epoch of the default corpus
  config.final.steps_per_call = 15
  config.optimizer.learning_rate = 3e-3
  config.optimizer.eps_root = 1e-6  # for a bfloat16 trajectory
  config["values"].update(
    dict(
      max_age=600,
      min_age=150,
      steps_between_rounds=50,
      outer_rows=1024,
    )
  )
  config["values"].probe_rows = 2048
  # As many times the rows of a batch as elsewhere; 10 steps divide 300.
  config.online.update(dict(unroll=10, outer_rows=192, probe_rows=128))


_SCALES = {"toy": _toy, "cpu": _cpu, "gpu": _gpu}


def scoring_variants() -> dict[str, tuple[str, ...]]:
  """Scores without leaves and with them, on the partition's own or on a scorer.

  Beside `joint_16`, which has leaves without scores. All of them have sixteen leaves,
  or one where the name ends in a 1; `offset` alone is the scorer's recipe.
  """
  tree, one = (
    ("cmtree", "cmtree.branching=4,4"),
    ("cmtree", "cmtree.branching=1"),
  )
  scores, offset = "cmtree.scores=true", "cmtree.offset=classifier_soft"
  return {
    "scores_1": (*one, scores),
    "scores_16": (*tree, scores),
    "scores_frozen_16": (*tree, scores, "cmtree.mode=frozen"),
    "offset": (*one, scores, offset, "values.rounds=0"),
    "offset_scores_1": (*one, scores, offset),
    "offset_16": (*tree, offset),
    "offset_scores_16": (*tree, scores, offset),
  }


# Methods that their papers run in the training that they are for, and three policies
# of scheduling.
STEERED = (
  *("rnb", "dga", "ado", "skill_it", "aioli", "doge", "grape"),
  *("ordered", "attention", "hierarchical"),
)


def online_variants() -> dict[str, tuple[str, ...]]:
  """Final trainings that move their own weights; `joint_16` is the tree's search.

  All trees have sixteen leaves and one start, and the step of configs/online.py;
  `online_long` has that of static searches. `online_still` trains on the start to its
  end, without an event.
  """
  long = ("cmtree", "cmtree.branching=4,4", "online.on=true")
  tree = (
    *long,
    "cmtree.step.solver_steps=10",
    "cmtree.step.solver_sample=512",
    "cmtree.replay.size=2048",
  )
  return {
    "online_joint": tree,
    "online_frozen": (*tree, "cmtree.mode=frozen"),
    "online_one_angle": (*tree, "cmtree.projection=shared"),
    "online_often": (*tree, "online.every=4"),
    "online_long": long,
    "online_cooled": (*tree, "online.cooldown=true"),
    # From four leaves; each event may also split, fuse or prune once.
    "online_grown": (
      *tree,
      "cmtree.branching=4",
      "cmtree.grow=true",
      "cmtree.max_leaves=16",
    ),
    "online_still": (*tree, "online.every=1000000"),
    **{f"online_{name}": (name, "online.on=true") for name in STEERED},
  }


def path_variants() -> dict[str, tuple[str, ...]]:
  """What stands beside `associated`: its control, and one that weighs links as well.

  Compare them where a row holds several documents: --config.batch.row_tokens=1024.
  """
  return {
    "associated_shuffled": ("associated", "associated.path=shuffled"),
    "associated_weighted": ("associated", "associated.gamma=1.0"),
  }


def variants(final: str, leaves_of: tuple[int, ...], *, rounds: int):
  """Name -> (method, override, ...): joint and frozen trees, and what ablates them.

  Args:
    final: the preset of size 4 s.
    leaves_of: numbers of leaves.
    rounds: what the usual search has; no variant repeats it under another name.
  """
  found: dict[str, tuple[str, ...]] = {}
  for leaves in leaves_of:
    tree = ("cmtree", f"cmtree.branching={LEAVES[leaves]}")
    frozen = (*tree, "cmtree.mode=frozen")
    found[f"joint_{leaves}"] = tree
    # The k-means sees target and pool together; its tilts come from similarity
    # or, as the joint tree's, from the density ratio. As is usual, `pool` sees the
    # pool alone.
    found[f"frozen_{leaves}"] = (*frozen, "cmtree.start.kind=kmeans")
    found[f"ratio_{leaves}"] = frozen
    found[f"pool_{leaves}"] = (
      *frozen,
      "cmtree.start.kind=kmeans",
      "cmtree.start.target_share=0.0",
    )
    found[f"random_{leaves}"] = (*frozen, "cmtree.start.kind=random")
  found["sources"] = ("tilts", "partition.kind=sources")
  found |= scoring_variants() | online_variants() | path_variants()
  # With all dimensions of the embedding every angle would cut alike.
  angle = "cmtree.start.angle_dim=16"
  for name, branching in (
    ("flat16", "16"),
    ("4x4", "4,4"),
    ("2x2x2x2", "2,2,2,2"),
  ):
    tree = ("cmtree", f"cmtree.branching={branching}", angle)
    found[f"angles_{name}"] = tree
    if "," in branching:  # one level has one projection, and one node
      found[f"shared_{name}"] = (*tree, "cmtree.projection=shared")
      found[f"oblivious_{name}"] = (*tree, "cmtree.oblivious=true")
  for other in {*range(4)} - {rounds}:
    found[f"rounds_{other}"] = ("cmtree", f"values.rounds={other}")
  # One event in a round: to grow from four leaves to sixteen takes twelve of them, and
  # the fixed tree has as many beside it.
  grown = ("cmtree.branching=4", "cmtree.grow=true", "cmtree.max_leaves=16")
  found["grown_16"] = ("cmtree", *grown, "values.rounds=12")
  found["rounds_12"] = ("cmtree", "values.rounds=12")
  # Searches that start from k-means, with tilts from similarity.
  kmeans = ("cmtree", "cmtree.start.kind=kmeans")
  found["kmeans_0"] = (*kmeans, "values.rounds=0")
  found["kmeans"] = kmeans
  found["encoded_16"] = ("cmtree", "cmtree.branching=4,4", "cmtree.encoder=32")
  found["no_noise"] = ("cmtree", "cmtree.step.gumbel=false")
  found["shuffled"] = ("cmtree", "cmtree.replay.shuffle=true")
  for name in ("unrolled", "first_order", "one_step"):
    found[name] = ("cmtree", f"hypergradient.estimator={name}")
  for window in (1, 4, 64):  # all other searches unroll 8 steps
    found[f"window_{window}"] = ("cmtree", f"values.unroll={window}")
  # Values over nearly a whole short training, and as long a lookahead.
  whole = ("values.unroll=128", "values.lookahead=128", "values.min_age=20")
  found["whole"] = ("cmtree", *whole, "values.max_age=21")
  for number, (few, *fields) in enumerate(BUDGETS, 1):
    age = fields[0] + few * fields[1]  # no proxy is reset
    search = [
      *(f"values.rounds={few}", "values.population=4", f"values.max_age={age}"),
      "values.lookahead=0",  # every step is kept, unmeasured
    ]
    names = (
      "min_age",
      "steps_between_rounds",
      "unroll",
      "outer_rows",
      "probe_rows",
    )
    search += [
      f"values.{name}={value}"
      for name, value in zip(names, fields, strict=True)
    ]
    found[f"budget_{number}"] = ("cmtree", *search)
  # All other searches use proxies of size s.
  found["found_at_4s"] = ("cmtree", f"proxy.preset={final}")
  return found
