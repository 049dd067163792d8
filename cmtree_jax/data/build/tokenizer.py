"""Tokenizers: text to ids and back without loss, cached by what they learned from.

Ids 0 and 1 are padding and end of document in each of them; encoding adds neither,
packing does. A text survives ``decode(encode(text))`` character by character, so
losses can be counted in bits per byte of the original.
"""

import abc
import collections
import hashlib
import io
import itertools
import multiprocessing
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cmtree_jax import checks
from cmtree_jax.data import cache, store
from cmtree_jax.data.build import workers
from cmtree_jax.types import UserError

PAD_ID = 0
EOS_ID = 1
MIN_VOCAB = 300  # pieces: bytes, control symbols, and a few merges


class Tokenizer(abc.ABC):
  """Turns texts into arrays of ids below `vocab_size`, and ids into text."""

  vocab_size: int

  @abc.abstractmethod
  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    """One int32 array of ids per text, without padding or end of document."""

  @abc.abstractmethod
  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """The text of the ids; padding and ends of documents are left out."""

  @abc.abstractmethod
  def to_bytes(self) -> bytes:
    """What `from_bytes` needs to make an equal tokenizer."""

  @classmethod
  @abc.abstractmethod
  def from_bytes(cls, data: bytes) -> "Tokenizer":
    """The tokenizer that `to_bytes` was called on."""

  @property
  def digest(self) -> str:
    """A hash of everything that decides the ids; part of cache keys."""
    return _digest([type(self).__name__.encode(), self.to_bytes()])


class ByteTokenizer(Tokenizer):
  """UTF-8 bytes shifted by two; needs no training, meant for tests."""

  vocab_size = 258

  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    _check_unicode(texts)
    return [
      np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 2
      for text in texts
    ]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    ids = np.asarray(ids)
    return bytes((ids[ids >= 2] - 2).astype(np.uint8)).decode(errors="replace")

  def to_bytes(self) -> bytes:
    return b""

  @classmethod
  def from_bytes(cls, data: bytes) -> "ByteTokenizer":
    del data
    return cls()


class SentencePieceTokenizer(Tokenizer):
  """Byte-pair encoding that falls back to bytes; `train` makes one."""

  def __init__(self, model: bytes):
    import sentencepiece

    self._model = model
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.vocab_size = self._processor.vocab_size()
    self._space_ids = [
      self._processor.piece_to_id(f"<0x{byte:02X}>")
      for byte in _SPACE_SYMBOL.encode()
    ]

  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    _check_unicode(texts)
    return [
      ids
      for start in range(0, len(texts), _CHUNK)
      for ids in self._encode_chunk(texts[start : start + _CHUNK])
    ]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    return self._processor.decode(np.asarray(ids, np.int32).tolist())

  def to_bytes(self) -> bytes:
    return self._model

  @classmethod
  def from_bytes(cls, data: bytes) -> "SentencePieceTokenizer":
    return cls(data)

  def _encode_chunk(self, texts: Sequence[str]) -> list[np.ndarray]:
    # A literal space symbol would come back as a space: write its bytes.
    parts = [text.split(_SPACE_SYMBOL) for text in texts]
    flat = [part for text in parts for part in text]
    encoded = iter(self._processor.encode(flat, num_threads=_num_threads()))
    arrays = []
    for text in parts:
      ids = next(encoded)
      for _ in text[1:]:
        ids += self._space_ids + next(encoded)
      arrays.append(np.array(ids, np.int32))
    return arrays


class Plan(NamedTuple):
  """The config's block `tokenizer`, with its defaults."""

  kind: str = "bpe"  # a name in TOKENIZERS
  vocab_size: int = 2048  # the most pieces to learn; bytes always has 258

  def check(self) -> None:
    """Refuses too few pieces, with a ValueError."""
    checks.at_least(
      1 if self.kind == "bytes" else MIN_VOCAB, vocab_size=self.vocab_size
    )


TOKENIZERS: dict[str, type[Tokenizer]] = {
  "bpe": SentencePieceTokenizer,
  "bytes": ByteTokenizer,
}


def load_or_train(
  texts: Sequence[str], plan: Plan, *, cache_dir: str | os.PathLike
) -> Tokenizer:
  """The tokenizer for these texts, read from `cache_dir` if it was made before.

  Args:
    texts: the corpus; at most 50 MB of it, chosen by hash, are learned from, so
      the order of the texts does not matter.
    plan: what kind of tokenizer, and of how many pieces.
    cache_dir: folder for trained models, made if missing.
  """
  if plan.kind not in TOKENIZERS:
    raise UserError(
      f"Unknown tokenizer {plan.kind!r}. Known: {', '.join(sorted(TOKENIZERS))}."
    )
  if plan.kind == "bytes":
    return ByteTokenizer()
  sample = sample_texts(texts, max_bytes=_MAX_TRAINING_BYTES)
  key = _training_key(sample, plan)

  def build(place: pathlib.Path) -> None:
    model = train(sample, vocab_size=plan.vocab_size).to_bytes()
    store.write_atomically(place / _MODEL_FILE, model)

  folder = cache.build_once(pathlib.Path(cache_dir) / key, build)
  return TOKENIZERS[plan.kind].from_bytes((folder / _MODEL_FILE).read_bytes())


