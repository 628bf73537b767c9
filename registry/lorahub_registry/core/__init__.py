"""What every feature stands on: accounts, quotas, blobs, revisions and repositories."""
