"""Self-contained HTML pages: everything is in the one file, and nothing is fetched."""
