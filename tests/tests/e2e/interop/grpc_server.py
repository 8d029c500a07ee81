"""A gRPC service of grpcio without generated code: messages are bytes. Prints its port, then serves
until it is killed."""

import sys
import threading
from concurrent import futures

import grpc

cancelled = 0
lock = threading.Lock()


def note_cancellation():
    global cancelled
    with lock:
        cancelled += 1


def cancellation(context):
    """An event that the end of the call sets, which is counted."""
    ended = threading.Event()

    def end():
        note_cancellation()
        ended.set()

    # False: the call is over already.
    if not context.add_callback(end):
        end()
    return ended


def unary(request, context):
    for key, value in context.invocation_metadata():
        if key == "x-token":
            context.send_initial_metadata((("x-answer", value),))
    context.set_trailing_metadata((("x-length", str(len(request))),))
    return request


def collect(requests, context):
    return b"".join(requests)


def expand(request, context):
    for byte in request:
        yield bytes([byte]) * 1000


def chat(requests, context):
    for request in requests:
        yield request[::-1]


def slow(request, context):
    # Before the first message: whoever has that may cancel before this is asked for the next one.
    ended = cancellation(context)
    yield b"first"
    ended.wait(60)


def fail(request, context):
    context.set_trailing_metadata((("x-detail", "more"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "not here: \u00e9")


def cancellations(request, context):
    with lock:
        return str(cancelled).encode()


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Expand": grpc.unary_stream_rpc_method_handler(expand),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Slow": grpc.unary_stream_rpc_method_handler(slow),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Cancellations": grpc.unary_unary_rpc_method_handler(cancellations),
}


def main():
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=unlimited)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Service", HANDLERS),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main())
