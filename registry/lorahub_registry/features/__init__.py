"""What the registry does, one folder for each thing: routes, service, queries."""
