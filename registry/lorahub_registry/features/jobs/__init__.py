"""Who runs jobs, and which: workers' heartbeats, taking over from dead ones, the operator's view."""
