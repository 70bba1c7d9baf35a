"""Pictures of masks and of training curves, by matplotlib."""
