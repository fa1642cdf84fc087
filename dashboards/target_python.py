"""What a target's own Python, caches, models and torch tell."""

from panels import GOOD, LINES, MAIN, Column, Query, listing, stat, table, timeseries, with_runbook

PYTHON = [
    with_runbook(
        timeseries(
            "Collections",
            "Runs of the garbage collector per second, by generation. The last generation is the full collection, "
            "which takes long where there are many objects.",
            "cps",
            Query(
                "rate(rag_python_gc_collections_total{$T}[$__rate_interval])", "{{process}} generation {{generation}}"
            ),
        ),
        "gc.md#churn",
    ),
    with_runbook(
        timeseries(
            "Objects collected and not collectable",
            "Objects per second that collections freed, or found but could not free: these stay.",
            "cps",
            Query(
                "sum by (target, process) (rate(rag_python_gc_objects_collected_total{$T}[$__rate_interval]))",
                "{{process}} collected",
            ),
            Query(
                "sum by (target, process) (rate(rag_python_gc_objects_uncollectable_total{$T}[$__rate_interval]))",
                "{{process}} uncollectable",
            ),
        ),
        "gc.md#uncollectable",
    ),
    timeseries(
        "Objects tracked, blocks allocated",
        "Objects that the collector tracks, and blocks that Python's allocator has given out. What grows here from "
        "hour to hour is a leak in Python.",
        "short",
        Query("rag_python_gc_tracked_objects{$T}", "{{process}} tracked"),
        Query("rag_python_allocated_blocks{$T}", "{{process}} blocks"),
    ),
    timeseries(
        "Time in the collector",
        "Share of the time that collections took. From outside it is known of CPython 3.15 and later, from an agent "
        "always.",
        "percentunit",
        Query(
            "sum by (target, process) (rate(rag_python_gc_pause_seconds_total{$T}[$__rate_interval]))", "{{process}}"
        ),
        shape=(6, 8),
    ),
    timeseries(
        "Longest collection",
        "The longest collection so far, as the agent tells. The whole program waits meanwhile.",
        "s",
        Query("rag_python_gc_pause_seconds_max{$T}", "{{process}} generation {{generation}}"),
        shape=(6, 8),
    ),
    timeseries(
        "Counts and thresholds",
        "A collection of a generation is due when its count exceeds its threshold.",
        "short",
        Query("rag_python_gc_objects{$T}", "{{process}} generation {{generation}}"),
        Query("rag_python_gc_threshold{$T}", "{{process}} generation {{generation}} limit"),
        styles=LINES,
        shape=(8, 7),
    ),
    with_runbook(
        stat(
            "Collector enabled",
            "0 where automatic collection is switched off.",
            "short",
            Query("rag_python_gc_enabled{$T}", "{{process}}"),
            shape=(4, 7),
            words=((0, "off", MAIN), (1, "on", GOOD)),
        ),
        "gc.md#disabled-while-growing",
    ),
    timeseries(
        "tracemalloc",
        "Memory whose allocation tracemalloc has seen while it traces, and what it takes itself.",
        "bytes",
        Query("rag_tracemalloc_traced_bytes{$T}", "{{process}} traced"),
        Query("rag_tracemalloc_peak_bytes{$T}", "{{process}} peak"),
        Query("rag_tracemalloc_overhead_bytes{$T}", "{{process}} its own"),
        shape=(8, 7),
    ),
    stat(
        "tracemalloc traces",
        "While it traces the program is slower.",
        "short",
        Query("rag_tracemalloc_tracing{$T}", "{{process}}"),
        shape=(4, 7),
        words=((0, "no", GOOD), (1, "yes", MAIN)),
    ),
]

