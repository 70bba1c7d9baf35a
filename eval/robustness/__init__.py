"""Scores of clean-trained probes on corrupted test clips."""
