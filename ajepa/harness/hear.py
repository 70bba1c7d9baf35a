"""The cures of the HEAR toolkit: heareval 2021.1.3 and hearvalidator 2021.0.2.

Each is a context manager around the execution of one of its modules. The code after the `yield` sees the
finished module and changes names in that module only.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .overlay import with_names
from .pickles import load_plain


def tensorflow_is_absent() -> bool:
    return importlib.util.find_spec("tensorflow") is None


@contextmanager
def tensorflow_stand_in(module: ModuleType) -> Iterator[None]:
    """Let `import tensorflow` succeed in `module`, and only while `module` is executed.

    If the stand-in stayed, the encoder under test and tensorboard would believe that TensorFlow is installed.
    For torch models the toolkit uses two names: the class `tf.Module`, to distinguish the two kinds of model,
    and `tf.test.is_gpu_available`, which must agree with torch or heareval refuses to start.
    """
    tensorflow: Any = ModuleType("tensorflow", "Stand-in for the two names that the HEAR toolkit uses.")
    tensorflow.__spec__ = ModuleSpec("tensorflow", loader=None)  # importlib.util.find_spec requires one
    tensorflow.Module = type("Module", (), {})
    tensorflow.test = ModuleType("tensorflow.test")
    tensorflow.test.is_gpu_available = lambda **_: True
    sys.modules["tensorflow"] = tensorflow
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


@contextmanager
def gpu_name_as_bytes(module: Any) -> Iterator[None]:
    """Let `device_name` decode what pynvml returns: formerly bytes, since pynvml 11.5 a str."""
    yield
    if not hasattr(module, "nvmlDeviceGetName"):  # imported on GPU machines only
        return
    nvml_name = module.nvmlDeviceGetName

    def name_as_bytes(handle: object) -> bytes:
        name = nvml_name(handle)
        return name.encode() if isinstance(name, str) else name

    module.nvmlDeviceGetName = name_as_bytes


@contextmanager
def trainer_with_gpus(module: Any) -> Iterator[None]:
    """Translate `Trainer(gpus=...)` as Lightning 1 read it: None, 0 and [] mean the CPU."""
    yield

    class Trainer(module.pl.Trainer):
        def __init__(self, *, gpus: int | str | list[int] | None, **options: Any):
            place = {"accelerator": "gpu", "devices": gpus} if gpus else {"accelerator": "cpu", "devices": 1}
            super().__init__(**place, **options)

    module.pl = with_names(module.pl, Trainer=Trainer)


@contextmanager
def settable_epoch(module: Any) -> Iterator[None]:
    """Respect `trainer.fit_loop.current_epoch = best_epoch`.

    heareval sets it before each test, to use the event post-processing that was best at that epoch. Lightning
    reads `trainer.current_epoch`, which after fitting is the number of epochs: a KeyError for every event
    task.
    """
    yield

    class Trainer(module.pl.Trainer):
        @property
        def current_epoch(self) -> int:
            chosen: int | None = getattr(self.fit_loop, "current_epoch", None)
            return super().current_epoch if chosen is None else chosen

    module.pl = with_names(module.pl, Trainer=Trainer)


@contextmanager
def outputs_at_epoch_end(module: Any) -> Iterator[None]:
    """Pass the outputs of all steps to `validation_epoch_end` and `test_epoch_end`, as Lightning 1 did."""
    yield
    for stage in ("validation", "test"):
        _hand_over_outputs(module.AbstractPredictionModel, stage)


def _hand_over_outputs(model_class: type, stage: str) -> None:
    step: Callable[..., Any] = getattr(model_class, f"{stage}_step")
    epoch_end: Callable[..., Any] = getattr(model_class, f"{stage}_epoch_end")

    def start(self: Any) -> None:
        self.step_outputs = []

    @functools.wraps(step)
    def collect(self: Any, batch: Any, batch_idx: int) -> Any:
        output = step(self, batch, batch_idx)
        self.step_outputs.append(output)
        return output

    def end(self: Any) -> None:
        outputs, self.step_outputs = self.step_outputs, []
        epoch_end(self, outputs)

    setattr(model_class, f"on_{stage}_epoch_start", start)
    setattr(model_class, f"{stage}_step", collect)
    setattr(model_class, f"on_{stage}_epoch_end", end)
    delattr(model_class, f"{stage}_epoch_end")  # Lightning 2 refuses a model that has it


@contextmanager
def plain_labels(module: Any) -> Iterator[None]:
    """Let heareval unpickle its labels, lists of text, without running code: a stranger's may hold some."""
    yield
    module.pickle = with_names(module.pickle, load=load_plain)


@contextmanager
def loadable_checkpoints(module: Any) -> Iterator[None]:
    """Let heareval load its own checkpoints, still with `weights_only=True`.

    Their hyper-parameters name a few classes and functions of torch: those of heareval's parameter grid.
    Only these are allowed, while heareval trains and tests.
    """
    yield
    from torch.serialization import safe_globals

    in_grid = [value for values in module.PARAM_GRID.values() for value in values if callable(value)]

    def with_grid_allowed(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with safe_globals(in_grid):
                return function(*args, **kwargs)

        return wrapper

    module.task_predictions_train = with_grid_allowed(module.task_predictions_train)
    module.task_predictions_test = with_grid_allowed(module.task_predictions_test)
