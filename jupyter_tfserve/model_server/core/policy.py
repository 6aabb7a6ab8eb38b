"""Which versions are aspired to, and what to do next about those that are not what they should be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Latest:
    """The highest `count` versions (0 counts as 1, as in TF Serving)."""

    count: int = 1


@dataclass(frozen=True)
class All:
    """Every version there is."""


@dataclass(frozen=True)
class Specific:
    """Just these versions; those that do not exist are skipped."""

    versions: frozenset[int]


VersionPolicy = Latest | All | Specific


@dataclass(frozen=True)
class LoggingConfig:
    """Which of a model's requests are logged, and where."""

    filename_prefix: str
    sampling_rate: float  #: between 0 and 1


@dataclass(frozen=True)
class ModelConfig:
    """What is asked to be served under one name."""

    name: str
    base_path: Path
    platform: str = "tensorflow"
    policy: VersionPolicy = Latest()
    labels: Mapping[str, int] = field(default_factory=dict)
    logging: LoggingConfig | None = None


def aspired(found: Mapping[int, Path], policy: VersionPolicy, labelled: Collection[int] = ()) -> dict[int, Path]:
    """Of the versions found on disk those that should be served; `labelled` ones are, whatever the policy says."""
    if isinstance(policy, All):
        chosen: Iterable[int] = found
    elif isinstance(policy, Specific):
        chosen = [version for version in found if version in policy.versions]
    else:
        chosen = sorted(found)[-max(1, policy.count) :]
    return {version: found[version] for version in sorted({*chosen, *(v for v in labelled if v in found)})}


def may_unload(aspired_versions: Collection[int], available: Collection[int]) -> bool:
    """TF Serving's AvailabilityPreservingPolicy: an old version goes once one that is wanted answers, or none is
    wanted.
    """
    return not aspired_versions or any(version in available for version in aspired_versions)
