"""The ``workload`` section of exp.yaml: requests, arrivals and measurement window."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from helixsim.config.fields import Choice, Duration, FewCount, Latency, Name, Rate, Share
from helixsim.config.variation import TrafficScaleSection
from helixsim.validation import Count, Section


class TraceColumnsSection(Section):
    """Columns of a CSV or JSONL trace; dotted names are nested JSON keys (`usage.prompt_tokens`)."""

    arrival: str | None = Field(None, description="Column of the arrival time (default: detected by name).")
    prompt: str | None = Field(None, description="Column of the prompt length [tokens] (default: detected by name).")
    output: str | None = Field(None, description="Column of the output length [tokens] (default: detected by name).")
    slo_class: str | None = Field(None, description="Column of the SLO class (default: `slo_class` if present).")
    priority: str | None = Field(None, description="Column of the priority (default: `priority` if present).")
    session: str | None = Field(None, description="Column of the session (default: `session` if present).")
    prefix: str | None = Field(
        None,
        description="Column of the identity of the tokens, `ID:END` for each segment (default: `prefix_segments` if "
        "present).",
    )


class TraceSection(Section):
    """A trace file of requests."""

    path: str = Field(
        description="Path, relative to this file, or with `--set` to the working directory; may be compressed "
        "(`.gz`, `.zst`)."
    )
    format: str | None = Field(None, description="Format, see `helixsim trace info` (default: detected).")
    start: Latency = Field("0 s", description="Drop requests that arrive earlier in the trace.")
    duration: Duration | None = Field(None, description="Duration used from `start` on (default: all of the trace).")
    stretch: Duration | None = Field(
        None,
        description="Time over which the recorded arrivals are spread, with `arrivals: {process: trace}` and without a "
        "rate (default: as recorded).",
    )
    chars_per_token: Annotated[float, Field(ge=0.1, le=1000)] | None = Field(
        None, description="Characters per token, for files with text but without token counts (ShareGPT)."
    )
    unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None,
        description="Unit of numeric times (default: that of the format, or inferred from name or magnitude).",
    )
    columns: TraceColumnsSection | None = Field(
        None, description="Columns of CSV and JSONL files (default: detected by name)."
    )
    where: dict[str, str | int | float | bool] | None = Field(
        None, description="Keep only rows with these values, for example `{status: 200}`."
    )
    result: Count | None = Field(
        None, description="Number of the result in a file with several (`vllm bench serve --append-result`), from 1."
    )
    block_size: Count | None = Field(None, description="Tokens of a block of `hash_ids` (Mooncake; default: 512).")
    extend_sessions: bool = Field(
        False,
        description="Whether the prompt of each request of a session begins with the prompt and the output of the one "
        "before it, as in a chat; prefix caches then find them.",
    )


class LengthsChoice(Choice):
    """Distribution of prompt and output lengths."""

    key: ClassVar[str] = "distribution"
    distribution: str = Field(description="Name of a length distribution.")


class DiurnalSection(Section):
    """A day: `1 + amplitude * cos(2 pi (t - peak) / period)`, mean 1."""

    amplitude: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="Highest rate over the mean, minus 1.")
    peak: Latency = Field("14 h", description="Time of the highest rate.")
    period: Duration = Field("24 h", description="Period.")


class CornerSection(Section):
    """A time with its factor; the rate changes linearly from one to the next."""

    at: Latency = Field(description="Time; the first is 0 s, and two at one time are a jump.")
    factor: Annotated[float, Field(ge=0, le=1e6)] = Field(description="Factor on `rate`.")


class TraceCourseSection(Section):
    """The rate of the arrivals in `workload.trace` over time, counted in equal bins and scaled to a mean of 1."""

    period: Duration = Field("24 h", description="Time to which the window of the trace is stretched.")
    bins: Annotated[int, Field(ge=2, le=10_000)] = Field(96, description="Bins in which its arrivals are counted.")


class CourseSection(Section):
    """Factor on the rate over time, in one of three ways; `diurnal` and `trace` repeat."""

    diurnal: DiurnalSection | None = Field(None, description="A cosine.")
    corners: list[CornerSection] | None = Field(
        None, min_length=1, description="Times with a factor, linear between them; after the last one the factor stays."
    )
    trace: TraceCourseSection | None = Field(None, description="As in `workload.trace`.")

    @model_validator(mode="after")
    def _one_way(self) -> CourseSection:
        given = [name for name in ("diurnal", "corners", "trace") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of diurnal, corners and trace, got {' and '.join(given) or 'none'}")
        return self


class ArrivalsSection(Section):
    """Arrivals of requests."""

    process: str | None = Field(
        None, description="Name of an arrival process (default with a trace: `trace`, as recorded)."
    )
    rate: Rate | None = Field(
        None, description="Requests per second; for `trace`: mean rate to which times are rescaled."
    )
    burstiness: Annotated[float, Field(ge=1e-3, le=1e6)] | None = Field(
        None, description="Shape of the interarrival times of `gamma`: 1 is Poisson (default), below 1 is burstier."
    )
    concurrency: FewCount | None = Field(None, description="Requests in the system (`closed_loop`).")
    prompts_in_flight: FewCount | None = Field(
        None,
        description="Requests between admission and first token (`saturate`; default: chosen by the number of nodes).",
    )
    feed_below: Share | None = Field(
        None,
        description="`saturate` as in the paper's prototype: a request is submitted at each first token and at each "
        "completion, unless the expected KV use of the scarcest layer exceeds this share (default: submitted as soon "
        "as it fits).",
    )
    num_requests: Count | None = Field(
        None,
        description="Number of requests. With `closed_loop` the run ends when they have completed, as in "
        "`vllm bench serve --max-concurrency C --num-prompts N`: the window extends from the warm-up to the last "
        "completion, and `workload.duration` must not be given.",
    )
    over_time: CourseSection | None = Field(
        None, description="Factor on the rate over time, for processes that generate arrivals (default: constant)."
    )


class SystemPromptsSection(Section):
    """System prompts: each prompt begins with one of a few texts, which prefix caches share."""

    count: FewCount = Field(1, description="Number of different system prompts.")
    tokens: Annotated[int, Field(ge=1, le=10**7)] = Field(description="Length of each [tokens].")
    skew: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="Exponent of Zipf's law of their use: 0 all alike, 1 the second half as often as the first."
    )


class SessionsSection(Section):
    """Sessions of several turns; each prompt begins with the prompt and the answer of the turn before."""

    turns: Annotated[float, Field(ge=1, le=10**4)] = Field(description="Mean number of turns of a session.")
    turns_distribution: Literal["geometric", "constant"] = Field(
        "geometric", description="Distribution of the number of turns."
    )
    think_time: Duration = Field(
        description="Mean time from the arrival of a turn until the next one is due. The first arrival after that is "
        "the turn; arrivals begin new sessions while none is due."
    )
    think_time_distribution: Literal["exponential", "constant"] = Field(
        "exponential", description="Distribution of the think time."
    )

    @model_validator(mode="after")
    def _whole_turns(self) -> SessionsSection:
        if self.turns_distribution == "constant" and not self.turns.is_integer():
            raise ValueError(f"turns: got {self.turns:g}, expected a whole number with turns_distribution: constant")
        return self


class LimitsSection(Section):
    """Limits of lengths; requests outside them are dropped and counted."""

    min_prompt_tokens: Count = Field(1, description="Shortest prompt [tokens].")
    max_prompt_tokens: Count | None = Field(None, description="Longest prompt [tokens].")
    min_output_tokens: Count = Field(1, description="Shortest output [tokens].")
    max_output_tokens: Count | None = Field(None, description="Longest output [tokens].")


class RequestClassSection(Section):
    """A class of requests, which objectives (`slo.classes`) and priorities refer to."""

    share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Share of the requests without a class of their own that are given this one; the shares of all "
        "classes add up to 1 (default: only requests of a trace have the class).",
    )
    priority: Annotated[int, Field(ge=-(10**9), le=10**9)] = Field(
        0, description="Priority of its requests where the trace states none or 0; the lowest value is served first."
    )
    arrivals: ArrivalsSection | None = Field(
        None,
        description="Arrivals of its own, at a rate, in place of those of the workload; then all classes have theirs.",
    )
    lengths: LengthsChoice | None = Field(None, description="Lengths of its own, with `arrivals`.")
    limits: LimitsSection | None = Field(None, description="Limits of its own, with `arrivals`.")


class WorkloadSection(Section):
    """The load and its measurement window."""

    trace: TraceSection | None = Field(None, description="Requests from a file.")
    lengths: LengthsChoice | None = Field(
        None, description="Prompt and output lengths (default without a trace: `azure-conversation`)."
    )
    arrivals: ArrivalsSection = Field(ArrivalsSection(), description="Arrivals of requests.")
    system_prompts: SystemPromptsSection | None = Field(
        None, description="Shared system prompts, added to the prompt lengths."
    )
    sessions: SessionsSection | None = Field(
        None,
        description="Sessions of several turns. `lengths` are then those of a turn's message and answer, and "
        "`limits.max_prompt_tokens` ends sessions whose prompts become longer.",
    )
    limits: LimitsSection = Field(LimitsSection(), description="Limits of lengths.")
    classes: dict[Name, RequestClassSection] | None = Field(None, description="Classes of requests by name.")
    scale: TrafficScaleSection | None = Field(None, description="Factors on the traffic, after the limits.")
    warmup: Latency = Field("0 s", description="Time before the measurement window.")
    duration: Duration | None = Field(None, description="Length of the window (default: until the last completion).")
    drain: bool | None = Field(
        None,
        description="Continue after the window until all requests have completed (default: only without a duration).",
    )
