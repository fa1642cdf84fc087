"""This folder stands first on the PYTHONPATH of a program that `rag-sidecar run -- COMMAND` starts."""
