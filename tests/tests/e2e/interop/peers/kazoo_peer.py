"""A client of ZooKeeper that is not ours: kazoo, doing what it is told.

Each line of standard input is a command, `name key=value ...`, answered with one line of JSON,
{"value": ...} or {"error": ...}. The end of the input is the end of the program, and of its session.
"""

import json
import sys

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

client = None


def connect(address, digest=None):
    global client
    auth = [("digest", digest)] if digest else None
    client = KazooClient(hosts=address, timeout=20, auth_data=auth)
    client.start(timeout=20)
    return client.client_id[0]


def create(path, ephemeral="0"):
    client.create(path, b"", ephemeral=ephemeral == "1", makepath=True)
    return path


def delete(path):
    client.delete(path)
    return path


def children(path):
    """Their names; null if there is no such node."""
    try:
        return sorted(client.get_children(path))
    except NoNodeError:
        return None


def node(path):
    """Owner, data and access of a node; null if there is none."""
    try:
        data, stat = client.get(path)
        acls, _ = client.get_acls(path)
    except NoNodeError:  # Or no longer, when it is being replaced.
        return None
    return {
        "owner": stat.ephemeralOwner,
        "data": data.hex(),
        "acl": [[acl.perms, acl.id.scheme] for acl in acls],
    }


COMMANDS = {one.__name__: one for one in (connect, create, delete, children, node)}


def main():
    for line in sys.stdin:
        name, *words = line.split()
        try:
            arguments = dict(word.split("=", 1) for word in words)
            answer = {"value": COMMANDS[name](**arguments)}
        except Exception as error:  # Whatever it is, it is the answer.
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


main()
