"""Pictures of masks and of training curves, by matplotlib; progress in the terminal, by rich."""
