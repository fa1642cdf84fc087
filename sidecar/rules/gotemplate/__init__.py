"""Go's text/template language: source text to tree to text. Knows nothing of Prometheus (see rules/template.py)."""
