"""Fine-tuning an encoder on a task, as A-JEPA and Audio-MAE do it."""
