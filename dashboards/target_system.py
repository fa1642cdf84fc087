"""What the kernel tells of a target, what can be seen of it, its debug endpoint and its brake."""

from panels import GOOD, LINES, MAIN, Column, Query, bars, listing, stat, table, timeseries, with_runbook

CONTAINER = [
    with_runbook(
        timeseries(
            "Memory of the cgroup",
            "The kernel kills at the limit when it can drop nothing more: unreclaimable is what it cannot drop, and "
            "what the lines look at. Usage counts page cache as well and may stand at the limit without harm; the "
            "working set, by which Kubernetes evicts, lies between.",
            "bytes",
            Query("rag_cgroup_memory_unreclaimable_bytes{$T}", "{{target}} unreclaimable"),
            Query("rag_cgroup_memory_working_set_bytes{$T}", "{{target}} working set"),
            Query("rag_cgroup_memory_usage_bytes{$T}", "{{target}} usage"),
            Query("rag_cgroup_memory_peak_bytes{$T}", "{{target}} peak usage"),
            Query("rag_cgroup_memory_limit_bytes{$T}", "{{target}} {{kind}} limit"),
            Query("rag_container_memory_limit_bytes{$T}", "{{target}} container's limit"),
            styles=LINES,
        ),
        "memory.md#near-limit",
    ),
    timeseries(
        "Kinds of memory in the cgroup",
        "Kinds overlap: file includes shmem, kernel includes slab.",
        "bytes",
        Query("rag_cgroup_memory_bytes{$T}", "{{target}} {{kind}}"),
    ),
    with_runbook(
        timeseries(
            "Events of the cgroup",
            "How often something happened per second: max is the limit being hit, oom_kill a process that the kernel "
            "killed.",
            "cps",
            Query("rate(rag_cgroup_memory_events_total{$T}[$__rate_interval])", "{{target}} {{event}}"),
            shape=(8, 7),
        ),
        "memory.md#oom-kill",
    ),
    with_runbook(
        timeseries(
            "Pressure",
            "Share of the time in which some or all tasks of the cgroup waited for a resource. Waiting for memory goes "
            "before a kill.",
            "percentunit",
            Query("rate(rag_cgroup_pressure_seconds_total{$T}[$__rate_interval])", "{{target}} {{resource}} {{kind}}"),
            shape=(8, 7),
        ),
        "memory.md#memory-pressure",
    ),
    with_runbook(
        timeseries(
            "Swap of the cgroup",
            "What is swapped out. It does harm when it is needed again: see refaults.",
            "bytes",
            Query("rag_cgroup_swap_usage_bytes{$T}", "{{target}} swapped out"),
            Query("rag_cgroup_swap_limit_bytes{$T}", "{{target}} swap limit"),
            styles=LINES,
            shape=(8, 7),
        ),
        "memory.md#swapping",
    ),
    timeseries(
        "Refaults",
        "Pages per second that were needed again soon after the kernel had dropped them.",
        "cps",
        Query("rate(rag_cgroup_refaults_total{$T}[$__rate_interval])", "{{target}} {{kind}}"),
        shape=(12, 7),
    ),
    timeseries(
        "Headroom",
        "What is left before a limit of the cgroup is reached, and on the machine.",
        "bytes",
        Query("rag_memory_headroom_bytes{$T}", "{{target}} {{basis}}"),
        shape=(12, 7),
    ),
    listing(
        "Its container",
        "The container, where the target is found through Docker.",
        "rag_container_info{$T}",
        ("job", "instance"),
        shape=(12, 7),
    ),
    stat(
        "What Docker says of it",
        "Whether the container runs, how often the engine has restarted it in this time range, what it ended with last "
        "(137 is SIGKILL), and whether the kernel had killed something of it before. Empty where Docker is not asked.",
        "short",
        Query("rag_container_running{$T}", "{{target}} runs"),
        Query("increase(rag_container_restarts_total{$T}[$__range])", "{{target}} restarts"),
        Query("rag_container_last_exit_code{$T}", "{{target}} last exit"),
        Query("rag_container_last_exit_oom_killed{$T}", "{{target}} killed for memory"),
        shape=(12, 7),
    ),
]

