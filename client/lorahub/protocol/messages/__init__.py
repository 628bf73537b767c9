"""What a registry answers: one type for each body, by subject. Its routes return them and the SDK reads them.

`message.py` says what a message is, and how one is read and written.
"""
