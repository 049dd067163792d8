"""Mathematics that several methods of choosing documents share; arrays only."""
