"""A workdir as a job would leave it, written by hand: no model is trained for a page."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmtree_jax.report.html import documents, nodes

# What documents, targets and names may hold, and no page may do.
HOSTILE = (
  "</script><script>window.hacked=1</script>",
  "<img src=x onerror=window.hacked=1>",
  "<a href='javascript:window.hacked=1'>click</a>",
  'javascript:window.hacked=1 " onmouseover="window.hacked=1',
  "left \u202egnitrw\u202c \u2066right\u2069",
  "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x00",
  "a_word_of_no_end" * 6,
  "日本語 العربية हिन्दी",  # as it is
  "<!-- <script> %{y} $\\alpha$ --text {0} \u2028 &amp;",
)
FILES = (
  *("config.json", "documents.parquet", "recipe.json", "results.parquet"),
  *("sample.parquet", "summary.json"),
)
PATHS = ("0.0", "0.1", "1.0", "1.1")
WEIGHTS = (4.0, 0.5, 0.25, 0.75)
_EPOCHS = 0.5
BUDGET = {
  "tokens": 4_000,
  "pool_tokens": 8_000,
  "parameters": 1_000,
  "max_epochs": 4.0,
  "r_star": 15.0,
  "min_documents": 4,
}


def make(
  folder: pathlib.Path,
  *,
  size: int = 80,
  names: tuple[str, ...] = ("plain",),
  text: str = "",
  width: int = 1,
) -> pathlib.Path:
  """Files of a main job whose tree has two levels; returns the folder.

  Args:
    folder: gets the files.
    size: documents, of ten tokens each.
    names: what targets, sources, terms, settings and texts are called in turn.
    text: of every document; "": one of the names.
    width: how many leaves stand for each of the four.
  """
  folder.mkdir(parents=True, exist_ok=True)

  def name(i: int) -> str:
    return names[i % len(names)]

  paths = [f"{path}.{i}" for path in PATHS for i in range(width)]
  paths = list(PATHS) if width == 1 else paths
  leaf_N = np.arange(size) % len(paths)
  weight_N = np.array(WEIGHTS)[leaf_N // width]
  weight_N[::10] = 1e-6
  value_N = np.where(np.arange(size) % 3, np.nan, weight_N / 10)
  ids = [f"{i} {name(i)}" for i in range(size)]
  columns = {
    "document_id": ids,
    "weight": weight_N,
    "leaf": pa.array(leaf_N, pa.int32()),
    "path": [paths[leaf] for leaf in leaf_N],
    "confidence": np.ones(size, np.float32),
    "value": pa.array(value_N, from_pandas=True),
    "tokens": np.full(size, 10),
  }
  pq.write_table(pa.table(columns), folder / documents.FILE, row_group_size=32)
  _sample(folder, ids, [text or name(i) for i in range(size)], names)
  _results(folder, names)
  settings = {
    "method": "cmtree",
    "data": {"source": [name(0)], "targets": [name(1)]},
    "budget": {"epochs": _EPOCHS, "max_epochs": 4.0},
    "other": {name(2): name(3)},
  }
  _write(folder, "config.json", settings)
  summary = {"wall_seconds": 3.0, "peak_rss_bytes": 2**30, "device": name(4)}
  _write(folder, "summary.json", summary)
  _write(folder, "comparison.json", {"rows": []})
  _write(folder, "recipe.json", _recipe(paths, name))
  return folder


def _write(folder: pathlib.Path, name: str, told: dict) -> None:
  (folder / name).write_text(json.dumps(told))


def _sample(folder, ids, texts, names) -> None:
  row_S = documents.rows(np.arange(len(ids), dtype=np.uint64))
  embedding_SE = np.random.default_rng(0).normal(size=(len(row_S), 3))
  told = {
    "id": [ids[i] for i in row_S],
    "source": [names[i % len(names)] for i in row_S],
    "text": [texts[i] for i in row_S],
  }
  documents.save(folder, row_S, embedding_SE, told)


def _results(folder, names) -> None:
  rows = [
    {
      "method": method,
      "target_set": names[0],
      "target": target,
      "split": split,
      "seed": seed,
      "search_seed": 0,
      "fraction": 1.0,
      "tokens": 1000,
      "bpb": base + 0.01 * seed,
      "accuracy": float("nan"),
      "search_tokens": 100.0,
      "search_flops": 1e6,
      "trial_flops": 2e6,
      "final_flops": 3e6,
      "effective_sample_size": 0.5,
      "kept_share": 0.0,
    }
    for method, base in (("natural", 2.0), ("cmtree", 1.5), (names[-1], 1.8))
    for target in (names[0], f"{names[6 % len(names)]}_2")
    for split in ("validation", "test")
    for seed in (0, 1)
  ]
  pq.write_table(pa.Table.from_pylist(rows), folder / "results.parquet")


def _recipe(paths, name) -> dict:
  inner = sorted(
    {p.rsplit(".", n)[0] for p in paths for n in (1, 2) if n <= p.count(".")}
  )
  share = 1 / len(paths)
  told = []
  for i, path in enumerate(["", *inner, *paths]):
    below = [j for j, leaf in enumerate(paths) if nodes.is_below(leaf, path)]
    weights = [WEIGHTS[4 * j // len(paths)] for j in below]
    mass, mixture = share * len(below), share * sum(weights) / 1.375
    told.append(
      {
        "path": path,
        "name": name(i),
        "mass": mass,
        "mixture": mixture,
        "weight": mixture / mass,
        "terms": [name(i), name(i + 1)],
        "typical_id": name(i),
        "typical": name(i + 2),
      }
    )
  judged = {"method": "cmtree", "candidate": "", "kept_share": 0.0}
  row = {
    "name": "cmtree",
    "bpb": 1.5,
    "difference": -0.5,
    "worst_target": name(0),
    "worst_difference": -0.4,
    "differences": {name(0): -0.4},
  }
  rounds = [
    {f"loss.{name(5)}": 3.0 - i, "gain": 0.1 * i, "effective_sample_size": 0.5}
    for i in range(3)
  ]
  return {
    "format": 2,
    "method": "cmtree",
    "targets": [name(1)],
    "budget": BUDGET,
    "nodes": told,
    "history": rounds,
    "ledger": dict.fromkeys(
      ("search_tokens", "search_flops", "trial_tokens", "trial_flops"), 1e6
    ),
    "notes": [f"Skipped 1 document: {name(0)}"],
    "overlap": {name(1): 0.001},
    "growth": [
      {
        "event": "split",
        "step": 1,
        "node": "0",
        "promised": 0.1,
        "measured": 0.2,
        "rounds": 2,
        "undone": False,
      }
    ],
    "guard": {
      "asked": judged,
      "handed_over": judged,
      "why": f"cmtree is better than {name(0)}.",
      "told": [f"Ruled out is {name(3)}."],
      "noise_floor": 0.01,
      "rows": [row, {**row, "name": "natural"}],
    },
  }
