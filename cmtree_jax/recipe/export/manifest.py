"""The manifest of an export: what it was made from, what it holds, and its digests.

It is written last, so a folder that has one is complete. Until then a marker says
that the folder is an export that was interrupted, and may be emptied.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cmtree_jax
from cmtree_jax.budget import from_json, in_epochs
from cmtree_jax.data import store
from cmtree_jax.recipe import recap
from cmtree_jax.recipe.export import levanter
from cmtree_jax.recipe.export.base import CappedStage, Corpus, Options
from cmtree_jax.recipe.export.capping import Capping, whole_looks
from cmtree_jax.recipe.export.leaves import Leaf, epochs
from cmtree_jax.recipe.export.survey import Survey
from cmtree_jax.types import UserError

FILE = "manifest.json"
FORMAT = 2  # with a budget, and weights that are capped for it
_MARKER = ".incomplete"


def inputs_of(
  formats: Sequence[str],
  corpus: Corpus,
  options: Options,
  facts: Mapping[str, Any],
) -> dict[str, Any]:
  """Everything that decides what an export holds, as JSON."""
  inputs: dict[str, Any] = {
    "cmtree_jax": cmtree_jax.__version__,
    "facts": dict(facts),
    "formats": sorted(formats),
    "options": {**options._asdict(), "budget": options.budget._asdict()},
    "paths": dict(zip(corpus.leaf_names, corpus.leaf_paths, strict=True)),
    "documents": corpus.num_documents,
    "tokens": corpus.total_tokens,
  }
  if corpus.stages:
    inputs["stages"] = [one[:3] for one in corpus.stages]
    inputs["step_rows"] = corpus.step_rows
  return json.loads(store.to_json(inputs))


def find(folder: Path, inputs: Mapping[str, Any]) -> list[Path] | None:
  """The files of a complete export of these inputs; None if there is none yet.

  Raises:
    UserError: the folder holds another export, or a damaged one.
  """
  if not (folder / FILE).exists():
    return None
  manifest = read(folder)
  changed = next(store.differences(manifest["inputs"], inputs), None)
  if changed is not None:
    name, was, wanted = changed
    raise UserError(
      f"{folder} holds another export, made with {name} {_short(was)}; wanted "
      f"{_short(wanted)}. Remove this folder to write it anew, or export into "
      "another --workdir by --config.recipe.apply."
    )
  faults = verify(folder)
  if faults:
    raise UserError(
      f"{folder} is damaged: {faults[0]}"
      f"{f' and {len(faults) - 1} more' if len(faults) > 1 else ''}. Remove the "
      "folder to write it anew."
    )
  (folder / _MARKER).unlink(missing_ok=True)
  return [folder / FILE, *(folder / name for name in manifest["files"])]


def claim(folder: Path) -> None:
  """Empties the folder of an interrupted export and marks it as being written.

  Raises:
    UserError: it holds something else.
  """
  folder.mkdir(parents=True, exist_ok=True)
  marker = folder / _MARKER
  if marker.exists():
    for path in folder.iterdir():
      if path != marker:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
  elif any(folder.iterdir()):
    raise UserError(
      f"{folder} is not empty and holds no export. Choose another folder."
    )
  marker.touch()


def write(
  folder: Path,
  files: Iterable[Path],
  *,
  inputs: Mapping[str, Any],
  contents: Mapping[str, Any],
) -> list[Path]:
  """Writes the manifest; returns it and the files, sorted."""
  paths = sorted(set(files))
  manifest = {
    "format": FORMAT,
    "inputs": inputs,
    **contents,
    "files": {
      path.relative_to(folder).as_posix(): _facts(path) for path in paths
    },
  }
  store.settle(folder)
  store.write_atomically(folder / FILE, store.to_json(manifest))
  (folder / _MARKER).unlink()
  return [folder / FILE, *paths]


def describe(
  options: Options, survey: Survey, capping: Capping
) -> dict[str, Any]:
  """Counts, and every leaf by name; leaves that mixtures leave out say why."""
  corpus, mixture = capping.capped.corpus, capping.capped.mixture
  tokens_N, expected_N = survey.tokens_N, capping.expected_N
  count_N = np.concatenate(capping.capped.repeats)
  columns = (
    np.ones(len(tokens_N)),
    tokens_N,
    tokens_N * expected_N,
    count_N,
    tokens_N * count_N,
  )
  sums = [survey.of_leaves(column_N) for column_N in columns]
  leaves = {}
  for i, name in enumerate(corpus.leaf_names):
    documents, tokens, *resampled = (float(sum_L[i]) for sum_L in sums)
    leaf = Leaf(name, "", mixture[name], int(documents), int(tokens), ())
    leaves[name] = {
      "path": corpus.leaf_paths[i],
      "documents": leaf.num_documents,
      "tokens": leaf.num_tokens,
      "share": leaf.share,
      "epochs": epochs(leaf, options) if leaf.share else 0.0,
      "resampled": _resampled(*resampled),
    }
  stages = [_stage(one, tokens_N) for one in capping.capped.stages]
  return {
    **({"stages": stages} if stages else {}),
    "budget": options.budget.to_json(),
    "cap": capping.weights.to_json(),
    "counts": {
      "documents": corpus.num_documents,
      "tokens": corpus.total_tokens,
      "resampled": _resampled(*(sum_L.sum() for sum_L in sums[2:])),
    },
    "leaves": leaves,
    "omitted": {
      name: "no share" if leaf["tokens"] else "no tokens"
      for name, leaf in leaves.items()
      if not leaf["share"]
    },
  }


def _stage(stage: CappedStage, tokens_N: np.ndarray) -> dict[str, Any]:
  """From where to where a stage goes, what it mixes, and its resampled text."""
  count_N = np.concatenate(stage.repeats)
  return {
    "begin": stage.begin,
    "end": stage.end,
    "mixture": dict(stage.mixture),
    "documents": int(count_N.sum()),
    "tokens": int(tokens_N @ count_N),
  }


def told(folder: Path) -> str:
  """What a person must know of an export's budget; a line or two."""
  manifest = read(folder)
  budget = from_json(manifest["budget"])
  path = _undrawn(manifest) + _path(manifest)
  lines = (
    f"Export for {budget.tokens:,} tokens, {in_epochs(budget.epochs)} of this "
    "corpus: "
  )
  if budget.epochs > budget.max_epochs:
    return lines + (
      "natural, as even that repeats every document more than config.budget."
      f"max_epochs = {budget.max_epochs:g} times." + path
    )
  cap = manifest["cap"]
  lines += recap.text(cap["moved"], cap["documents_at_cap"], cap["max_weight"])
  looks, resampled = whole_looks(budget), manifest["counts"]["resampled"]
  if not resampled["documents"]:
    lines += (
      " Resampled text is empty, as so few tokens are less than a document; raise "
      "config.export.tokens."
    )
  if looks == budget.epochs < budget.max_epochs:
    lines += (
      f" Resampled text is natural, as {looks} whole copies of every document are "
      f"all its tokens: a whole number as config.budget.max_epochs above {looks} "
      "leaves the recipe room."
    )
  if looks < budget.epochs:
    lines += (
      f" Resampled text holds {resampled['tokens']:,} of these tokens, as {looks} "
      f"whole copies of a document are the most below {budget.max_epochs:g}."
    )
  return lines + path


