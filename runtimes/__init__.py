"""What runtimes do with adapters, measured in the runtimes themselves. Run: make runtimes"""
