"""What a home holds: events, embedding cache, states, versions, aliases, models, bundles and their client. Knows no model."""
