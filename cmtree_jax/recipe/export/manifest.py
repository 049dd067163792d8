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

import cmtree_jax
from cmtree_jax.data import store
from cmtree_jax.recipe.export.base import Corpus, Options, served_mixture
from cmtree_jax.recipe.export.leaves import Leaf, epochs
from cmtree_jax.recipe.export.survey import Survey
from cmtree_jax.types import UserError

FILE = "manifest.json"
FORMAT = 1
_MARKER = ".incomplete"


def inputs_of(
  formats: Sequence[str],
  corpus: Corpus,
  options: Options,
  facts: Mapping[str, Any],
) -> dict[str, Any]:
  """Everything that decides what an export holds, as JSON."""
  inputs = {
    "cmtree_jax": cmtree_jax.__version__,
    "facts": dict(facts),
    "formats": sorted(formats),
    "options": options._asdict(),
    "mixture": {name: float(x) for name, x in corpus.mixture.items()},
    "paths": dict(zip(corpus.leaf_names, corpus.leaf_paths, strict=True)),
    "documents": corpus.num_documents,
    "tokens": corpus.total_tokens,
  }
  return json.loads(store.to_json(inputs))


def find(folder: Path, inputs: Mapping[str, Any]) -> list[Path] | None:
  """The files of a complete export of these inputs; None if there is none yet.

  Raises:
    UserError: the folder holds another export, or a damaged one.
  """
  if not (folder / FILE).exists():
    return None
  manifest = read(folder)
  old = manifest["inputs"]
  changed = [key for key in inputs if old.get(key) != inputs[key]]
  if changed:
    key = changed[0]
    raise UserError(
      f"{folder} holds another export: its {key} was {_short(old.get(key))}, "
      f"wanted {_short(inputs[key])}. Choose another folder or remove this one."
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
  store.write_atomically(folder / FILE, store.to_json(manifest))
  (folder / _MARKER).unlink()
  return [folder / FILE, *paths]


def describe(
  corpus: Corpus, options: Options, survey: Survey
) -> dict[str, Any]:
  """Counts, and every leaf by name; leaves that mixtures leave out say why."""
  served = served_mixture(corpus, survey.tokens_L)
  leaves = {}
  for i, name in enumerate(corpus.leaf_names):
    documents, tokens, expected, repeats, repeated = (x[i] for x in survey)
    leaves[name] = {
      "path": corpus.leaf_paths[i],
      "documents": int(documents),
      "tokens": int(tokens),
      "share": served.get(name, 0.0),
      "epochs": 0.0,
      "resampled": _resampled(expected, repeats, repeated),
    }
    if name in served:
      leaf = Leaf(name, "", served[name], int(documents), int(tokens), ())
      leaves[name]["epochs"] = epochs(leaf, options)
  return {
    "counts": {
      "documents": corpus.num_documents,
      "tokens": corpus.total_tokens,
      "token_budget": options.token_budget,
      "resampled": _resampled(
        survey.expected_tokens_L.sum(),
        survey.repeats_L.sum(),
        survey.repeated_tokens_L.sum(),
      ),
    },
    "leaves": leaves,
    "omitted": {
      name: "no tokens" if survey.tokens_L[i] == 0 else "no share"
      for i, name in enumerate(corpus.leaf_names)
      if name not in served
    },
  }


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
