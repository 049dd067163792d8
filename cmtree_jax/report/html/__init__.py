"""Pages for people: the report of a job, and what a notebook shows of its results."""
