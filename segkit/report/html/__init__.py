"""The report of an evaluation: one HTML file that needs neither a server nor a network."""
