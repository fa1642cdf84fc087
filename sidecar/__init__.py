"""rag-sidecar: a guard beside a RAG process. This file imports nothing: whoever needs a part pays for that part only."""

__version__ = "0.1.0"
