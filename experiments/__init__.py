"""One command per claim; `LOG.md` keeps what was measured, failures included."""
