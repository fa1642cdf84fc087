"""What was done about it: outcomes, what is held back and why, how quick, what it cost."""

from frame import Row
from page_overview import LAST_CLEANUP
from panels import (
    CRITICAL,
    GOOD,
    LINES,
    MAIN,
    PREVENTIVE,
    Column,
    Query,
    outcomes,
    stat,
    table,
    timeline,
    timeseries,
    with_runbook,
)

UID = "rag-memory-actions"
TITLE = "Actions"
ABOUT = "Alerts, cleanups and what they brought; what is held back, and why; how quick it went and what it cost."

ALERT_WORDS = ((1, "pending", PREVENTIVE), (2, "firing", CRITICAL))
HELPFUL = 'sum(rag_cleanups_total{outcome=~"effective|partial",$T}) or vector(0)'
TRIED = 'sum(rag_cleanups_total{outcome=~"effective|partial|ineffective|unknown|undelivered|interrupted",$T})'
DELIVERIES = "sum by (le) (rate(rag_cleanup_delivery_seconds_bucket{$T}[$__rate_interval]))"

HELPED = [
    outcomes(
        stat(
            "Cleanups by outcome",
            "How cleanups ended since the sidecars started, counted exactly. What each outcome means stands in "
            "docs/metrics.md.",
            "short",
            Query("sum by (outcome) (rag_cleanups_total{$T})", "{{outcome}}"),
            shape=(8, 4),
        )
    ),
    with_runbook(
        stat(
            "Helped",
            "Share of the cleanups that were tried and freed something that counts, since the sidecars started.",
            "percentunit",
            Query(f"({HELPFUL}) / {TRIED}"),
            steps=((None, CRITICAL), (0.5, MAIN), (0.8, GOOD)),
        ),
        "fleet.md#cleanups-do-not-help",
    ),
    stat(
        "Freed in this time",
        "What all cleanups freed in the time range of the dashboard.",
        "bytes",
        Query("sum(increase(rag_cleanup_freed_bytes_total{$T}[$__range]))"),
    ),
    stat(
        "Came back",
        "Cleanups whose freed memory was in use again within a minute, in this time range.",
        "short",
        Query("sum(increase(rag_cleanup_rebounds_total{$T}[$__range]))"),
        steps=((None, GOOD), (0.5, MAIN)),
    ),
    with_runbook(
        stat(
            "Parked",
            "Targets for which nothing more is tried until the incident ends.",
            "short",
            Query("sum(rag_actions_parked{$T})"),
            steps=((None, GOOD), (1, CRITICAL)),
        ),
        "fleet.md#actions-parked",
    ),
    table(
        "Cleanups",
        "All cleanups since the sidecars started, counted: how strong, by which way, who asked, how they ended. Single "
        "ones with their reasons are in GET /api/v1/actions and on the status page of the sidecar.",
        [Column("Cleanups", "sum by (instance, target, cleanup, channel, trigger, outcome) (rag_cleanups_total{$T})")],
        shape=(14, 7),
    ),
    table(
        "Last cleanup",
        "The last cleanup of each target: when it was delivered, what it freed and how long it took.",
        [
            Column("Ago", f"max by (instance, target) ({LAST_CLEANUP})", "dtdurations"),
            Column("Freed", "max by (instance, target) (rag_cleanup_last_freed_bytes{$T})", "bytes"),
            Column("Expected", "max by (instance, target) (rag_cleanup_predicted_bytes{$T})", "bytes"),
            Column("Took", "max by (instance, target) (rag_cleanup_duration_seconds{$T})", "s"),
            Column("Paused", "max by (instance, target) (rag_cleanup_pause_seconds{$T})", "s"),
        ],
        shape=(10, 7),
    ),
]

COURSE = [
    timeseries(
        "Used memory and its lines",
        "Alerts are tinted, cleanups and starts are marked: after a cleanup that helped the line falls.",
        "bytes",
        Query("rag_memory_used_bytes{$T}", "{{target}} used"),
        Query("rag_memory_threshold_bytes{$T}", "{{target}} {{level}} line"),
        styles=LINES,
        shape=(24, 8),
    ),
    timeline(
        "Alerts",
        "Each alert of each target: pending while its `for` has not passed, then firing.",
        Query(
            'max by (target, alertname) (ALERTS{alertstate="pending",$T} or 2 * ALERTS{alertstate="firing",$T})',
            "{{target}} {{alertname}}",
        ),
        ALERT_WORDS,
        shape=(12, 7),
    ),
    timeline(
        "Incidents",
        "An incident is open while a target needs cleaning up, or did lately.",
        Query("rag_incident_open{$T}", "{{target}}"),
        ((0, "none", GOOD), (1, "open", MAIN)),
        shape=(12, 7),
    ),
    timeline(
        "Why nothing is done now",
        "The reason why a condition that is true leads to no cleanup at this moment. Each is explained in "
        "docs/metrics.md. Empty while no line is crossed.",
        Query("rag_action_held{$T} == 1", "{{target}} {{reason}}"),
        ((1, "held", PREVENTIVE),),
        shape=(12, 7),
    ),
    timeseries(
        "Channels that could not be used",
        "How often per second a channel was refused, by reason.",
        "cps",
        Query(
            "sum by (target, cleanup, channel, reason) (rate(rag_cleanup_refused_total{$T}[$__rate_interval]))",
            "{{target}} {{cleanup}} {{channel}}: {{reason}}",
        ),
        shape=(12, 7),
    ),
]

COST = [
    timeseries(
        "From the crossing to the delivery",
        "Median and 99th percentile of the time from the crossing of a line until the cleanup was delivered. Only a "
        "time with cleanups has values.",
        "s",
        Query(f"histogram_quantile(0.5, {DELIVERIES})", "median"),
        Query(f"histogram_quantile(0.99, {DELIVERIES})", "99 %"),
        shape=(8, 7),
    ),
    stat(
        "Delivered within 10 ms",
        "Share of all deliveries since the sidecars started.",
        "percentunit",
        Query('sum(rag_cleanup_delivery_seconds_bucket{le="0.01",$T}) / sum(rag_cleanup_delivery_seconds_count{$T})'),
        shape=(4, 7),
        steps=((None, MAIN), (0.9, PREVENTIVE), (0.99, GOOD)),
    ),
    timeseries(
        "Freed by the last cleanup",
        "What the last cleanup freed, and what the agent expected.",
        "bytes",
        Query("rag_cleanup_last_freed_bytes{$T}", "{{target}} freed"),
        Query("rag_cleanup_predicted_bytes{$T}", "{{target}} expected"),
        shape=(6, 7),
    ),
    timeseries(
        "What the last cleanup took",
        "Until the target answered; and how long a process did nothing else.",
        "s",
        Query("rag_cleanup_duration_seconds{$T}", "{{target}} took"),
        Query("rag_cleanup_pause_seconds{$T}", "{{target}} paused"),
        shape=(6, 7),
    ),
]

ROWS = [Row("Did the cleanups help?", HELPED), Row("Course of events", COURSE), Row("Speed and cost", COST)]
