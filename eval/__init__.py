"""Evaluation: baselines and protocols, in the harnesses that the field uses."""