def _undrawn(manifest: Mapping[str, Any]) -> str:
  """Which leaves a trainer leaves out, where one does."""
  blocks = manifest.get("levanter")
  if not blocks or not blocks["undrawn"]:
    return ""
  return f" {levanter.Blocks(**blocks).text()}"


def _path(manifest: Mapping[str, Any]) -> str:
  """What became of the path that documents are read along, where there is one."""
  if "path" not in manifest:
    return ""
  kept, lost = (manifest["path"][name] for name in ("kept_by", "lost_by"))
  text = (
    " The recipe is for rows that are packed along a path, with attention across their "
    "documents, which is the trainer's to do."
  )
  if kept:
    text += f" The order is in: {', '.join(kept)}."
  if lost:
    text += (
      f" Weights alone, without the order: {', '.join(lost)}; what was measured is not "
      "of them."
    )
  return text


def read(folder: Path) -> dict[str, Any]:
  """The manifest of an export.

  Raises:
    UserError: there is none that can be read.
  """
  path = folder / FILE
  try:
    manifest = json.loads(path.read_text())
    version = manifest["format"]
    manifest["inputs"].items(), manifest["files"].items()
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f"{path}: wanted the manifest of an export, came {error!r}. Remove the "
      "folder and export again."
    ) from error
  if version != FORMAT:
    raise UserError(
      f"{path}: wanted format {FORMAT}, came {version!r}. Remove the folder and "
      "export again."
    )
  return manifest


def verify(folder: Path) -> list[str]:
  """What is wrong with the files of an export, one line each; empty if nothing."""
  faults = []
  for name, wanted in read(folder)["files"].items():
    path = folder / name
    if not path.is_file():
      faults.append(f"{name} is missing")
    elif path.stat().st_size != wanted["bytes"]:
      size = path.stat().st_size
      faults.append(f"{name} has {size:,} bytes, not {wanted['bytes']:,}")
    elif _facts(path) != wanted:
      faults.append(f"{name} has other content than was written")
  return faults


def _resampled(expected: float, repeats: float, tokens: float):
  return {
    "expected_tokens": float(expected),
    "documents": int(repeats),
    "tokens": int(tokens),
  }


def _facts(path: Path) -> dict[str, Any]:
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
  return {"bytes": path.stat().st_size, "blake2b": digest.hexdigest()}


def _short(value: Any) -> str:
  text = json.dumps(value, sort_keys=True)
  return text if len(text) < 200 else f"{text[:200]}..."
