"""Acts on branches, tags, versions and aliases: each with the principal who asks."""
