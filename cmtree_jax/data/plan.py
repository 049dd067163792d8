"""What a corpus consists of: the config's block `data`, with its defaults."""

from typing import NamedTuple

from cmtree_jax import checks
from cmtree_jax.data.corpora import bed

# Names that no target can have: what stands for no target where there are some, for the
# mean over several in tables, and for the set of those whose recipe is the same for all.
NO_TARGET, MEAN, ANY = "none", "mean", "any"


class Plan(NamedTuple):
  """Where documents and targets come from, and what is done with bad ones."""

  # default, stdlib, or KIND:ADDRESS; kinds: jsonl, parquet, text, tfds, seqio, hf.
  source: tuple[str, ...] = ("default",)
  target_files: tuple[str, ...] = ()  # one file per target
  # Names of targets. Empty: all that there are; "none": no target, for methods that
  # need none.
  targets: tuple[str, ...] = ("film_reviews", "humaneval", "news")
  third_party: bool = True  # texts of others: news, reviews, quotations
  text_field: str = "text"
  id_field: str = "id"
  source_field: str = "source"  # hidden label, used to score partitions
  max_document_bytes: int = 5_000_000  # larger documents are refused
  strict: bool = False  # stop at the first bad document
  max_skipped: int = 1000  # bad documents; more stop the job
  max_documents: int = 0  # a sample of the pool, by digest; 0: all
  drop_repeated_texts: bool = False  # keep the first of equal texts only
  shard_documents: int = 8192  # in a shard, the unit of parallel work
  max_overlap: float = 0.01  # share of a target's 13-word runs in the pool
  # A test bed, made of the pool by functions of ours, such as spoiled:words:0.5; see
  # `data/corpora/bed.py`. Empty: the pool as it is.
  bed: str = ""
  bed_seed: int = 0  # of all draws of the bed

  def check(self) -> None:
    """Refuses what contradicts itself, with a ValueError."""
    if not self.source:
      raise ValueError("source must name at least one source.")
    if not self.text_field:
      raise ValueError("text_field must name a field, came none.")
    if NO_TARGET in self.targets and len(self.targets) > 1:
      raise ValueError(
        f"targets names {NO_TARGET!r} beside others, came "
        f"{', '.join(self.targets)}; name targets or no target."
      )
    checks.at_least(
      1,
      max_document_bytes=self.max_document_bytes,
      shard_documents=self.shard_documents,
    )
    checks.at_least(
      0, max_skipped=self.max_skipped, max_documents=self.max_documents
    )
    checks.share(max_overlap=self.max_overlap)
    checks.at_least(0, bed_seed=self.bed_seed)
    if self.bed:
      bed.parse(self.bed)
