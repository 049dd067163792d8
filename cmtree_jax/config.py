"""Reads `--config` and its overrides, and says in one line what is wrong with them."""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import json
import math
import re
import sys
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import ml_collections

from cmtree_jax.types import UserError

_REPOSITORY = Path(__file__).parents[1]


def load(path: str, overrides: Sequence[str]) -> ml_collections.ConfigDict:
  """The locked config of a file with `--config.field=value` overrides applied.

  Args:
    path: a Python file with `get_config()`, or `get_config(argument)` when called
      as `file.py:argument`; relative to the working directory or, failing that,
      to the repository. Folders may be written with points, as `beds.b:toy`.
    overrides: `a.b=value` without the leading `--config.`; values are Python
      literals of the default's type, tuples also as `4,4`; strings of which one holds
      a comma as `["a,b"]`.
  Raises:
    UserError: for an unknown file, field or a value of another type.
  """
  config = _call_get_config(path)
  config.lock()
  for override in overrides:
    override_field(config, override)
  return config


def override_field(config: ml_collections.ConfigDict, override: str) -> None:
  """Sets one field, "a.b=value", as `load` does; raises the same errors."""
  name, equals, text = override.partition("=")
  if not equals:
    raise UserError(
      f"--config.{override} has no value. Write --config.{override}=VALUE."
    )
  _set(config, name, text)


def digest(config: ml_collections.ConfigDict) -> str:
  """A hash of all fields and values, the same in every process."""
  text = json.dumps(config.to_dict(), sort_keys=True, default=list)
  return blake2b(text.encode(), digest_size=8).hexdigest()


def runs(path: str) -> list[dict[str, Any]]:
  """The runs that a file's `sweep(add)` asks for, each as dotted fields and values.

  Args:
    path: as of `load`; `sweep` stands beside `get_config` and calls
      `add(**{"batch.rows": 32})` once for every run.
  Raises:
    UserError: there is no such function, or it adds nothing.
  """
  module, file, _ = _module(path)
  if not hasattr(module, "sweep"):
    raise UserError(
      f"{file} has no function sweep(add) beside get_config(); for one run there is "
      "python -m cmtree_jax.main."
    )
  found: list[dict[str, Any]] = []
  module.sweep(lambda **fields: found.append(fields))
  if not found:
    raise UserError(f"sweep(add) of {file} adds no run.")
  return found


def text_of(value: Any) -> str:
  """A value of a field as `--config.field=` takes it.

  >>> text_of((4, 4)), text_of(False), text_of(0.5)
  ('4,4', 'false', '0.5')
  """
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, (tuple, list)):
    return ",".join(map(text_of, value))
  return str(value)


def _call_get_config(path: str) -> ml_collections.ConfigDict:
  module, file, argument = _module(path)
  if not hasattr(module, "get_config"):
    raise UserError(f"{file} has no function get_config().")
  takes = inspect.signature(module.get_config).parameters
  if argument and not takes:
    name = path.partition(":")[0]
    raise UserError(
      f"{file} takes no argument, came {argument!r}; write --config {name}."
    )
  return module.get_config(argument) if argument else module.get_config()


def _module(path: str) -> tuple[Any, Path, str]:
  """(what a config file defines, the file, what follows its colon)."""
  name, _, argument = path.partition(":")
  file = _find(name)
  if str(_REPOSITORY) not in sys.path:
    sys.path.append(str(_REPOSITORY))  # configs import each other
  spec = importlib.util.spec_from_file_location(file.stem, file)
  if not spec or not spec.loader:
    raise UserError(f"{file} is no Python file; --config wants one.")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module, file, argument


def _find(name: str) -> Path:
  for base in (Path(), _REPOSITORY, _REPOSITORY / "configs"):
    dotted = base / f"{name.replace('.', '/')}.py"
    for file in (base / name, base / f"{name}.py", dotted):
      if file.is_file():
        return file
  known = sorted(
    str(p.relative_to(_REPOSITORY)) for p in _REPOSITORY.glob("configs/**/*.py")
  )
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
  told = (
    f"Did you mean {' or '.join(near)}?"
    if near
    else f"Known: {', '.join(known)}."
  )
  raise UserError(f"No config file {name!r}. {told}")


