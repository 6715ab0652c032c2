"""Scores to what a person looks at: tables, images and files."""
