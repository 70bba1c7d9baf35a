"""Files of weights: our format, official checkpoints of other systems, the Hugging Face Hub."""