def train(texts: Sequence[str], *, vocab_size: int) -> SentencePieceTokenizer:
  """Byte-pair encoding learned from `texts`; the same texts give the same model.

  Args:
    texts: what to learn from, in an order that the caller fixes.
    vocab_size: the most pieces, 256 bytes and three control symbols included;
      a small corpus gets fewer.
  """
  import sentencepiece

  if vocab_size < MIN_VOCAB:
    raise UserError(
      f"A vocabulary needs at least {MIN_VOCAB} pieces for bytes, control"
      f" symbols and a few merges, got vocab_size={vocab_size}."
    )
  _check_unicode(texts)
  lines = _training_lines(texts, vocab_size)
  if not lines:
    raise UserError(
      f"Nothing to train a tokenizer on: {len(texts)} texts without a character."
    )
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines),
    model_writer=model,
    model_type="bpe",
    vocab_size=vocab_size,
    hard_vocab_limit=False,
    byte_fallback=True,
    character_coverage=1.0,  # the lines hold no others
    pad_id=PAD_ID,
    eos_id=EOS_ID,
    unk_id=2,
    bos_id=-1,
    # The text itself, unchanged: without these, decode(encode(x)) differs from x.
    normalization_rule_name="identity",
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    num_threads=1,  # more threads give other merges
    minloglevel=2,  # errors only
  )
  return SentencePieceTokenizer(model.getvalue())


def sample_texts(texts: Sequence[str], *, max_bytes: int) -> list[str]:
  """Texts of about `max_bytes` in all, in an order given by their hashes."""
  _check_unicode(texts)
  chosen = []
  for text in sorted(texts, key=lambda t: (_digest([t.encode()]), t)):
    if max_bytes <= 0:
      break
    chosen.append(text[:max_bytes])
    max_bytes -= len(text.encode())
  return chosen


# Raise it when equal texts give another model, so that cached ones are unused.
_FORMAT = 2

_MODEL_FILE = "tokenizer.model"
_SPACE_SYMBOL = "\u2581"  # what SentencePiece writes for a space in its pieces
_UNKNOWN_SYMBOL = "\u2585"  # training drops a line that holds it
_LINE_CHARACTERS = 1000  # SentencePiece drops lines of more than 4192 bytes
_MAX_TRAINING_BYTES = 50_000_000  # 8k pieces take seven CPU seconds
_NUM_FIXED = 256 + 3  # bytes, padding, end of document, unknown
_CHUNK = 4096  # documents; bounds the memory that Python's integers take


def _num_threads() -> int:
  """All cores, or one in a worker process, of which each core has its own."""
  return 1 if multiprocessing.parent_process() else workers.num_cores()


def _training_lines(texts: Sequence[str], vocab_size: int) -> list[str]:
  """The texts cut into lines that the trainer will not drop.

  A space has a piece of its own, however rare it is: written as bytes it would be
  those of the symbol that stands for it.
  """
  rare = _rare_characters(texts, vocab_size).replace(" ", "")
  ends = re.compile(f"[\n{_UNKNOWN_SYMBOL}{re.escape(rare)}]+")
  lines = [
    line[start : start + _LINE_CHARACTERS]
    for text in texts
    for line in ends.split(text)
    for start in range(0, len(line), _LINE_CHARACTERS)
  ]
  if lines and not any(" " in line for line in lines):
    lines.append(" ")
  return lines


def _rare_characters(texts: Sequence[str], vocab_size: int) -> str:
  """Characters that get no piece of their own and are written as bytes.

  They are the rarest, together .05 % of the text (SentencePiece's default); or
  more, so that single characters take at most half of the pieces beyond the
  bytes: the trainer fails when they do not fit.
  """
  counts = collections.Counter()
  for text in texts:
    counts.update(text)
  ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
  covered = itertools.accumulate((n for _, n in ranked), initial=0)
  common = sum(n < 0.9995 * counts.total() for n in covered)
  common = min(common, (vocab_size - _NUM_FIXED) // 2)
  return "".join(character for character, _ in ranked[common:])


def _training_key(sample: Sequence[str], plan: Plan) -> str:
  import sentencepiece

  version = f"{_FORMAT} {sentencepiece.__version__}"
  header = f"{plan.kind} {plan.vocab_size} {version}"
  return _digest([header.encode(), *(text.encode() for text in sample)])


def _digest(parts: Sequence[bytes]) -> str:
  digest = hashlib.blake2b(digest_size=16)
  for part in parts:
    digest.update(len(part).to_bytes(8, "little") + part)
  return digest.hexdigest()


def _check_unicode(texts: Sequence[str]) -> None:
  for i, text in enumerate(texts):
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise UserError(
        f"Text {i} is not Unicode: half of a surrogate pair at character"
        f" {error.start}. Replace it where the text is read, for example with"
        " text.encode('utf-8', 'replace').decode()."
      ) from error
