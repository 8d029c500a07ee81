"""Every kind of gRPC call by grpcio: grpc_client.py ADDRESS [CA-FILE]. Exits with 0 if all went as
they must."""

import sys
import time

import grpc

BIG = bytes(range(256)) * (8 * 1024 * 1024 // 256)


def connect(address, ca_file):
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.ssl_target_name_override", "proxy.test"),
    ]
    if ca_file is None:
        return grpc.insecure_channel(address, options)
    with open(ca_file, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(address, credentials, options)


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error
    return grpc.StatusCode.OK, None


def main(address, ca_file=None):
    channel = connect(address, ca_file)
    path = "/test.Service/"
    unary = channel.unary_unary(path + "Unary")
    collect = channel.stream_unary(path + "Collect")
    expand = channel.unary_stream(path + "Expand")
    chat = channel.stream_stream(path + "Chat")
    slow = channel.unary_stream(path + "Slow")
    fail = channel.unary_unary(path + "Fail")
    cancellations = channel.unary_unary(path + "Cancellations")

    for size in (0, 1, 100_000):
        expect(unary(BIG[:size], timeout=30) == BIG[:size], f"unary of {size}")
    answer, call = unary.with_call(b"x", timeout=30, metadata=(("x-token", "7"),))
    expect(("x-answer", "7") in [tuple(pair) for pair in call.initial_metadata()], "metadata")
    expect(("x-length", "1") in [tuple(pair) for pair in call.trailing_metadata()], "trailers")

    expect(unary(BIG, timeout=60) == BIG, "8 MiB")
    pieces = [BIG[:100_000]] * 50
    expect(collect(iter(pieces), timeout=60) == b"".join(pieces), "collect")
    expect([len(m) for m in expand(b"abc" * 100, timeout=60)] == [1000] * 300, "expand")
    texts = [f"message {n}".encode() for n in range(200)]
    expect(list(chat(iter(texts), timeout=60)) == [t[::-1] for t in texts], "chat")

    # Ping-pong: each message after the answer to the one before.
    def ping_pong():
        received = []

        def requests():
            for n in range(50):
                while len(received) < n:
                    time.sleep(0.0005)
                yield str(n).encode()

        for answer in chat(requests(), timeout=60):
            received.append(answer)
        return received

    expect(ping_pong() == [str(n).encode()[::-1] for n in range(50)], "ping-pong")

    code, error = code_of(lambda: fail(b"x", timeout=30))
    expect(code == grpc.StatusCode.NOT_FOUND, code)
    expect(error.details() == "not here: \u00e9", error.details())
    expect(("x-detail", "more") in [tuple(p) for p in error.trailing_metadata()], "details")
    code, _ = code_of(lambda: channel.unary_unary(path + "Nothing")(b"x", timeout=30))
    expect(code == grpc.StatusCode.UNIMPLEMENTED, code)

    # Cancelled and expired calls are cancelled at the server as well.
    def count():
        return int(cancellations(b"", timeout=30))

    def await_count(wanted):
        end = time.monotonic() + 30
        while count() < wanted:
            expect(time.monotonic() < end, f"{count()} cancellations, not {wanted}")
            time.sleep(0.005)

    before = count()
    call = slow(b"x", timeout=60)
    expect(next(call) == b"first", "first message")
    call.cancel()
    expect(code_of(lambda: next(call))[0] == grpc.StatusCode.CANCELLED, "cancelled")
    await_count(before + 1)
    code, _ = code_of(lambda: list(slow(b"x", timeout=0.3)))
    expect(code == grpc.StatusCode.DEADLINE_EXCEEDED, code)
    await_count(before + 2)

    futures = [unary.future(str(n).encode(), timeout=60) for n in range(500)]
    expect([f.result() for f in futures] == [str(n).encode() for n in range(500)], "500 at once")
    channel.close()
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
