"""The options of our upstream, which `-g` (`model_config`) of s3prl sets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import yaml

from ajepa.errors import AjepaError
from ajepa.suggest import did_you_mean


class UpstreamError(AjepaError, ValueError):
    """The upstream cannot be made as requested; the message says what to change."""


@dataclass(frozen=True)
class UpstreamOptions:
    """Options of the upstream.

    Args:
        frequency: what becomes of the F frequency patches of a time step: "concatenate" them to F * D
            features (as SSAST and MAE-AST give them to SUPERB), or "average" them to D.
        repeat: how often each frame is given, which multiplies their rate. s3prl's runner keeps
            round(samples / rate) frames of a clip: none of a clip shorter than half a frame.
        weights, chunk_seconds, seed, heads, sample_rate: as in `ajepa.load_model`.
        cache: folder for the features of clips, see `ajepa.s3prl_upstream.cache`; None for no cache.
        cache_gigabytes: its size limit.
    """

    frequency: Literal["concatenate", "average"] = "concatenate"
    repeat: int = 1
    weights: str | None = None
    chunk_seconds: float | None = None
    seed: int = 0
    heads: int | None = None
    sample_rate: int | None = None
    cache: str | None = None
    cache_gigabytes: float = 10.0

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise UpstreamError(f"repeat is {self.repeat}, must be at least 1")
        if not self.cache_gigabytes > 0:
            raise UpstreamError(f"cache_gigabytes is {self.cache_gigabytes}, must be above 0")

    @classmethod
    def read(cls, model_config: str | None, given: dict[str, Any] | None = None) -> UpstreamOptions:
        """Options from `-g` and from keywords (`S3PRLUpstream(extra_conf=...)`), which take precedence.

        Args:
            model_config: a YAML file, or YAML itself: "{frequency: average, cache: features}".

        Raises:
            UpstreamError: neither file nor YAML, an unknown option, or a value of the wrong type.
        """
        values = {**_mapping(model_config), **(given or {})}
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise UpstreamError(f"no option is called {name!r}{hint}; choose from {', '.join(known)}")
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls, "upstream")
        try:
            checked = parser.parse_object({"upstream": values})
        except jsonargparse.ArgumentError as error:
            raise UpstreamError(f"option of the wrong type: {error}") from error
        return cls(**checked.upstream.as_dict())

    def of_model(self) -> dict[str, Any]:
        """Those that are keyword arguments of `ajepa.load_model`."""
        names = ("weights", "chunk_seconds", "seed", "heads", "sample_rate")
        return {name: value for name, value in asdict(self).items() if name in names}


def _mapping(model_config: str | None) -> dict[str, Any]:
    if not model_config:
        return {}
    inline = model_config.lstrip().startswith("{")
    try:
        text = model_config if inline else Path(model_config).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, yaml.YAMLError) as error:
        raise UpstreamError(
            f"-g {model_config}: {error}; give a YAML file, or options such as '{{frequency: average}}'"
        ) from error
    if not isinstance(values, dict):
        raise UpstreamError(f"-g {model_config}: expected options with values, such as `frequency: average`")
    return values
