"""Tasks and Mixtures of seqio; a part is one split of one Task.

Of a Mixture, every Task's documents come once: what its rates should be is what
this package finds out. TensorFlow is imported when one is read, and not before.
"""

import contextlib
import hashlib
import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cmtree_jax.data.read import fields, files
from cmtree_jax.data.read.fields import Found, Part, Row, Rules, Unusable
from cmtree_jax.types import Skip, UserError

_ADDRESS = re.compile(
  r"((?P<module>[^#]+)#)?(?P<name>[^#]+?)(:(?P<split>\w+))?"
)


def parts(address: str) -> list[Part]:
  """One part per Task and split of `[MODULE#]TASK_OR_MIXTURE[:SPLIT]`.

  Args:
    address: a registered name, and the module whose import registers it.
  Raises:
    UserError: no such module, name or split.
  """
  match = _ADDRESS.fullmatch(address)
  if match is None:
    raise UserError(
      f"seqio:{address}: wanted [MODULE#]TASK_OR_MIXTURE[:SPLIT], came something "
      "else; give seqio:my.module#my_task:train."
    )
  module, name, wanted = match["module"], match["name"], match["split"]
  provider = _provider(module, name)
  tasks = getattr(provider, "tasks", [provider])
  found = [
    (task.name, split)
    for task in tasks
    for split in task.splits
    if wanted in (None, split)
  ]
  if not found:
    known = sorted({split for task in tasks for split in task.splits})
    raise UserError(
      f"seqio:{address}: unknown split {wanted!r}. Known: {', '.join(known)}."
    )
  prefix = f"{module}#" if module else ""
  return [
    Part("seqio", f"{prefix}{task}:{split}", f"{task}:{split}")
    for task, split in found
  ]


def read(part: Part, rules: Rules) -> Iterator[Found]:
  """The documents of a Task's split in the order of its source.

  A document is the feature that `text_field` names: its text where the Task
  keeps one, or else its tokens, decoded by the Task's vocabulary. While it
  tokenizes, seqio itself reads some hundred documents ahead.
  """
  return fields.records(_rows(part.path, rules), part, rules)


def digest(part: Part) -> str:
  """A hash of all examples as the Task makes them; they need not be files."""
  total = hashlib.blake2b(digest_size=16)
  try:
    _, examples = _examples(part.path)
    for example in examples:
      for name in sorted(example):
        value = example[name]
        data = value if isinstance(value, bytes) else _bytes_of_array(value)
        total.update(f"{name}\0{len(data)}\0".encode() + data)
  except Exception as error:  # `read` will tell what is wrong
    total.update(type(error).__name__.encode())
  return total.hexdigest()


def _rows(path: str, rules: Rules) -> Iterator[Row | Skip]:
  number = 0
  try:
    task, examples = _examples(path)
    for example in examples:
      number += 1
      values = {rules.source_field: task.name, **example}
      values[rules.text_field] = _text(task, example, rules)
      yield Row(number, f"{path}, example {number}", values)
  except UserError as error:
    yield Skip(files.UNREADABLE, path, str(error))
  except Unusable as problem:
    yield problem.at(path)
  # A Task runs its author's code, which may raise anything.
  except Exception as error:
    told = _innermost(error)
    yield files.damaged(told).at(f"{path}, after example {number}")


def _innermost(error: Exception) -> Exception | str:
  """What a Task's own code raised, out of all that TensorFlow says around it."""
  found = re.findall(r"\b\w*(?:Error|Exception): [^\n]+", str(error))
  return found[-1] if found else error


def _examples(path: str) -> tuple[Any, Iterator[dict[str, Any]]]:
  """A Task, and its examples as NumPy arrays and bytes."""
  match = _ADDRESS.fullmatch(path)
  assert match is not None, path
  task = _provider(match["module"], match["name"])
  _leave_accelerators_alone()
  dataset = task.get_dataset(
    sequence_length=None,
    split=match["split"],
    shuffle=False,
    try_in_mem_cache=False,  # the cache would hold the whole split
  )
  return task, dataset.as_numpy_iterator()


def _provider(module: str | None, name: str) -> Any:
  seqio = fields.library("seqio", "seqio")
  if module:
    try:
      importlib.import_module(module)
    except Exception as error:  # whatever the module's own code raises
      reason = " ".join(str(error).split())[:200]
      raise UserError(
        f"seqio:{module}#{name}: wanted a module that registers {name!r}, came "
        f"{type(error).__name__} ({reason}); check its name and PYTHONPATH."
      ) from None
  try:
    return seqio.get_mixture_or_task(name)
  except ValueError:
    raise UserError(
      f"seqio:{name}: wanted a Task or Mixture that is registered, came an "
      "unknown name; give the module that registers it, as in "
      f"seqio:my.module#{name}."
    ) from None


def _leave_accelerators_alone() -> None:
  """Keeps TensorFlow from taking the memory that JAX computes in."""
  import tensorflow as tf

  with contextlib.suppress(RuntimeError):  # another user has begun with them
    tf.config.set_visible_devices([], "GPU")


def _text(task: Any, example: Mapping[str, Any], rules: Rules) -> Any:
  """What `text_field` holds, in the form that is nearest to the source."""
  field = rules.text_field
  if field not in example:
    raise Unusable(
      f"no text in the field {field!r}",
      f"wanted a feature {field!r}, came {fields.short(sorted(example))}; name "
      "the one that holds the text.",
    )
  value = example.get(f"{field}_pretokenized", example[field])
  is_tokens = getattr(value, "ndim", 0) == 1 and field in task.output_features
  if is_tokens and value.dtype.kind in "iu":
    return task.output_features[field].vocabulary.decode(value.tolist())
  return value


def _bytes_of_array(value: Any) -> bytes:
  import numpy as np

  array = np.asarray(value)
  if array.dtype == object:
    return b"\0".join(map(bytes, array.ravel()))
  return str((array.dtype, array.shape)).encode() + array.tobytes()
