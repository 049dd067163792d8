"""Every field of the config: what it may not be is told in one line, before any work."""

import json

import pytest

from cmtree_jax import config as configs
from cmtree_jax.jobs import plan, ranges
from cmtree_jax.methods import METHODS
from cmtree_jax.types import UserError

# Zero and the like where a field takes them, besides words that are free.
ZERO = """
aioli.ema ado.floor ado.ignore ado.least_e associated.gamma attention.tau_step
budget.parameters budget.pool_tokens budget.tokens cit.least cit.threshold climb.minimum
climb.noise_floor cmtree.encoder cmtree.replay.decay cmtree.start.steps
cmtree.start.target_share cmtree.step.encoder_rate cmtree.step.kl_penalty
cmtree.step.overlap_penalty cmtree.step.partition_rate cmtree.step.score_penalty
cmtree.step.score_rate cmtree.step.tilt_rate cmtree.step.view_penalty crisp.smoothing
d4.clusters data.bed_seed data.max_documents data.max_overlap data.max_skipped
datarater.decay datarater.drop density.balance density.clusters doremi.smoothing
export.row_tokens export.rows export.tokens facility_location.clusters grape.smoothing
hierarchical.beta hierarchical.fuse_above meta_scheduler.learn meta_scheduler.projected
mixing_laws.fit_from mixmin.holdout mixmin.tolerance olmix.kl olmix.min_weight
online.saves optimizer.warmup_steps optimizer.weight_decay ordered.decay ordered.floor
ordered.latest ordered.margin ordered.rho partition.balance
perplexity_correlations.exponent perplexity_correlations.minimum quality.threshold
regmix.exponent regmix.minimum seed semdedup.clusters semdedup.share skill_it.warmup
ssl_prototypes.balance ssl_prototypes.clusters steer.saves tandem.free tilts.kl_penalty
tilts.replay.decay tilts.tilt_rate values.lookahead values.min_age values.natural_share
values.rounds
""".split()
# -1: all other devices; a threshold of scores, cosines or exponents may be below zero.
NEGATIVE = "mesh.data ado.least_e cit.threshold quality.threshold".split()
WORDS = """
cache_dir data.id_field data.source data.source_field data.target_files data.targets
data.text_field export.root export.tokenizer recipe.apply workers.flags
""".split()
# No rivals, no baselines, all targets and the like.
EMPTY = """
baselines cache_dir cmtree.offset data.bed data.id_field data.source_field
data.target_files data.targets export.formats export.root export.tokenizer guard.rivals
metaclip.entries meta_scheduler.policy olmix.reuse recipe.apply trial.exponents
workers.flags
""".split()

TEXTS = {"0": ZERO, "-1": NEGATIVE, "inf": ranges.UNLIMITED, "nan": (), "x": ()}


JOB = configs.load("configs/default.py", ["mesh.data=1", "baselines="])
FIELDS = [
  (name, value)
  for name, value in ranges.fields(JOB)
  if not name.startswith("variants.")
]


@pytest.mark.parametrize("block", sorted({x.split(".")[0] for x, _ in FIELDS}))
def test_every_field_refuses_what_it_cannot_be(block, tmp_path):
  """Each with 0, -1, infinity, NaN, a word and nothing."""
  labelled = tmp_path / "labels.jsonl"
  labelled.write_text(json.dumps({"text": "a text", "score": 3}) + "\n")
  config = JOB.copy_and_resolve_references().lock()
  config.quality.labels = str(labelled)
  if block != "guard":  # or every check is one of all rivals
    config.guard.rivals = ()
    config.method = block if block in METHODS else "natural"
  wrong = []
  for name, default in FIELDS:
    if name.split(".")[0] != block or name == "quality.labels":
      continue  # of another test
    for text in (*TEXTS, ""):
      told = _told(config, name, text)
      _set(config, name, default)
      accepted = name in (EMPTY if text == "" else (*TEXTS[text], *WORDS))
      if accepted != (told is None):
        wrong.append(f"{name}={text}: {told}")
      if told is not None and not _is_good(told, name, text):
        wrong.append(f"{name}={text}, told badly: {told}")
  assert wrong == []


@pytest.mark.parametrize("text", ["0", "-1", "inf", "missing.jsonl", ""])
def test_labels_that_are_not_there_are_told_by_their_option(text):
  config = JOB.copy_and_resolve_references().lock()
  config.method = "quality"
  told = _told(config, "quality.labels", text)
  assert told is not None and told.startswith("config.quality.labels: ")
  assert _is_good(told, "quality.labels", text)


def _told(config, name: str, text: str) -> str | None:
  """The refusal of one setting; None if it is accepted."""
  try:
    configs.override_field(config, f"{name}={text}")
    plan.check_recipe(config)
  except UserError as error:
    return str(error)
  return None


def _set(config, name: str, value) -> None:
  *blocks, field = name.split(".")
  for one in blocks:
    config = config[one]
  with config.ignore_type():
    config[field] = value


def _is_good(told: str, name: str, text: str) -> bool:
  """One line with the field and the value that came."""
  return "\n" not in told and name.split(".")[-1] in told and text in told
