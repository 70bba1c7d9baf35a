"""Search among embeddings: the nearest clips to one, and to each other."""
