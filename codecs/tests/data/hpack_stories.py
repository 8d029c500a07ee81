#!/usr/bin/env python3
"""Stories of header blocks for codecs/tests/hpack_stories.rs, told by the PyPI package hpack.

    hpack_stories.py generate SEED   writes stories that the package has encoded
    hpack_stories.py check           reads stories and decodes them with the package

The stories beside this file were written by `generate 1` with hpack 4.1.0.

A story is one direction of a connection:

    story NAME           its start: fresh tables
    table BYTES          SETTINGS_HEADER_TABLE_SIZE of the decoding side, from the next block on
    + NAME "VALUE"       a field of the next block; octets other than visible ASCII and SP, and the
                         backslash, are written \\xNN
    ! NAME "VALUE"       a field that is never indexed
    = HEX                the block with the fields above
"""

import random
import re
import signal
import sys

import hpack

# Whoever reads or writes the other end may hang; this program must not.
DEADLINE_S = 60

BLOCKS = 6

# What a decoding side allows at most in these stories.
TABLE_BYTES_MAX = 65536


def main(arguments):
    signal.alarm(DEADLINE_S)
    if arguments[:1] == ["generate"] and len(arguments) == 2:
        generate(random.Random(int(arguments[1])))
    elif arguments == ["check"]:
        check(sys.stdin)
    else:
        sys.exit(__doc__)


def generate(rng):
    for name, message in MESSAGES:
        for huffman in (True, False):
            tell(rng, f"{name}-{'huffman' if huffman else 'plain'}", message, huffman, sizes=())
    for number in range(4):
        sizes = (0, 64, 200, 1000, 4096, 5000, TABLE_BYTES_MAX)
        tell(rng, f"sizes-{number}", any_message, rng.random() < 0.5, sizes)


def tell(rng, name, message, huffman, sizes):
    encoder = hpack.Encoder()
    print(f"story {name}")
    for number in range(BLOCKS):
        if sizes and rng.random() < 0.6:
            # Growing: the package tells every size on the way, but a larger one is above the limit.
            for size in sorted(rng.sample(sizes, rng.randint(1, 2))):
                encoder.header_table_size = size
                print(f"table {size}")
        fields = message(rng, number)
        for field in fields:
            kind = "+" if field.indexable else "!"
            print(f'{kind} {field[0].decode("ascii")} "{escape(field[1])}"')
        print(f"= {encoder.encode(fields, huffman).hex()}")


def check(lines):
    decoder = None
    expected = []
    blocks = 0
    for number, line in enumerate(lines, 1):
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind == "story":
            decoder = hpack.Decoder(max_header_list_size=1 << 20)
            decoder.max_allowed_table_size = 4096
        elif kind == "table":
            decoder.max_allowed_table_size = int(rest)
        elif kind in "+!":
            name, _, value = rest.partition(" ")
            expected.append((name.encode("ascii"), unescape(value[1:-1]), kind == "!"))
        elif kind == "=":
            decoded = decoder.decode(bytes.fromhex(rest), raw=True)
            got = [(field[0], field[1], not field.indexable) for field in decoded]
            if got != expected:
                sys.exit(f"line {number}: decoded {got}, not {expected}")
            expected = []
            blocks += 1
    print(f"{blocks} blocks agree")


def escape(value):
    plain = lambda octet: 0x20 <= octet <= 0x7E and octet != 0x5C
    return "".join(chr(octet) if plain(octet) else f"\\x{octet:02x}" for octet in value)


def unescape(text):
    octets = re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)
    return octets.encode("latin-1")


def field(name, value, never=False):
    kind = hpack.NeverIndexedHeaderTuple if never else hpack.HeaderTuple
    value = value if isinstance(value, bytes) else value.encode("ascii")
    return kind(name.encode("ascii"), value)


def browser(rng, number):
    path = rng.choice(["/", "/index.html", "/style.css", f"/item/{rng.randrange(1000)}?q=a%20b"])
    return [
        field(":method", rng.choice(["GET", "GET", "POST", "HEAD"])),
        field(":scheme", "https"),
        field(":authority", "www.bank.example"),
        field(":path", path),
        field("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        field("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
        field("accept-language", "de,en;q=0.7"),
        field("accept-encoding", rng.choice(["gzip, deflate", "gzip, deflate, br, zstd"])),
        field("cookie", "session=" + "".join(rng.choices("0123456789abcdef", k=32)), never=True),
        field("x-number", str(number)),
    ]


def answer(rng, number):
    return [
        field(":status", rng.choice(["200", "204", "206", "304", "400", "404", "500", "302", "503"])),
        field("date", f"Sat, 21 Nov 2026 10:00:{number:02} GMT"),
        field("content-type", rng.choice(["text/html; charset=utf-8", "application/json"])),
        field("content-length", str(rng.randrange(100_000))),
        field("cache-control", rng.choice(["no-store", "max-age=3600, private"])),
        field("etag", f'"{rng.getrandbits(64):016x}"'),
        field("set-cookie", f"id={rng.getrandbits(48):x}; Secure; HttpOnly", never=True),
        field("server", "example"),
    ]


def grpc(rng, number):
    return [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", rng.choice(["/bank.Accounts/Get", "/bank.Accounts/List"])),
        field(":authority", "accounts.bank.example:8080"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
        field("grpc-timeout", f"{rng.randrange(1, 1000)}m"),
        field("user-agent", "grpc-go/1.64.0"),
        field("authorization", f"Bearer {rng.getrandbits(256):064x}", never=True),
        field("traceparent", f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01"),
    ]


def octets(rng, number):
    """Values with every octet that a message may carry, and names with every character of a token."""
    every = bytes(octet for octet in range(256) if octet == 9 or 0x20 <= octet and octet != 0x7F)
    shuffled = bytes(rng.sample(every, len(every)))
    token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
    return [
        field("x-every", b"<" + shuffled + b">"),
        field("".join(rng.sample(token, rng.randint(1, len(token)))), f"{number}"),
        field("x-empty", ""),
        field("x-long", "".join(rng.choices("abcdefghij /", k=rng.randrange(300))).strip()),
    ]


def any_message(rng, number):
    return rng.choice(MESSAGES)[1](rng, number)


MESSAGES = [("browser", browser), ("answer", answer), ("grpc", grpc), ("octets", octets)]

if __name__ == "__main__":
    main(sys.argv[1:])
