"""Sweeps: `python -m cmtree_jax.sweep --config configs/sweeps/NAME.py`."""