PROCESSES = [
    timeseries(
        "Processor time",
        "Cores that each process uses, in user and in system mode.",
        "short",
        Query("rate(rag_process_cpu_seconds_total{$T}[$__rate_interval])", "{{process}} {{mode}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Threads and processes",
        "Threads of each process, processes of the target, and those without series of their own.",
        "short",
        Query("rag_process_threads{$T}", "{{process}} threads"),
        Query("rag_target_processes{$T}", "{{target}} processes"),
        Query("rag_target_processes_left_out{$T}", "{{target}} summed up"),
        shape=(8, 7),
    ),
    timeseries(
        "Open files",
        "Open file descriptors, and how many there may be.",
        "short",
        Query("rag_process_open_fds{$T}", "{{process}}"),
        Query("rag_process_max_fds{$T}", "{{process}} limit"),
        styles=LINES,
        shape=(8, 7),
    ),
    timeseries(
        "Page faults",
        "Pages per second that had to be put in place, major ones from a disk. Many of them right after a cleanup are "
        "what it cost.",
        "cps",
        Query("rate(rag_process_page_faults_total{$T}[$__rate_interval])", "{{process}} {{type}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Storage",
        "Bytes per second that a process caused to be read from and written to storage.",
        "Bps",
        Query("rate(rag_process_io_bytes_total{$T}[$__rate_interval])", "{{process}} {{direction}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Context switches",
        "How often per second a process gave the processor up, or had it taken away: the latter says that the machine "
        "is short of it.",
        "cps",
        Query("rate(rag_process_context_switches_total{$T}[$__rate_interval])", "{{process}} {{type}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Virtual memory",
        "Addresses that are taken, with or without memory behind them: rarely a trouble.",
        "bytes",
        Query("rag_process_virtual_memory_bytes{$T}", "{{process}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Who is killed first",
        "How soon the kernel picks a process when memory runs out, the highest first, and what was added to that.",
        "short",
        Query("rag_process_oom_score{$T}", "{{process}}"),
        Query("rag_process_oom_score_adj{$T}", "{{process}} added"),
        shape=(8, 7),
    ),
    stat(
        "Age",
        "Since when each process runs.",
        "dtdurations",
        Query("time() - rag_process_start_time_seconds{$T}", "{{process}}"),
        shape=(4, 7),
    ),
    stat(
        "Started and stopped",
        "Starts of the target and of its workers in this time range, and processes that are stopped now: a stopped one "
        "cannot clean up.",
        "short",
        Query("sum(increase(rag_target_restarts_total{$T}[$__range]))", "restarts"),
        Query("sum(increase(rag_process_restarts_total{$T}[$__range]))", "of workers"),
        Query("sum(rag_process_stopped{$T})", "stopped"),
        shape=(4, 7),
    ),
]

SIGHT = [
    table(
        "What can be seen",
        "1 where this can be read of the target. What may not be read has no series, never a zero; rag-sidecar doctor "
        "says why and what would help.",
        [
            Column(
                "Seen",
                "max by (target, capability) (rag_sidecar_attach_capability{$T})",
                "short",
                ((0, "no", MAIN), (1, "yes", GOOD)),
            )
        ],
        shape=(8, 8),
    ),
    listing("The process", "The process behind each target.", "rag_target_info{$T}", ("job",), shape=(8, 8)),
    listing(
        "Its Python", "The Python that each process runs.", "rag_python_info{$T}", ("job", "instance"), shape=(8, 8)
    ),
    listing(
        "Its agents",
        "The agents in its processes, and the allocator that they found.",
        "rag_agent_info{$T}",
        ("job", "instance"),
        shape=(8, 7),
    ),
    with_runbook(
        timeseries(
            "Agents",
            "1 while the agent in a process answers; and errors per second.",
            "short",
            Query("rag_agent_up{$T}", "{{process}}"),
            Query("rate(rag_agent_errors_total{$T}[$__rate_interval])", "{{process}} {{reason}}"),
            shape=(8, 7),
        ),
        "allocator.md#agent-gone",
    ),
    listing(
        "Its cgroup",
        "The version of the memory cgroup of each target.",
        "rag_cgroup_info{$T}",
        ("job", "instance"),
        shape=(4, 7),
    ),
    stat(
        "Doubt about used memory",
        "How far off resident memory can be at most, as the kernel counts it.",
        "bytes",
        Query("rag_memory_error_bytes{$T}", "{{target}}"),
        shape=(4, 7),
    ),
]

ENDPOINT = [
    stat(
        "Debug endpoint",
        "Whether it told its figures when it was last asked, and its own word on how the program is.",
        "short",
        Query("rag_debug_endpoint_up{$T}", "{{target}} answers"),
        Query("rag_endpoint_status{$T} == 1", "{{target}} {{status}}"),
        shape=(6, 7),
    ),
    timeseries(
        "Time to answer",
        "How long it took to ask the endpoint.",
        "s",
        Query("rag_debug_endpoint_request_seconds{$T}", "{{target}}"),
        shape=(6, 7),
    ),
    timeseries(
        "Errors and figures left out",
        "Per second, by reason.",
        "cps",
        Query("rate(rag_debug_endpoint_errors_total{$T}[$__rate_interval])", "{{target}} {{reason}}"),
        Query("rate(rag_endpoint_dropped_values_total{$T}[$__rate_interval])", "{{target}} left out: {{reason}}"),
        shape=(12, 7),
    ),
    bars(
        "What it tells",
        "Numbers of the endpoint's JSON by their path, as they are, whatever their unit.",
        "short",
        Query("rag_endpoint_value{$T}", "{{target}} {{path}}"),
        shape=(12, 8),
    ),
    bars(
        "What its page tells",
        "Samples of the endpoint's page in Prometheus's format, by their name.",
        "short",
        Query("rag_endpoint_sample{$T}", "{{target}} {{metric}}"),
        shape=(12, 8),
    ),
]

BRAKE = [
    stat(
        "Brake",
        "1 while the target would be held, not killed, at its limit (docs/brake.md).",
        "short",
        Query("rag_brake_engaged{$T}", "{{target}}"),
        shape=(6, 6),
        words=((0, "off", MAIN), (1, "on", GOOD)),
    ),
    timeseries(
        "Held",
        "How often per second it was held, by what came of it, and the share of the time that it was held.",
        "short",
        Query("rate(rag_brake_holds_total{$T}[$__rate_interval])", "{{target}} {{outcome}}"),
        Query("rate(rag_brake_held_seconds_total{$T}[$__rate_interval])", "{{target}} share of time"),
        shape=(18, 6),
    ),
]
