"""Models that can be evaluated: ours, baselines, and encoders of other libraries."""
