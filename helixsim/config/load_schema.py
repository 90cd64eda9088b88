"""The ``workload`` section of exp.yaml: requests from a file or drawn, when they arrive, when it is measured."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from helixsim.config.fields import Choice, Duration, FewCount, Latency, Rate, Share
from helixsim.config.variation import TrafficScaleSection
from helixsim.validation import Count, Section


class TraceColumnsSection(Section):
    """Which column of a CSV or JSONL trace holds what; dotted names reach into nested JSON (`usage.prompt_tokens`)."""

    arrival: str | None = Field(None, description="Column of the arrival time; without: found by its name.")
    prompt: str | None = Field(None, description="Column of the prompt length [tokens]; without: found by its name.")
    output: str | None = Field(None, description="Column of the output length [tokens]; without: found by its name.")
    slo_class: str | None = Field(None, description="Column of the SLO class; without: `slo_class` if there is one.")
    session: str | None = Field(None, description="Column of the session; without: `session` if there is one.")


class TraceSection(Section):
    """A file of requests."""

    path: str = Field(
        description="The file, relative to the file that names it, or with `--set` to the working directory; "
        "may be packed (`.gz`, `.zst`)."
    )
    format: str | None = Field(None, description="Format, see `helixsim trace info`; without: found from the header.")
    start: Latency = Field("0 s", description="Leave out what arrives earlier in the trace.")
    duration: Duration | None = Field(None, description="Take only that much of the trace; without: all of it.")
    chars_per_token: Annotated[float, Field(ge=0.1, le=1000)] | None = Field(
        None, description="Characters per token, where a file has text but no token counts (ShareGPT)."
    )
    unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="Unit of numeric times; without: that of the format, or told by name or size, with a note."
    )
    columns: TraceColumnsSection | None = Field(
        None, description="Which column holds what (CSV and JSONL); without: found by their names."
    )
    where: dict[str, str | int | float | bool] | None = Field(
        None, description="Only rows in which each column has the value count, for example `{status: 200}`."
    )
    result: Count | None = Field(
        None, description="Which result of a file with several (`vllm bench serve --append-result`), from 1."
    )


class LengthsChoice(Choice):
    """Where prompt and output lengths come from."""

    key: ClassVar[str] = "distribution"
    distribution: str = Field(description="Name of a length distribution.")


class ArrivalsSection(Section):
    """When requests arrive."""

    process: str | None = Field(
        None, description="Name of an arrival process; `trace` (as recorded) is the default if there is a trace."
    )
    rate: Rate | None = Field(None, description="Requests per second; for `trace`: the mean rate it is stretched to.")
    burstiness: Annotated[float, Field(ge=1e-3, le=1e6)] | None = Field(
        None, description="Shape of the gaps of `gamma`: 1 is Poisson (the default), below 1 is burstier."
    )
    concurrency: FewCount | None = Field(None, description="Requests in the system (`closed_loop`).")
    prompts_in_flight: FewCount | None = Field(
        None, description="Requests between admission and first token (`saturate`); without: chosen from the fleet."
    )
    feed_below: Share | None = Field(
        None,
        description="`saturate` as the paper's prototype has it: each first token and each finished request lets one "
        "more in, unless the scarcest layer's expected KV use exceeds this share; without: as soon as one fits.",
    )
    num_requests: Count | None = Field(
        None,
        description="Stop after that many requests. With `closed_loop` the run ends when they have finished, as "
        "`vllm bench serve --max-concurrency C --num-prompts N` does: what follows the warm-up is measured, until the "
        "last one has finished, and `workload.duration` must not be given.",
    )


class LimitsSection(Section):
    """Requests outside the limits are left out of the load, and counted."""

    min_prompt_tokens: Count = Field(1, description="Shortest prompt [tokens].")
    max_prompt_tokens: Count | None = Field(None, description="Longest prompt [tokens].")
    min_output_tokens: Count = Field(1, description="Shortest output [tokens].")
    max_output_tokens: Count | None = Field(None, description="Longest output [tokens].")


class WorkloadSection(Section):
    """What is asked of the cluster, and when it is measured."""

    trace: TraceSection | None = Field(None, description="Requests from a file.")
    lengths: LengthsChoice | None = Field(
        None, description="Prompt and output lengths; without trace and lengths: `azure-conversation`."
    )
    arrivals: ArrivalsSection = Field(ArrivalsSection(), description="When requests arrive.")
    limits: LimitsSection = Field(LimitsSection(), description="Which requests are left out.")
    scale: TrafficScaleSection | None = Field(None, description="Factors on the traffic, after the limits.")
    warmup: Latency = Field("0 s", description="Time before measuring starts.")
    duration: Duration | None = Field(None, description="Time measured; without: until the last request has finished.")
    drain: bool | None = Field(
        None, description="Go on after the duration until every request has finished; without: only if no duration."
    )
