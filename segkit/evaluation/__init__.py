"""A split and what predicts it to scores, comparisons and files."""
