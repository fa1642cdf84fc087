"""Who to tell: every Alertmanager gets every alert, from a queue and a loop of its own."""
