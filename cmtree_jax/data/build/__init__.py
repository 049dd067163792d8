"""Text to arrays on disk: read once, tokenized and embedded shard by shard."""
