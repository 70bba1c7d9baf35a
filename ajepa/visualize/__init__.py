"""What the predictor knows: a diffusion decoder draws spectrograms from its outputs (A-JEPA, section 4.4)."""
