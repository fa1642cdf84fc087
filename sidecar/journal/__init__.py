"""What must outlive the desk, in a file: alerts as they were, so that a restart is no news to anybody."""
