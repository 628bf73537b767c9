"""The feed of what happened: read, waited for, streamed; only what the reader may see when it is read."""
