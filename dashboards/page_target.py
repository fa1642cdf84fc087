"""One target in depth: its lines, what its memory is made of, its Python, torch, its container, what can be seen."""

from frame import Row
from page_overview import GROWTH, LINE_WORDS, LINES_CROSSED, MODE, MODE_WORDS, TO_CRITICAL
from panels import (
    CRITICAL,
    GOOD,
    KINDS,
    LINES,
    MAIN,
    Query,
    Style,
    outcomes,
    stat,
    timeseries,
    with_runbook,
)
from target_python import CACHES, PYTHON, TORCH
from target_system import BRAKE, CONTAINER, ENDPOINT, PROCESSES, SIGHT

UID = "rag-memory-target"
TITLE = "Target"
ABOUT = "One guarded program: how far it is from its lines, what its memory is made of, and what its cleanups brought."

SAFE = [
    stat(
        "Used",
        "What the program uses, on the basis that its lines refer to (docs/configuration.md, memory.basis).",
        "bytes",
        Query("rag_memory_used_bytes{$T}", "{{target}}"),
    ),
    stat(
        "Line",
        "The highest line that used memory is over.",
        "short",
        Query(LINES_CROSSED, "{{target}}"),
        words=LINE_WORDS,
    ),
    with_runbook(
        stat(
            "At critical in",
            "When it would be at its critical line if the last quarter of an hour went on. Empty while it does not "
            "grow.",
            "dtdurations",
            Query(TO_CRITICAL, "{{target}}"),
            steps=((None, CRITICAL), (600, MAIN), (3600, GOOD)),
        ),
        "memory.md#time-to-limit",
    ),
    stat(
        "Growth per hour",
        "The slope of used memory over a quarter of an hour. A cleanup within it bends the slope.",
        "bytes",
        Query(f"{GROWTH} * 3600", "{{target}}"),
    ),
    stat(
        "Mode",
        "What the sidecar tells the program about itself, so that it may shed work.",
        "short",
        Query(MODE, "{{target}}"),
        words=MODE_WORDS,
    ),
    stat(
        "Headroom",
        "What is left to the program: before a limit of its cgroup is reached, or on the machine, whichever is less.",
        "bytes",
        Query("min without (basis) (rag_memory_headroom_bytes{$T})", "{{target}}"),
    ),
    timeseries(
        "Used memory and its lines",
        "Used memory, its three lines and the limit, where the kernel kills. Cleanups, alerts and starts are marked: "
        "after a cleanup that helped the line falls.",
        "bytes",
        Query("rag_memory_used_bytes{$T}", "{{target}} used"),
        Query("rag_memory_threshold_bytes{$T}", "{{target}} {{level}} line"),
        Query("rag_memory_limit_bytes{$T}", "{{target}} limit"),
        styles=LINES,
        shape=(24, 9),
    ),
    with_runbook(
        timeseries(
            "Floor of used memory",
            "The least that was used within five minutes: what requests need for a moment is left out. A straight line "
            "upwards is a leak, a curve that flattens is a cache that fills. Growth alerts look at this.",
            "bytes",
            Query("rag:memory_used_bytes:floor5m{$T}", "{{target}} floor"),
            Query('rag_memory_threshold_bytes{level="critical",$T}', "{{target}} critical line"),
            styles=[Style("/critical line$/", CRITICAL, dashed=True)],
            shape=(24, 7),
        ),
        "memory.md#time-to-limit",
    ),
]

