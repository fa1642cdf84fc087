"""Ways to get the agent into a program: at its start, as a file of its own, into a process that runs already."""
