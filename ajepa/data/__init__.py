"""Audio on disk: crops of files for pre-training, and synthetic sets in the true layouts."""
