"""An adapter's own pages: its tabs, what they gather, and the forms that change it."""