CACHES = [
    timeseries(
        "Cache entries",
        "Entries of registered caches, and how many they may have.",
        "short",
        Query("rag_cache_entries{$T}", "{{process}} {{cache}}"),
        Query("rag_cache_max_entries{$T}", "{{process}} {{cache}} limit"),
        styles=LINES,
        shape=(8, 7),
    ),
    timeseries(
        "Cache hits",
        "Share of look-ups that found what was asked for. A cache that is cleared too often finds little.",
        "percentunit",
        Query(
            "rate(rag_cache_hits_total{$T}[$__rate_interval]) / (rate(rag_cache_hits_total{$T}[$__rate_interval]) + "
            "rate(rag_cache_misses_total{$T}[$__rate_interval]))",
            "{{process}} {{cache}}",
        ),
        shape=(8, 7),
    ),
    timeseries(
        "Evictions and requests",
        "Entries per second that caches dropped by themselves, and requests per second as the program counts them.",
        "cps",
        Query("rate(rag_cache_evictions_total{$T}[$__rate_interval])", "{{process}} {{cache}} evicted"),
        Query("rate(rag_requests_total{$T}[$__rate_interval])", "{{process}} requests"),
        shape=(8, 7),
    ),
    table(
        "Models",
        "Registered models: whether they are loaded, since when they are idle.",
        [
            Column(
                "Loaded",
                "max by (target, process, model) (rag_model_loaded{$T})",
                "short",
                ((0, "no", GOOD), (1, "yes", GOOD)),
            ),
            Column(
                "Unused for",
                "time() - max by (target, process, model) (rag_model_last_used_timestamp_seconds{$T})",
                "dtdurations",
            ),
        ],
        shape=(12, 7),
    ),
    timeseries(
        "Models loaded and unloaded",
        "Models per second that were seen to be loaded or unloaded: both at once, again and again, is memory that the "
        "program needs.",
        "cps",
        Query("rate(rag_model_loads_total{$T}[$__rate_interval])", "{{process}} {{model}} loaded"),
        Query("rate(rag_model_unloads_total{$T}[$__rate_interval])", "{{process}} {{model}} unloaded"),
        shape=(12, 7),
    ),
]

TORCH = [
    with_runbook(
        timeseries(
            "Device memory of torch",
            "Tensors occupy allocated; reserved is what torch holds. What lies between is its cache and fragments.",
            "bytes",
            Query("rag_torch_allocated_bytes{$T}", "{{process}} {{device}} allocated"),
            Query("rag_torch_allocated_max_bytes{$T}", "{{process}} {{device}} most allocated"),
            Query("rag_torch_requested_bytes{$T}", "{{process}} {{device}} requested"),
            Query("rag_torch_active_bytes{$T}", "{{process}} {{device}} active"),
            Query("rag_torch_reserved_bytes{$T}", "{{process}} {{device}} reserved"),
            Query("rag_torch_releasable_bytes{$T}", "{{process}} {{device}} releasable"),
        ),
        "torch.md#over-reserved",
    ),
    with_runbook(
        timeseries(
            "Memory of the devices",
            "Free and total memory of each device, all programs together.",
            "bytes",
            Query("rag_torch_device_memory_bytes{$T}", "{{process}} {{device}} {{kind}}"),
        ),
        "torch.md#near-oom",
    ),
    with_runbook(
        timeseries(
            "Fragments",
            "Share of what torch holds that is free in pieces of split blocks: emptying the cache cannot return them.",
            "percentunit",
            Query("rag_torch_inactive_split_bytes{$T} / rag_torch_reserved_bytes{$T}", "{{process}} {{device}}"),
            shape=(8, 7),
        ),
        "torch.md#fragmentation",
    ),
    with_runbook(
        timeseries(
            "Retries and failures",
            "Allocations per second for which torch had to empty its cache, and those that failed.",
            "cps",
            Query("rate(rag_torch_alloc_retries_total{$T}[$__rate_interval])", "{{process}} {{device}} retries"),
            Query("rate(rag_torch_ooms_total{$T}[$__rate_interval])", "{{process}} {{device}} out of memory"),
            shape=(8, 7),
        ),
        "torch.md#retries",
    ),
    timeseries(
        "Asked of the driver",
        "How often per second torch asked the driver for memory or gave some back: both is dear.",
        "cps",
        Query("rate(rag_torch_device_alloc_total{$T}[$__rate_interval])", "{{process}} {{device}} taken"),
        Query("rate(rag_torch_device_free_total{$T}[$__rate_interval])", "{{process}} {{device}} given back"),
        Query("rag_torch_segments{$T}", "{{process}} {{device}} segments held"),
        shape=(8, 7),
    ),
    listing("Devices", "The devices that torch uses.", "rag_torch_device_info{$T}", ("job",), shape=(24, 5)),
]
