"""What the registry does, one folder for each thing. Same file names in each: routes, service, queries."""
