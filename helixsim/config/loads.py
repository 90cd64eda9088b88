"""``workload`` and ``slo`` sections -> WorkloadSpec, ArrivalsSpec, Slo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helixsim import units
from helixsim.config.choices import Choices
from helixsim.config.load_schema import (
    ArrivalsSection,
    CourseSection,
    LimitsSection,
    TraceSection,
    WorkloadSection,
)
from helixsim.config.schema import ExperimentSection, ObjectiveSection, SloSection
from helixsim.config.source import Source
from helixsim.config.variation import TrafficScaleSection
from helixsim.domain.request import Slo, Window
from helixsim.errors import ConfigError, Problem
from helixsim.units import seconds_to_ns
from helixsim.workload.arrivals import PROCESSES
from helixsim.workload.course import diurnal
from helixsim.workload.readers.registry import FORMATS, check_options, detect_format
from helixsim.workload.spec import (
    ArrivalsSpec,
    Corner,
    Course,
    LengthLimits,
    LengthsSpec,
    ReadOptions,
    RequestClass,
    SessionsSpec,
    SystemPromptsSpec,
    TraceCourse,
    TraceSpec,
    TrafficScale,
    WorkloadSpec,
)
from helixsim.yamlio import KeyPath

DEFAULT_LENGTHS = "azure-conversation"
LIMITS: KeyPath = ("workload", "limits")


def build_workload(
    section: WorkloadSection, choices: Choices, source: Source, problems: list[Problem]
) -> WorkloadSpec | None:
    """Return the load, None if required keys are missing; faults are added to ``problems``.

    Raises
    ------
    DataError
        If the format of the trace is not given and cannot be detected.
    """
    window = _window(section)
    limits, scale = _limits(section.limits, LIMITS, source, problems), section.scale or TrafficScaleSection()
    factors = TrafficScale(scale.rate, scale.prompt_tokens, scale.output_tokens)
    if any(one.arrivals is not None for one in (section.classes or {}).values()):
        streams = build_streams(section, choices, source, problems)
        rates = [one.arrivals.rate_rps for one in streams if one.arrivals is not None]
        whole = ArrivalsSpec("poisson", rate_rps=sum(rate or 0.0 for rate in rates))
        return WorkloadSpec(None, None, whole, limits, window, factors, classes=streams) if streams else None
    trace = None if section.trace is None else _trace(section.trace, source, problems)
    lengths = None
    if section.lengths is not None:
        options = choices.options[("workload", "lengths")]
        lengths = LengthsSpec(section.lengths.distribution, _pairs(options))
    elif section.trace is None:
        lengths = LengthsSpec(DEFAULT_LENGTHS)
    arrivals = build_arrivals(section.arrivals, ("workload", "arrivals"), section, source, problems)
    if arrivals is None or (section.trace is not None and trace is None):
        return None
    sessions, prompts = _sessions(section), _system_prompts(section)
    classes = _classes(section, arrivals, source, problems)
    return WorkloadSpec(trace, lengths, arrivals, limits, window, factors, sessions, prompts, classes)


def _window(section: WorkloadSection) -> Window:
    duration_ns = None if section.duration is None else _ns(section.duration)
    drain = duration_ns is None if section.drain is None else section.drain
    return Window(_ns(section.warmup), duration_ns, drain)


def build_streams(
    section: WorkloadSection, choices: Choices, source: Source, problems: list[Problem]
) -> tuple[RequestClass, ...]:
    """Return classes with arrivals of their own; none, with faults added to ``problems``, if some cannot be built."""
    before = len(problems)
    of_all = section.model_fields_set & {"trace", "lengths", "arrivals", "sessions", "system_prompts", "limits"}
    for key in sorted(of_all):
        message = "not allowed where classes have arrivals of their own: state it in the classes"
        problems.append(Problem(source.key_where(("workload", key)), f"workload.{key}", message))
    streams = []
    for name, one in (section.classes or {}).items():
        at: KeyPath = ("workload", "classes", name)
        if one.share is not None:
            message = (
                "not allowed with arrivals of its own" if one.arrivals else "other classes have arrivals of their own"
            )
            problems.append(source.problem((*at, "share"), message))
        missing = [key for key in ("arrivals", "lengths") if getattr(one, key) is None]
        problems += [source.problem(at, f"required key {key} is missing") for key in missing]
        if one.arrivals is None or one.lengths is None or (*at, "lengths") not in choices.options:
            continue
        arrivals = build_arrivals(one.arrivals, (*at, "arrivals"), section, source, problems)
        if arrivals is None:
            continue
        if arrivals.process in PROCESSES and PROCESSES[arrivals.process].generate is None:
            message = f"{arrivals.process} arrivals have no rate; expected a process that generates arrivals at one"
            problems.append(source.problem((*at, "arrivals", "process"), message))
        elif arrivals.rate_rps is None:
            problems.append(source.problem((*at, "arrivals"), "required key rate is missing"))
        lengths = LengthsSpec(one.lengths.distribution, _pairs(choices.options[(*at, "lengths")]))
        limits = LengthLimits()
        if one.limits is not None:
            limits = _limits(one.limits, (*at, "limits"), source, problems)
        streams.append(RequestClass(name, None, one.priority, arrivals, lengths, limits))
    return tuple(streams) if len(problems) == before else ()


def _sessions(section: WorkloadSection) -> SessionsSpec | None:
    found = section.sessions
    if found is None:
        return None
    think_time_s = units.parse(found.think_time, "time")
    return SessionsSpec(found.turns, think_time_s, found.turns_distribution, found.think_time_distribution)


def _system_prompts(section: WorkloadSection) -> SystemPromptsSpec | None:
    found = section.system_prompts
    return None if found is None else SystemPromptsSpec(found.count, found.tokens, found.skew)


def unstated(section: ExperimentSection) -> list[str]:
    """Return sentences on what an experiment leaves to defaults that change its answers."""
    workload, found = section.workload, []
    has_streams = any(one.arrivals is not None for one in (workload.classes or {}).values())
    if workload.trace is None and workload.lengths is None and not has_streams:
        found.append(f"no trace and no lengths given: lengths drawn from {DEFAULT_LENGTHS}")
    if "name" not in section.engine.model_fields_set:
        found.append(
            f"no engine given: {section.engine.name}, which sends each token through the coordinator as the paper's "
            "simulator does; engine: vllm-1 serves as vLLM does today"
        )
    return found


def build_arrivals(
    section: ArrivalsSection, path: KeyPath, workload: WorkloadSection, source: Source, problems: list[Problem]
) -> ArrivalsSpec | None:
    """Return the arrivals, None if neither a process nor a trace is given."""
    process = section.process or ("trace" if workload.trace is not None else None)
    if process is None:
        problems.append(source.problem((*path, "process"), "required key is missing, because there is no trace"))
        return None
    factor = 1.0 if workload.scale is None else workload.scale.rate
    if process == "saturate" and factor != 1:
        problems.append(source.problem(("workload", "scale", "rate"), "saturate arrivals have no rate to scale"))
    return ArrivalsSpec(
        process=process,
        rate_rps=None if section.rate is None else units.parse(section.rate, "rate") * factor,
        burstiness=1.0 if section.burstiness is None else section.burstiness,
        concurrency=None if section.concurrency is None else max(1, round(section.concurrency * factor)),
        prompts_in_flight=section.prompts_in_flight,
        feed_below=section.feed_below,
        num_requests=section.num_requests,
        over_time=None
        if section.over_time is None
        else _course(section.over_time, (*path, "over_time"), source, problems),
    )


def _course(
    section: CourseSection | None, path: KeyPath, source: Source, problems: list[Problem]
) -> Course | TraceCourse | None:
    """Return the factor on the rate over time; faults are added to ``problems``."""
    if section is None:
        return None
    if section.trace is not None:
        return TraceCourse(units.parse(section.trace.period, "time"), section.trace.bins)
    if section.diurnal is not None:
        day = section.diurnal
        return diurnal(day.amplitude, units.parse(day.peak, "time"), units.parse(day.period, "time"))
    corners = tuple(Corner(units.parse(one.at, "time"), one.factor) for one in section.corners or ())
    for number, (corner, before) in enumerate(zip(corners, (Corner(0.0, 0.0), *corners), strict=False)):
        at = (*path, "corners", number, "at")
        if number == 0 and corner.time_s != 0:
            problems.append(source.problem(at, f"the first corner is at 0 s, got {corner.time_s:g} s"))
        elif corner.time_s < before.time_s:
            problems.append(source.problem(at, f"{corner.time_s:g} s comes before the previous corner"))
    if not any(corner.factor for corner in corners):
        problems.append(source.problem((*path, "corners"), "all factors are 0: no request would arrive"))
    return Course(corners)


def build_slo(section: SloSection) -> Slo:
    """Return the service-level objective."""
    classes = tuple((name, _objective(one)) for name, one in (section.classes or {}).items())
    return replace(_objective(section), classes=classes)


def _objective(section: ObjectiveSection) -> Slo:
    ttft, tpot, e2el = (
        None if value is None else units.parse(value, "time") for value in (section.ttft, section.tpot, section.e2el)
    )
    return Slo(ttft, tpot, e2el)


def _trace(section: TraceSection, source: Source, problems: list[Problem]) -> TraceSpec | None:
    at = ("workload", "trace", "path")
    path = source.file(at, section.path)
    if not path.is_file():
        problems.append(source.problem(at, f"no such file: {path}"))
        return None
    reading = ReadOptions(
        chars_per_token=section.chars_per_token,
        unit=section.unit,
        columns=tuple(section.columns.model_dump(exclude_none=True).items()) if section.columns else (),
        where=tuple((name, _text(value)) for name, value in (section.where or {}).items()),
        result=section.result,
        block_size=section.block_size,
        extend_sessions=section.extend_sessions or None,
    )
    name = section.format or detect_format(path, reading)
    if name in FORMATS:  # the choices report the others
        try:
            check_options(name, reading, path)
        except ConfigError as error:
            problems += [source.problem(("workload", "trace"), problem.message) for problem in error.problems]
            return None
    return TraceSpec(
        format=name,
        path=path,
        start_s=units.parse(section.start, "time"),
        duration_s=None if section.duration is None else units.parse(section.duration, "time"),
        reading=reading,
        stretch_s=None if section.stretch is None else units.parse(section.stretch, "time"),
    )


def _text(value: str | float | bool) -> str:
    """Return a value as written in a CSV or JSON file."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _classes(
    section: WorkloadSection, arrivals: ArrivalsSpec, source: Source, problems: list[Problem]
) -> tuple[RequestClass, ...]:
    """Return the classes of requests; faults are added to ``problems``."""
    at = ("workload", "classes")
    classes = tuple(RequestClass(name, one.share, one.priority) for name, one in (section.classes or {}).items())
    shares = [one.share for one in classes if one.share is not None]
    if shares and abs(sum(shares) - 1) > 1e-6:
        problems.append(source.problem(at, f"the shares of the classes must add up to 1, got {sum(shares):.6g}"))
    if arrivals.process != "trace":
        for one in classes:
            if one.share is None:
                message = "required key share is missing: only requests of a trace have a class of their own"
                problems.append(source.problem((*at, one.name), message))
    return classes


def _limits(section: LimitsSection, at: KeyPath, source: Source, problems: list[Problem]) -> LengthLimits:
    for kind, low, high in (
        ("prompt", section.min_prompt_tokens, section.max_prompt_tokens),
        ("output", section.min_output_tokens, section.max_output_tokens),
    ):
        if high is not None and low > high:
            path = (*at, f"max_{kind}_tokens")
            problems.append(source.problem(path, f"{high} is below min_{kind}_tokens {low}"))
    return LengthLimits(
        section.min_prompt_tokens, section.max_prompt_tokens, section.min_output_tokens, section.max_output_tokens
    )


def _pairs(options: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((name, getattr(options, name)) for name in options.__dataclass_fields__)


def _ns(text: str) -> int:
    return seconds_to_ns(units.parse(text, "time"))
