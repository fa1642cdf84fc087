"""What a sidecar takes around it, as files for a user's own names: units, configurations, containers, dashboards."""
