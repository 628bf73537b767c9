"""`s3_rings.py FOLDER KIND=PORT…`: where a Swift of one device keeps things.

A process of its own: importing Swift puts eventlet's sockets and threads in the place of Python's.
"""

import sys
from pathlib import Path

from swift.common.ring import RingBuilder


def write(folder: Path, kind: str, port: int) -> None:
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    device = {"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d1"}
    builder.add_dev({**device, "replication_ip": "127.0.0.1", "replication_port": port, "weight": 1.0, "meta": ""})
    builder.rebalance()
    builder.get_ring().save(str(folder / f"{kind}.ring.gz"))


if __name__ == "__main__":
    for given in sys.argv[2:]:
        kind, _, port = given.partition("=")
        write(Path(sys.argv[1]), kind, int(port))
