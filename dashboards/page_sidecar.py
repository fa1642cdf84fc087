"""The sidecars themselves: do they keep up, what they use, whom they reach."""

from frame import Row
from panels import CRITICAL, GOOD, MAIN, PREVENTIVE, Column, Query, listing, stat, table, timeseries, with_runbook

UID = "rag-memory-sidecar"
TITLE = "Sidecar"
ABOUT = "The sidecars themselves: whether they keep up, what they use, whether what they know and tell gets through."

NOW = [
    with_runbook(
        stat(
            "Sidecars up",
            "Sidecars that answer.",
            "short",
            Query("count(rag_sidecar_build_info{$S}) or vector(0)"),
            steps=((None, CRITICAL), (1, GOOD)),
        ),
        "fleet.md#sidecar-absent-or-down",
    ),
    stat(
        "Slowest tick",
        "How long the last tick took, of the sidecar where it took longest. Above the interval it looks less often "
        "than it should.",
        "s",
        Query("max(rag_sidecar_tick_duration_seconds{$S})"),
        steps=((None, GOOD), (0.5, PREVENTIVE), (1, CRITICAL)),
    ),
    stat(
        "Starts of the desk",
        "How often the guard has started the part that decides, in this time range.",
        "short",
        Query("sum(increase(rag_sidecar_desk_starts_total{$S}[$__range]))"),
        steps=((None, GOOD), (0.5, MAIN)),
    ),
    with_runbook(
        stat(
            "Configuration",
            "Whether the configuration that was read last is in force.",
            "short",
            Query("min(rag_sidecar_config_last_reload_successful{$S})"),
            words=((0, "refused", CRITICAL), (1, "in force", GOOD)),
        ),
        "fleet.md#configuration-refused",
    ),
    with_runbook(
        stat(
            "Journal",
            "Whether alert states and actions are written to disk, so that a restart loses nothing.",
            "short",
            Query("min(rag_sidecar_journal_up{$S})"),
            words=((0, "in memory only", MAIN), (1, "on disk", GOOD)),
        ),
        "fleet.md#journal-down",
    ),
    with_runbook(
        stat(
            "Alerts that wait",
            "Alerts that wait to be posted to an Alertmanager. Empty where none is configured.",
            "short",
            Query("sum(rag_sidecar_notifications_queue_length{$S})"),
            steps=((None, GOOD), (100, MAIN)),
        ),
        "fleet.md#notifications-failing",
    ),
    listing("Versions", "What runs where.", "rag_sidecar_build_info{$S}", shape=(12, 6)),
    stat(
        "What keeps the guards at work",
        "Whether every guard goes before other programs, is killed last and stays in memory when memory is short. "
        "docs/guard.md says what it takes. Only a Prometheus has it.",
        "short",
        Query("min by (kind) (rag_sidecar_guard_protection{$S})", "{{kind}}"),
        shape=(24, 4),
        words=((0, "no", PREVENTIVE), (1, "yes", GOOD)),
    ),
    table(
        "Configuration and restarts",
        "Since when the configuration is in force, and how often the desk was started.",
        [
            Column(
                "In force for",
                "time() - max by (job, instance) (rag_sidecar_config_last_reload_success_timestamp_seconds{$S})",
                "dtdurations",
            ),
            Column("Starts of the desk", "max by (job, instance) (rag_sidecar_desk_starts_total{$S})"),
        ],
        shape=(12, 6),
    ),
]

