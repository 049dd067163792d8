"""The mathematics that mixture methods share: designs, laws, surrogates, optima."""
