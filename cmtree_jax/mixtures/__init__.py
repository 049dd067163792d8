"""Mathematics of mixtures: designs of runs, laws fitted to them, and their optima."""
