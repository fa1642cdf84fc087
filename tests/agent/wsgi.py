"""A WSGI app that starts the agent where it is imported: before gunicorn --preload forks, or in each worker."""

import os
import sys

sys.path.insert(0, os.environ["RAG_SIDECAR_AGENT_DIR"])

import agent

agent.start()


def application(environ, start_response):
    """Count, and tell the pid."""
    agent.count_request()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
