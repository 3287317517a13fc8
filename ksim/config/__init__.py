"""The configuration: its typed schema, how YAML and command lines become it, and what an error says."""
