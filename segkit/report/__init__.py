"""Scores to what a person looks at: tables, pictures and files."""
