"""The proxy model: a small decoder-only language model and its losses."""
