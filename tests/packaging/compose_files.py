"""Compose files read as Docker would: merged, interpolated, and checked against the rules that matter here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

TOP = {"name", "services", "networks", "volumes", "secrets", "configs"}
# The keys of a service that the compose specification has and that these files may use.
SERVICE = {
    "image", "user", "restart", "init", "read_only", "cap_drop", "security_opt", "networks", "tmpfs", "pids_limit",
    "stop_grace_period", "stop_signal", "logging", "environment", "entrypoint", "command", "secrets", "volumes",
    "shm_size", "mem_limit", "healthcheck", "depends_on", "ports", "profiles", "deploy",
}  # fmt: skip
HEALTH = {"test", "interval", "timeout", "retries", "start_period", "start_interval"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
_DURATION = re.compile(r"(\d+(h|m|s|ms))+")
_SIZE = re.compile(r"\d+[kmg]b?")
_VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


def read_compose(*paths: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Read compose files laid over each other, with their variables put in.

    Raises:
        ValueError: If a variable that must be given is not.
    """
    found: dict[str, Any] = {}
    for path in paths:
        found = _laid_over(found, _interpolated(yaml.safe_load(path.read_text()), variables))
    return found


def read_variables(path: Path) -> dict[str, str]:
    """Read an ``.env`` file."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def problems(compose: Mapping[str, Any]) -> Iterator[str]:
    """Yield what Docker would refuse, or misunderstand in silence."""
    yield from (f"{key}: unknown" for key in compose if key not in TOP and not key.startswith("x-"))
    services = compose["services"]
    for name, service in services.items():
        yield from (f"{name}: {problem}" for problem in _service_problems(service, compose))
    yield from (f"{name}: needs itself" for name in services if name in _needed(name, services))


def _service_problems(service: Mapping[str, Any], compose: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{key}: unknown" for key in service if key not in SERVICE)
    if "image" not in service:
        yield "no image"
    for kind in ("networks", "secrets"):
        known = compose.get(kind) or {}
        yield from (f"{kind}: no {name}" for name in service.get(kind, []) if name not in known)
    for key in ("entrypoint", "command", "cap_drop", "security_opt", "tmpfs", "ports", "volumes"):
        value = service.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            yield f"{key}: not a list of strings"
    values = service.get("environment", {}).values()
    yield from (f"environment: {value!r} is no string" for value in values if not isinstance(value, str))
    yield from _shape_problems(service)
    for other, needed in service.get("depends_on", {}).items():
        if other not in compose["services"] or needed["condition"] not in CONDITIONS:
            yield f"depends_on: {other} {needed}"
        elif needed["condition"] == "service_healthy" and "healthcheck" not in compose["services"][other]:
            yield f"depends_on: {other} has no health check"


def _shape_problems(service: Mapping[str, Any]) -> Iterator[str]:
    for key in ("mem_limit", "shm_size"):
        if key in service and not _SIZE.fullmatch(str(service[key])):
            yield f"{key}: {service[key]!r}"
    if not re.fullmatch(r"no|always|unless-stopped|on-failure(:\d+)?", str(service.get("restart", "no"))):
        yield f"restart: {service['restart']!r}"
    health = service.get("healthcheck")
    if health is None:
        return
    yield from (f"healthcheck.{key}: unknown" for key in health if key not in HEALTH)
    if health["test"][0] not in ("CMD", "CMD-SHELL"):
        yield "healthcheck.test: begins with neither CMD nor CMD-SHELL"
    for key in HEALTH - {"test", "retries"}:
        if key in health and not _DURATION.fullmatch(health[key]):
            yield f"healthcheck.{key}: {health[key]!r}"


def _needed(name: str, services: Mapping[str, Any]) -> set[str]:
    """Every service that one needs, directly or not."""
    found: set[str] = set()
    new = set(services[name].get("depends_on", {}))
    while new:
        found |= new
        new = {other for each in new for other in services.get(each, {}).get("depends_on", {})} - found
    return found


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match, variables), value)
    if isinstance(value, dict):
        return {key: _interpolated(item, variables) for key, item in value.items()}
    return [_interpolated(item, variables) for item in value] if isinstance(value, list) else value


def _variable(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, kind, other = match.groups()
    if variables.get(name):
        return variables[name]
    if kind != "-":
        raise ValueError(f"{name} is not given: {other}")
    return str(other)


def _laid_over(below: Any, above: Any) -> Any:
    """Mappings key by key, lists one after the other, everything else the later one, as Docker does it."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: _laid_over(below.get(key), above.get(key)) for key in {**below, **above}}
    if isinstance(below, list) and isinstance(above, Sequence):
        return [*below, *(item for item in above if item not in below)]
    return below if above is None else above
