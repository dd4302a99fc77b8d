"""What a configuration needs around it, wherever it runs: extras, files beside it, and one place for what it keeps.

`models.py` says which models an agent names, `extras.py` which optional parts that takes, `secrets.py` which keys,
`beside.py` reads what lies beside the YAML, `keeping.py` tells what an agent keeps and whether replicas may share it.
Nothing here starts, calls or writes anything. Above: `aixgo doctor` and `aixgo render`, which must not differ about it.
"""
