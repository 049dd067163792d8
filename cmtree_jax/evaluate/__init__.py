"""What a recipe is worth, measured so that it can be believed."""
