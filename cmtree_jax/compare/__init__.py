"""Many methods on many targets under one token budget, cell by cell.

`python -m cmtree_jax.compare --config configs/compare.py --workdir W`
"""
