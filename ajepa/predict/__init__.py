"""Labels for files: a classifier over recordings of any number and length, in constant memory."""

from .files import Prediction, predict_files
from .table import PredictError

__all__ = ["PredictError", "Prediction", "predict_files"]
