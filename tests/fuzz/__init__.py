"""Mutated inputs through everything that reads files; `make fuzz` runs them for as long as it is given."""
