"""rag-sidecar: a guard beside a RAG process. Imports nothing, so that who needs one part pays for that part only."""

__version__ = "0.1.0"