def _set(config: ml_collections.ConfigDict, name: str, text: str) -> None:
  *parents, leaf = name.split(".")
  block: Any = config
  for parent in parents:
    _require(config, block, parent, name)
    block = block[parent]
  _require(config, block, leaf, name)
  if isinstance(block[leaf], ml_collections.ConfigDict):
    raise UserError(
      f"config.{name} is a block. Set one of its fields: "
      f"{', '.join(f'{name}.{k}' for k in block[leaf])}."
    )
  block[leaf] = _parse(name, text, block[leaf])


def _require(config, block, field: str, name: str) -> None:
  if isinstance(block, ml_collections.ConfigDict) and field in block:
    return
  names = list(_names(config, ""))
  near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
  same_leaf = [n for n in names if n.split(".")[-1] == name.split(".")[-1]]
  known = list(dict.fromkeys(near + same_leaf))[:5]
  blocks = dict.fromkeys(n.partition(".")[0] for n in names if "." in n)
  raise UserError(
    f"Unknown config field {name!r}. "
    + (
      f"Nearest known: {', '.join(known)}."
      if known
      else f"None is near; blocks of fields: {', '.join(blocks)}."
    )
  )


def _names(block, prefix):
  for key, value in block.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from _names(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}"


def _parse(name: str, text: str, default: Any) -> Any:
  """What the text says, as a value of the default's type."""
  kind = type(default)
  try:
    if default is None:  # None lets the method choose; else a number
      return None if text == "None" else _number(ast.literal_eval(text))
    if kind is bool:
      return {"true": True, "false": False}[text.lower()]
    if kind is int:
      return int(text.replace("_", ""))
    if kind is float:
      return _number(float(text))
    if kind is tuple:
      element = type(default[0]) if default else str
      if element is str:  # paths may hold spaces and brackets
        if (listed := _listed(text)) is not None:
          return listed
        items = [item.strip() for item in text.split(",")]
        return tuple(item for item in items if item)
      items = [t for t in re.split(r"[,\s]+", text.strip("()[] ,")) if t]
      return tuple(_number(element(item)) for item in items)
    return text
  except (ValueError, KeyError, SyntaxError, TypeError):
    shown = list(default) if kind is tuple else default
    wanted = (
      "None or a number"
      if default is None
      else f"{'an' if kind is int else 'a'} {kind.__name__} like {shown!r}"
    )
    raise UserError(
      f"config.{name} must be {wanted}, but {text!r} came."
    ) from None


def _listed(text: str) -> tuple[str, ...] | None:
  """A Python list of strings, which may hold commas; None for anything else."""
  try:
    found = ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return None
  if isinstance(found, list | tuple) and all(isinstance(x, str) for x in found):
    return tuple(found)
  return None


def _number(value: Any) -> Any:
  """The value, unless it is no number or NaN, which no setting means."""
  if math.isnan(value):
    raise ValueError
  return value


def factory_defaults(method: str) -> ml_collections.ConfigDict:
  """A method's options with the defaults of its factory's signature.

  An option whose default is a record, a dataclass, is a block of its own.
  """
  return _block(_defaults(method))


def factory_options(
  method: str, block: ml_collections.ConfigDict
) -> dict[str, Any]:
  """What a factory is called with: its block, with records for blocks in it.

  Raises:
    UserError: a record refuses its fields.
  """
  options = dict(block)
  for name, default in _defaults(method).items():
    if dataclasses.is_dataclass(default):
      try:
        options[name] = type(default)(**options[name])
      except ValueError as error:
        raise UserError(f"config.{method}.{name}: {error}") from error
  return options


def _defaults(method: str) -> dict[str, Any]:
  from cmtree_jax.methods import METHODS  # heavy, and not needed to load

  parameters = inspect.signature(METHODS[method].make).parameters
  return {name: p.default for name, p in parameters.items()}


def _block(options: dict[str, Any]) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      name: _block(vars(value)) if dataclasses.is_dataclass(value) else value
      for name, value in options.items()
    }
  )
