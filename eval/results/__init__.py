"""Results: scores, intervals, records, and where they come from."""
