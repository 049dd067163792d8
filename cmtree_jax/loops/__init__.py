"""The loops that drive methods and trainings; they see plans, never the config."""
