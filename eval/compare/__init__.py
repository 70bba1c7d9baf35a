"""Comparisons: models by tasks by protocols, as cells that resume."""