PACE = [
    timeseries(
        "Ticks",
        "How long a tick took, and how much later than planned it began. Late ticks on an idle sidecar mean that the "
        "machine is short of processors.",
        "s",
        Query("rag_sidecar_tick_duration_seconds{$S}", "{{instance}} took"),
        Query("rag_sidecar_tick_late_seconds{$S}", "{{instance}} late"),
        shape=(8, 7),
    ),
    timeseries(
        "Ticks per second",
        "How often the sidecar looks. Down to zero: it has stopped deciding; the guard still acts.",
        "cps",
        Query("rate(rag_sidecar_ticks_total{$S}[$__rate_interval])", "{{instance}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Collectors",
        "How long each kind of reading took at the last tick.",
        "s",
        Query("rag_sidecar_collector_duration_seconds{$S}", "{{instance}} {{collector}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Readings that failed",
        "Per second, by reason. What may not be read of a target stands on its dashboard.",
        "cps",
        Query(
            "rate(rag_sidecar_collector_errors_total{$S}[$__rate_interval])", "{{instance}} {{collector}}: {{reason}}"
        ),
        shape=(8, 7),
    ),
    timeseries(
        "Events given up",
        "Events of the guard per second that nobody took. Anything but zero is worth a report.",
        "cps",
        Query("rate(rag_sidecar_events_lost_total{$S}[$__rate_interval])", "{{instance}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Docker engine",
        "1 while it answers. Empty where no target is found through Docker.",
        "short",
        Query("rag_sidecar_docker_up{$S}", "{{instance}}"),
        shape=(8, 7),
    ),
]

RULES = [
    table(
        "Groups of rules",
        "Each group: how many rules, how far its evaluations lie apart, how long the last one took and when it was. "
        "Only a Prometheus has them.",
        [
            Column("Rules", "max by (instance, file, group) (rag_sidecar_rule_group_rules{$S})"),
            Column("Every", "max by (instance, file, group) (rag_sidecar_rule_group_interval_seconds{$S})", "s"),
            Column("Took", "max by (instance, file, group) (rag_sidecar_rule_group_last_duration_seconds{$S})", "s"),
            Column(
                "Ago",
                "time() - max by (instance, file, group) "
                "(rag_sidecar_rule_group_last_evaluation_timestamp_seconds{$S})",
                "s",
            ),
            Column("Samples", "max by (instance, file, group) (rag_sidecar_rule_group_last_evaluation_samples{$S})"),
        ],
        shape=(24, 8),
    ),
    timeseries(
        "Evaluations",
        "Evaluations of rules per second, and evaluations of groups.",
        "cps",
        Query(
            "sum by (instance) (rate(rag_sidecar_rule_evaluations_total{$S}[$__rate_interval]))", "{{instance}} rules"
        ),
        Query(
            "sum by (instance) (rate(rag_sidecar_rule_group_iterations_total{$S}[$__rate_interval]))",
            "{{instance}} groups",
        ),
        shape=(12, 7),
    ),
    timeseries(
        "Failed and missed",
        "Evaluations per second that failed, and groups that were skipped as late.",
        "cps",
        Query(
            "sum by (instance, group) (rate(rag_sidecar_rule_evaluation_failures_total{$S}[$__rate_interval]))",
            "{{instance}} {{group}} failed",
        ),
        Query(
            "sum by (instance, group) (rate(rag_sidecar_rule_group_iterations_missed_total{$S}[$__rate_interval]))",
            "{{instance}} {{group}} missed",
        ),
        shape=(12, 7),
    ),
]

KEPT = [
    timeseries(
        "Memory of the store",
        "What the samples of the last hour take. Over its budget, series that no rule reads shrink first.",
        "bytes",
        Query("rag_sidecar_store_bytes{$S}", "{{instance}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Series", "Series in the store.", "short", Query("rag_sidecar_store_series{$S}", "{{instance}}"), shape=(8, 7)
    ),
    timeseries(
        "Samples not kept",
        "Per second: out of order or twice, given up early, or of series that the store had no room for. The last are "
        "not watched: give the store fewer targets or fewer figures.",
        "cps",
        Query("rate(rag_sidecar_store_dropped_samples_total{$S}[$__rate_interval])", "{{instance}} dropped"),
        Query("rate(rag_sidecar_store_shrunk_total{$S}[$__rate_interval])", "{{instance}} given up early"),
        Query("rate(rag_sidecar_store_refused_samples_total{$S}[$__rate_interval])", "{{instance}} refused"),
        shape=(8, 7),
    ),
    with_runbook(
        timeseries(
            "Journal",
            "Writes per second, failures by reason, and rows that were given up.",
            "cps",
            Query("rate(rag_sidecar_journal_writes_total{$S}[$__rate_interval])", "{{instance}} writes"),
            Query("rate(rag_sidecar_journal_failures_total{$S}[$__rate_interval])", "{{instance}} failed: {{reason}}"),
            Query("rate(rag_sidecar_journal_lost_total{$S}[$__rate_interval])", "{{instance}} lost: {{reason}}"),
        ),
        "fleet.md#journal-down",
    ),
    timeseries(
        "The desk's own memory",
        "Resident memory of the part that decides, as every Prometheus client tells of itself. Only a Prometheus has "
        "it: a sidecar as the data source shows nothing here.",
        "bytes",
        Query("process_resident_memory_bytes{$S}", "{{instance}} resident"),
    ),
    timeseries(
        "The desk's own processor time",
        "Cores that the part that decides uses. Only a Prometheus has it.",
        "short",
        Query("rate(process_cpu_seconds_total{$S}[$__rate_interval])", "{{instance}}"),
    ),
    timeseries(
        "The desk's open files",
        "File descriptors, and how many there may be. Only a Prometheus has them.",
        "short",
        Query("process_open_fds{$S}", "{{instance}}"),
    ),
]

TOLD = [
    with_runbook(
        timeseries(
            "Alerts posted",
            "Per second and Alertmanager: accepted, failed and tried again, refused.",
            "cps",
            Query("rate(rag_sidecar_notifications_total{$S}[$__rate_interval])", "{{alertmanager}} {{outcome}}"),
            shape=(8, 7),
        ),
        "fleet.md#notifications-failing",
    ),
    timeseries(
        "Waiting",
        "Alerts that wait for each Alertmanager.",
        "short",
        Query("rag_sidecar_notifications_queue_length{$S}", "{{alertmanager}}"),
        shape=(8, 7),
    ),
    timeseries(
        "Given up",
        "Alerts per second that were given up, by reason.",
        "cps",
        Query("rate(rag_sidecar_notifications_dropped_total{$S}[$__rate_interval])", "{{alertmanager}} {{reason}}"),
        shape=(8, 7),
    ),
    table(
        "Last success",
        "When each Alertmanager last accepted alerts.",
        [
            Column(
                "Ago",
                "time() - max by (instance, alertmanager) "
                "(rag_sidecar_notifications_last_success_timestamp_seconds{$S})",
                "dtdurations",
            )
        ],
        shape=(24, 5),
    ),
]

ROWS = [
    Row("Are they well?", NOW),
    Row("Do they keep up?", PACE),
    Row("Rules", RULES, folded=True),
    Row("What they keep and use", KEPT, folded=True),
    Row("Whom they tell", TOLD, folded=True),
]
