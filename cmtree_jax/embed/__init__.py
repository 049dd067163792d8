"""Where every document lies in a fixed space, and the first clusters in it."""
