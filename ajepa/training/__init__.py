"""Pre-training: recipes, schedules, the loop and its gauges."""
