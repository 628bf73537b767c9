"""One module a file format; each reads files into an `Adapter`."""
