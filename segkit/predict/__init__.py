"""A trained model at work: what it looks at, its masks, and the files that are made of them."""
