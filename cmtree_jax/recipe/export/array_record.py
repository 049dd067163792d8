"""A TFDS data set per leaf in ArrayRecord files: random access, for Grain and MaxText.

Read one by `tfds.builder_from_directory(folder).as_data_source("train")` or its files
by `grain.sources.ArrayRecordDataSource`, whose records are serialized
`tf.train.Example`s. Neither writing nor this way of reading needs TensorFlow.
"""

from pathlib import Path

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.recipe.export.base import Capped, Options, Shard
from cmtree_jax.recipe.export.leaves import Group, Leaf, gather, paths

FOLDER = "array_record"
VERSION = "1.0.0"
# The name of each data set: TFDS allows fewer characters than a leaf's name has.
_DATASET = "leaf"
_SPLIT = "train"


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes array_record/LEAF/1.0.0, with features id, text, tokens and weight."""
  del options  # the weights are within the budget
  leaves = write(capped, folder)
  metadata = [
    folder / FOLDER / leaf.name / VERSION / name
    for leaf in leaves
    for name in ("dataset_info.json", "features.json")
  ]
  return [*paths(folder, FOLDER, leaves), *metadata]


def pattern(leaf: Leaf) -> str:
  """The pattern of a leaf's files, relative to the export."""
  return f"{FOLDER}/{leaf.name}/{VERSION}/{_DATASET}-{_SPLIT}.array_record*"


def write(capped: Capped, folder: Path) -> list[Leaf]:
  """The leaves in ArrayRecord files, written unless an export has them."""
  features = _features()
  sizes: dict[str, list[tuple[int, int]]] = {}  # records and bytes of each file

  def write_group(group: Group) -> Path:
    of_leaf = sizes.setdefault(group.leaf, [])
    of_leaf.append((len(group.records), sum(map(len, group.records))))
    return _write_records(_data_dir(folder, group.leaf), group)

  leaves = gather(
    capped,
    folder,
    FOLDER,
    encode=lambda shard, row: _encode(features, shard, row),
    write_group=write_group,
  )
  for leaf, of_leaf in sizes.items():
    _write_metadata(_data_dir(folder, leaf), features, of_leaf)
  return leaves


def _data_dir(folder: Path, leaf: str) -> Path:
  return folder / FOLDER / leaf / VERSION


def _features():
  import tensorflow_datasets as tfds

  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "text": tfds.features.Text(),
      "tokens": tfds.features.Scalar(np.int64),
      # A tf.train.Example holds no float64.
      "weight": tfds.features.Scalar(np.float32),
    }
  )


def _encode(features, shard: Shard, row: int) -> bytes:
  from tensorflow_datasets.proto import tf_example_pb2

  written = features.serialize_example(
    {
      "id": shard.id[row],
      "text": shard.text[row],
      "tokens": shard.num_tokens_N[row],
      "weight": shard.weight_N[row],
    }
  )
  # The features are a map, whose order is by chance in each process unless asked for.
  example = tf_example_pb2.Example.FromString(written)  # type: ignore
  return example.SerializeToString(deterministic=True)


def _write_records(data_dir: Path, group: Group) -> Path:
  from array_record.python import array_record_module

  path = data_dir / f"{_DATASET}-{_SPLIT}.array_record-{group.number:05d}"
  path.parent.mkdir(parents=True, exist_ok=True)
  with store.replacing(path) as temporary:
    # One record per compressed group, as random access wants it.
    writer = array_record_module.ArrayRecordWriter(
      str(temporary), "group_size:1"
    )
    for record in group.records:
      writer.write(record)
    writer.close()
  return path


def _write_metadata(data_dir: Path, features, sizes) -> None:
  import tensorflow_datasets as tfds
  from etils import epath
  from tensorflow_datasets.core import naming

  template = naming.ShardedFileTemplate(
    data_dir=epath.Path(data_dir),
    # Without the usual "-of-N": N is not known until the corpus ends.
    template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    dataset_name=_DATASET,
    split=_SPLIT,
    filetype_suffix="array_record",
  )
  split = tfds.core.SplitInfo(
    name=_SPLIT,
    shard_lengths=[records for records, _ in sizes],
    num_bytes=sum(num_bytes for _, num_bytes in sizes),
    filename_template=template,
  )
  tfds.folder_dataset.write_metadata(
    data_dir=str(data_dir),
    features=features,
    split_infos=[split],
    filename_template=template,
    version=VERSION,
    check_data=False,  # would need TensorFlow
  )
