"""What the command lines run: the config as plans, then one stage after another."""
