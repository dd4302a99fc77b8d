"""The one YAML file and the AIXGO_* settings, as frozen, validated objects."""
