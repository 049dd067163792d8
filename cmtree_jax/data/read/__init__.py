"""Documents of any source: one reader per kind, one record per document."""
