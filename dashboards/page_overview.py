"""The first screen: is everybody safe, what eats the memory, did the cleanups help."""

from frame import Row
from panels import (
    CRITICAL,
    GOOD,
    KINDS,
    LINES,
    MAIN,
    PREVENTIVE,
    Column,
    Query,
    Style,
    bars,
    by_target,
    outcomes,
    stat,
    table,
    timeline,
    timeseries,
    with_runbook,
)

UID = "rag-memory-overview"
TITLE = "Overview"
ABOUT = "All guarded programs on one screen: am I safe, what is eating memory, did the cleanups help."

LINE_WORDS = (
    (0, "below all lines", GOOD),
    (1, "over preventive", PREVENTIVE),
    (2, "over main", MAIN),
    (3, "over critical", CRITICAL),
)
MODE_WORDS = ((0, "normal", GOOD), (1, "cautious", PREVENTIVE), (2, "degraded", CRITICAL))

LINES_CROSSED = (
    "sum by (job, instance, target) (rag_memory_used_bytes{$T} > bool on (job, instance, target) group_right () "
    "rag_memory_threshold_bytes{$T})"
)
OF_CRITICAL = 'rag_memory_used_bytes{$T} / ignoring (level) rag_memory_threshold_bytes{level="critical",$T}'
MODE = 'rag_mode{mode="cautious",$T} + ignoring (mode) 2 * rag_mode{mode="degraded",$T}'
GROWTH = "deriv(rag_memory_used_bytes{$T}[15m])"
TO_CRITICAL = (
    'clamp_min(rag_memory_threshold_bytes{level="critical",$T} - ignoring (level) rag_memory_used_bytes{$T}, 0) '
    f"/ ({GROWTH} > 0)"
)
LAST_CLEANUP = "time() - rag_cleanup_last_timestamp_seconds{$T}"

SAFE = [
    with_runbook(
        stat(
            "Targets up",
            "Programs whose memory is being read, of those that are configured. One that is missing is not guarded: "
            "the runbook says where to look.",
            "short",
            Query("sum(rag_target_up{$T})", "up"),
            Query("count(rag_target_up{$T})", "configured"),
            shape=(4, 4),
        ),
        "fleet.md#target-gone",
    ),
    with_runbook(
        stat(
            "Alerts firing",
            "Alerts that fire now, of the sidecar's own rules or of the Prometheus that loads the same files. Each has "
            "a runbook.",
            "short",
            Query('count(ALERTS{alertstate="firing",$S}) or vector(0)'),
            shape=(3, 4),
            steps=((None, GOOD), (1, CRITICAL)),
        ),
        "memory.md",
    ),
    stat(
        "Nearest to its critical line",
        "Used memory as a share of the critical line, of the target where it is highest. At 100 % an aggressive "
        "cleanup is asked for at once.",
        "percentunit",
        Query(f"topk(1, {OF_CRITICAL})", "{{target}}"),
        shape=(5, 4),
    ),
    stat(
        "Nearest to its limit",
        "Used memory as a share of the memory limit, where the kernel kills, of the target where it is highest. Empty "
        "where no limit binds.",
        "percentunit",
        Query("topk(1, rag_memory_used_bytes{$T} / rag_memory_limit_bytes{$T})", "{{target}}"),
        shape=(4, 4),
    ),
    timeline(
        "Which line is crossed",
        "The highest line that used memory is over, of each target. The lines are those of rag_memory_threshold_bytes, "
        "so a line that is moved moves this, too.",
        Query(LINES_CROSSED, "{{target}}"),
        LINE_WORDS,
        shape=(8, 4),
    ),
    table(
        "Targets",
        "Each program: what it uses on the basis that its lines refer to, the lines, how fast it grows over a quarter "
        "of an hour, and when it would be at its critical line if that went on. A click on a target shows more.",
        [
            Column("Used", by_target("rag_memory_used_bytes{$T}"), "bytes"),
            Column("Main line", by_target('rag_memory_threshold_bytes{level="main",$T}'), "bytes"),
            Column("Critical line", by_target('rag_memory_threshold_bytes{level="critical",$T}'), "bytes"),
            Column("Limit", by_target("rag_memory_limit_bytes{$T}"), "bytes"),
            Column("Of critical", by_target(OF_CRITICAL), "percentunit"),
            Column("Line", LINES_CROSSED, "short", LINE_WORDS),
            Column("Mode", by_target(MODE), "short", MODE_WORDS),
            Column("Growth per hour", by_target(f"{GROWTH} * 3600"), "bytes"),
            Column("At critical in", by_target(TO_CRITICAL), "dtdurations"),
            Column("Last cleanup", by_target(LAST_CLEANUP), "dtdurations"),
        ],
        hidden=["job"],
        shape=(24, 5),
    ),
]

