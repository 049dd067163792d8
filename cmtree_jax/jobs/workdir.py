"""What a job writes: every file appears whole or not at all."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cmtree_jax
from cmtree_jax import config as configs
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.report import describe
from cmtree_jax.types import UserError

CONFIG_FILE = "config.json"
CORPUS_FILE = "corpus_digest.txt"


def claim_workdir(workdir: Path, config: Any, *, overwrite: bool) -> None:
  """Makes the workdir this config's, or says why it cannot be.

  Raises:
    UserError: it cannot be written to, or holds another config's run.
  """
  file = workdir / CONFIG_FILE
  try:
    if overwrite and workdir.exists():
      _clear(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if file.exists():
      _require_same(json.loads(file.read_text()), config, workdir)
    elif any(
      not p.name.startswith(f".{CONFIG_FILE}") for p in workdir.iterdir()
    ):
      raise UserError(
        f"{workdir} is not empty and holds no run of this package. Choose "
        "another --workdir."
      )
    store.write_atomically(file, _config_json(config))
  except OSError as error:
    raise UserError(
      f"Cannot write to --workdir {workdir}: {error.strerror or error}. "
      "Choose a folder that you may write to."
    ) from error


def claim_corpus(workdir: Path, digest: str) -> None:
  """Makes the workdir this corpus's.

  Raises:
    UserError: the run began with another corpus.
  """
  file = workdir / CORPUS_FILE
  if file.exists() and (came := file.read_text().strip()) != digest:
    raise UserError(
      f"{workdir} holds a run on another corpus: its hash was {came}, now "
      f"{digest}. Bring the old files back to continue it, choose another "
      "--workdir, or add --overwrite to start anew."
    )
  store.write_atomically(file, digest + "\n")


def write_results(
  workdir: Path,
  *,
  config: Any,
  data: Any,
  partition: partitions.Partition,
  nodes: Sequence[describe.Node],
  comparison: list[dict[str, Any]],
  history: list[dict[str, float]],
  cost: Cost,
) -> list[Path]:
  """Writes comparison, recipe, embedder and tokenizer; returns their paths."""
  recipe = {
    "format": 1,
    "cmtree_jax": cmtree_jax.__version__,
    "method": config.method,
    "targets": list(data.targets),
    "config": json.loads(_config_json(config)),
    "config_digest": configs.digest(config),
    "corpus_digest": data.digest,
    "overlap": data.manifest["overlap"],
    "skipped": data.manifest["skipped"],
    "repeated_texts": data.manifest["repeated_texts"],
    "notes": list(data.notes),
    "partition": partition.to_json(),
    "nodes": [node._asdict() for node in nodes],
    "mixtures": describe.children(nodes),
    "ledger": {"search_tokens": cost.tokens, "search_flops": cost.flops},
    "history": history,
    "comparison": comparison,
  }
  files = {
    "comparison.json": store.to_json(comparison),
    **{
      name: (data.folder / name).read_bytes()
      for name in (prepare.EMBEDDER_FILE, prepare.TOKENIZER_FILE)
    },
    recipes.FILE: store.to_json(recipe),
  }
  for name, content in files.items():
    store.write_atomically(workdir / name, content)
  return [workdir / name for name in files]


def write_summary(workdir: Path, summary: dict[str, Any]) -> Path:
  """Writes summary.json, the facts that differ between equal jobs."""
  path = workdir / "summary.json"
  store.write_atomically(path, store.to_json(summary))
  return path


def peak_rss_bytes() -> int:
  """The most memory that this process has held."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


def git_commit() -> str | None:
  """The commit of the package's checkout, "-dirty" if changed; None without one."""
  command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
  folder = Path(__file__).parent
  try:
    done = subprocess.run(
      [*command, "--exclude=*"],
      cwd=folder,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()


def _config_json(config: Any) -> str:
  return store.to_json(config.to_dict())


def _clear(workdir: Path) -> None:
  """Removes a run; refuses a folder that does not look like one."""
  if any(workdir.iterdir()) and not (workdir / CONFIG_FILE).exists():
    raise UserError(
      f"--overwrite refuses {workdir}: it holds no {CONFIG_FILE}, so it is "
      "not a run of this package."
    )
  shutil.rmtree(workdir)


def _require_same(old: dict[str, Any], config: Any, workdir: Path) -> None:
  new = json.loads(_config_json(config))
  changed = [
    f"{name} was {a!r}, now {b!r}" for name, a, b in _differences(old, new, "")
  ]
  if changed:
    raise UserError(
      f"{workdir} holds another run: {'; '.join(changed[:3])}"
      f"{' ...' if len(changed) > 3 else ''}. Choose another --workdir, run "
      "with the old settings to continue it, or add --overwrite to start anew."
    )


def _differences(old: Any, new: Any, name: str):
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted(old.keys() | new.keys()):
      inner = f"{name}.{key}" if name else key
      yield from _differences(old.get(key), new.get(key), inner)
  elif old != new:
    yield name, old, new
