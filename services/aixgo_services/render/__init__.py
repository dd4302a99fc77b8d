"""The one YAML file as what other supervisors read: a Compose file, Kubernetes manifests.

Pure functions of a Config and of what lies beside its file (`aixgo_services.needs`): no file is read or written, no
engine or cluster is asked. `names.py` says what things are called, `fleet.py` which containers there are, `compose.py`
and `kubernetes.py` how each platform writes them down, `mtls.py` and `nats.py` what a cluster can have besides,
`notes.py` what must be there.
"""
