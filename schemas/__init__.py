"""The contracts every other package speaks: events, records, states, configuration, errors."""
