"""Corpora that the package makes itself, and what a config may name as a source."""