EATING = [
    timeseries(
        "Resident memory by kind",
        "anon is what the program has allocated, file what it has mapped (the kernel can drop most of it), shmem "
        "shared memory, which counts against the limit like anon; swap is what has been swapped out.",
        "bytes",
        Query("sum by (target, kind) (rag_process_memory_bytes{$T})", "{{target}} {{kind}}"),
        stacked=True,
        styles=[Style(f"/ {kind}$/", colour) for kind, colour in KINDS.items()],
    ),
    timeseries(
        "Resident memory by process",
        "Each process of the target; the peak is the highest since it started. What forked workers share counts in "
        "each of them: shared says how much that is.",
        "bytes",
        Query("rag_process_resident_memory_bytes{$T}", "{{target}} {{process}}"),
        Query("rag_process_resident_memory_max_bytes{$T}", "{{target}} {{process}} peak"),
        Query("sum by (target) (rag_memory_shared_bytes{$T})", "{{target}} shared"),
    ),
    timeseries(
        "malloc",
        "Memory that malloc has from the kernel: in use by the program, free but kept, and mapped piece by piece. Much "
        "free memory is what a cleanup can return by trimming.",
        "bytes",
        Query("rag_malloc_in_use_bytes{$T}", "{{process}} in use"),
        Query("rag_malloc_free_bytes{$T}", "{{process}} free"),
        Query("rag_malloc_mmapped_bytes{$T}", "{{process}} mapped"),
        Query("rag_malloc_arena_bytes{$T}", "{{process}} arenas"),
        Query("rag_malloc_releasable_bytes{$T}", "{{process}} releasable"),
    ),
    timeseries(
        "Caches",
        "What caches that the program has registered occupy, and what they may.",
        "bytes",
        Query("rag_cache_size_bytes{$T}", "{{process}} {{cache}}"),
        Query("rag_cache_max_bytes{$T}", "{{process}} {{cache}} limit"),
        styles=LINES,
        shape=(6, 8),
    ),
    timeseries(
        "Models",
        "What models that the program has registered occupy.",
        "bytes",
        Query("rag_model_memory_bytes{$T}", "{{process}} {{model}} on {{device}} ({{source}})"),
        shape=(6, 8),
    ),
]

HELPED = [
    stat(
        "Last cleanup freed",
        "What the last judged cleanup freed, measured from outside against the growth before it.",
        "bytes",
        Query("rag_cleanup_last_freed_bytes{$T}", "{{target}}"),
    ),
    stat(
        "As the agent expected",
        "What the agent expected the last cleanup to free. Empty without an agent.",
        "bytes",
        Query("rag_cleanup_predicted_bytes{$T}", "{{target}}"),
    ),
    outcomes(
        stat(
            "Cleanups by outcome",
            "How cleanups ended since the sidecar started, counted exactly.",
            "short",
            Query("sum by (outcome) (rag_cleanups_total{$T})", "{{outcome}}"),
            shape=(6, 4),
        )
    ),
    stat(
        "Came back",
        "Cleanups whose freed memory was in use again within a minute, in this time range.",
        "short",
        Query("sum(increase(rag_cleanup_rebounds_total{$T}[$__range]))"),
        shape=(3, 4),
        steps=((None, GOOD), (0.5, MAIN)),
    ),
    stat(
        "Returned by malloc",
        "What the agent had malloc return to the kernel in this time range: free memory that malloc had kept.",
        "bytes",
        Query("sum(increase(rag_malloc_trim_returned_bytes_total{$T}[$__range]))"),
    ),
    with_runbook(
        stat(
            "Paused by the last cleanup",
            "How long the last cleanup kept a process from doing anything else.",
            "s",
            Query("rag_cleanup_pause_seconds{$T}", "{{target}}"),
            shape=(3, 4),
        ),
        "allocator.md#long-pauses",
    ),
]

ROWS = [
    Row("Am I safe?", SAFE),
    Row("What is eating memory?", EATING),
    Row("Did the cleanups help?", HELPED),
    Row("Its container", CONTAINER, folded=True),
    Row("Its Python", PYTHON, folded=True),
    Row("Its caches and models", CACHES, folded=True),
    Row("torch", TORCH, folded=True),
    Row("Its processes", PROCESSES, folded=True),
    Row("What can be seen of it", SIGHT, folded=True),
    Row("Its debug endpoint", ENDPOINT, folded=True),
    Row("Its brake", BRAKE, folded=True),
]
