"""The encoder that comes with the package, and its card."""
