"""Rows to train on: packed, drawn under weights, exactly resumable."""
