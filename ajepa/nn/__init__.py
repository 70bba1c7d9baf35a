"""The networks: patch grid, positions, Transformer blocks, encoder, predictor, decoder."""
