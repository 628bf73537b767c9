"""For who runs the registry: probes, maintenance, jobs, backups, and the seals of the audit log."""