EATING = [
    timeseries(
        "Resident memory by kind",
        "Resident memory of all processes, and what of them is swapped out. anon is what the program has allocated, "
        "file what it has mapped (the kernel can drop most of it), shmem shared memory, which counts against the limit "
        "like anon.",
        "bytes",
        Query("sum by (target, kind) (rag_process_memory_bytes{$T})", "{{target}} {{kind}}"),
        stacked=True,
        styles=[Style(f"/ {kind}$/", colour) for kind, colour in KINDS.items()],
        shape=(12, 8),
    ),
    bars(
        "Of that, as the agents tell",
        "What an agent in the program knows of its memory: caches and models that the program has registered, what "
        "torch holds, what malloc keeps although it is free. They overlap with the kinds beside this. Empty without an "
        "agent.",
        "bytes",
        Query("sum by (target, cache) (rag_cache_size_bytes{$T})", "{{target}} cache {{cache}}"),
        Query("sum by (target, model) (rag_model_memory_bytes{$T})", "{{target}} model {{model}}"),
        Query("sum by (target, device) (rag_torch_reserved_bytes{$T})", "{{target}} torch {{device}}"),
        Query("sum by (target) (rag_malloc_free_bytes{$T})", "{{target}} free in malloc"),
        shape=(12, 8),
    ),
]

HELPED = [
    stat(
        "Last cleanup freed",
        "What the last judged cleanup of each target freed, measured from outside against the growth before it. Below "
        "zero: memory went on growing.",
        "bytes",
        Query("rag_cleanup_last_freed_bytes{$T}", "{{target}}"),
        shape=(5, 4),
    ),
    stat(
        "Freed in this time",
        "What all cleanups freed in the time range of the dashboard.",
        "bytes",
        Query("sum(increase(rag_cleanup_freed_bytes_total{$T}[$__range]))"),
        shape=(4, 4),
    ),
    outcomes(
        stat(
            "Cleanups by outcome",
            "How cleanups ended since the sidecars started, counted exactly. effective: used memory fell below 90 % of "
            "the line, or by enough. ineffective: nothing was freed; the memory is in use, or it leaks.",
            "short",
            Query("sum by (outcome) (rag_cleanups_total{$T})", "{{outcome}}"),
            shape=(8, 4),
        )
    ),
    stat(
        "Came back",
        "Cleanups whose freed memory was in use again within a minute, in this time range. Many of them: the program "
        "needs that memory, or fills its caches anew.",
        "short",
        Query("sum(increase(rag_cleanup_rebounds_total{$T}[$__range]))"),
        shape=(3, 4),
        steps=((None, GOOD), (0.5, MAIN)),
    ),
    with_runbook(
        stat(
            "Parked",
            "Targets for which nothing more is tried until the incident ends, because nothing helped. A person is "
            "needed when one of them is over its main line.",
            "short",
            Query("sum(rag_actions_parked{$T})"),
            shape=(4, 4),
            steps=((None, GOOD), (1, CRITICAL)),
        ),
        "fleet.md#actions-parked",
    ),
]

TREND = [
    timeseries(
        "Used memory",
        "What each program uses, on the basis that its lines refer to. Cleanups, alerts and starts are marked.",
        "bytes",
        Query("rag_memory_used_bytes{$T}", "{{target}}"),
        Query("rag_memory_threshold_bytes{$T}", "{{target}} {{level}} line"),
        styles=LINES,
        shape=(12, 8),
    ),
    timeseries(
        "Used, as a share of the critical line",
        "The programs beside each other: 100 % is the critical line of each.",
        "percentunit",
        Query(OF_CRITICAL, "{{target}}"),
        shape=(12, 8),
    ),
]

MORE = [
    timeline(
        "Mode",
        "What the sidecar tells each program about itself: cautious and degraded ask it to shed work.",
        Query(MODE, "{{target}}"),
        MODE_WORDS,
    ),
    timeseries(
        "Memory of devices held by torch",
        "What torch's allocator holds of each device. Empty without torch and an agent.",
        "bytes",
        Query("sum by (target, device) (rag_torch_reserved_bytes{$T})", "{{target}} {{device}}"),
        shape=(12, 6),
    ),
    timeseries(
        "Memory of the machine",
        "What the kernel says of the whole machine; available is what can be had without swapping. In a container it "
        "is the machine's, not the container's.",
        "bytes",
        Query('rag_host_memory_bytes{kind=~"total|available|anon|cached|shmem",$S}', "{{instance}} {{kind}}"),
    ),
    timeseries(
        "Swap of the machine",
        "Swap space, by kind.",
        "bytes",
        Query("rag_host_swap_bytes{$S}", "{{instance}} {{kind}}"),
        shape=(6, 8),
    ),
    timeseries(
        "Pressure on the machine",
        "Share of the time in which some or all tasks waited for a resource. Empty where the kernel does not keep it.",
        "percentunit",
        Query("rate(rag_host_pressure_seconds_total{$S}[$__rate_interval])", "{{resource}} {{kind}}"),
        shape=(6, 8),
    ),
]

ROWS = [
    Row("Am I safe?", SAFE),
    Row("What is eating memory?", EATING),
    Row("Did the cleanups help?", HELPED),
    Row("Trend", TREND),
    Row("Modes, devices and the machine", MORE, folded=True),
]
