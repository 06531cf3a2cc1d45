"""The command line ``sd2-clip``: the one place that puts all the parts together."""


def main() -> int:
    raise SystemExit("not built yet")
